//! The served `.vmx`: the VM's own, line by line, with its paths leading to the files beside it.

/// Keys that lead to files which are not served, or to folders of the host the VM ran on.
const DROPPED: [&str; 8] = [
    "checkpoint.vmstate",
    "checkpoint.vmstate.readonly",
    "migrate.hostlog",
    "sched.swap.derivedname",
    "vmxstats.filename",
    "workingdir",
    "snapshot.redonotwithparent",
    "suspend.directory",
];

/// Rewrites `text`: `disks` gives, for `scsi0:0`, the name of the served descriptor; `nvram` the served file.
/// Bytes are kept as they are, whatever their encoding; names put in are plain ASCII or UTF-8.
pub(super) fn rewrite(text: &[u8], disks: &[(String, String)], nvram: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&b| b == b'\n') {
        let key = key_of(line);
        if DROPPED.contains(&key.as_str()) {
            continue;
        }
        let node = key.strip_suffix(".filename");
        let disk = node.and_then(|node| disks.iter().find(|(known, _)| known.eq_ignore_ascii_case(node)));
        let value = match disk {
            Some((_, name)) => Some(name.as_str()),
            None if key == "nvram" => nvram,
            None => None,
        };
        match value {
            Some(value) => out.extend(with_value(line, value)),
            None => out.extend_from_slice(line),
        }
    }
    out
}

/// The value of `key`, when it has one.
pub(super) fn get(text: &[u8], key: &str) -> Option<String> {
    let line = text.split(|&b| b == b'\n').find(|line| key_of(line) == key)?;
    let line = String::from_utf8_lossy(line);
    let (_, value) = line.split_once('=')?;
    Some(value.trim().trim_matches('"').to_owned())
}

fn key_of(line: &[u8]) -> String {
    let end = line.iter().position(|&b| b == b'=').unwrap_or(0);
    String::from_utf8_lossy(&line[..end]).trim().to_ascii_lowercase()
}

fn with_value(line: &[u8], value: &str) -> Vec<u8> {
    let end = line.iter().position(|&b| b == b'=').unwrap_or(0);
    let newline: &[u8] = if line.ends_with(b"\r\n") { b"\r\n" } else { b"\n" };
    [&line[..end], b"= \"", value.as_bytes(), b"\"", newline].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_the_served_files_and_the_rest_stays() {
        let text =
            b".encoding = \"UTF-8\"\r\nDisplayName = \"a\\b\"\r\nSCSI0:0.fileName = \"/vmfs/x/a-000002.vmdk\"\r\n\
            nvram = \"/vmfs/x/a.nvram\"\r\nsched.swap.derivedName = \"/vmfs/x/a.vswp\"\r\nide0:0.fileName = \"cd.iso\"";
        let disks = [("scsi0:0".to_owned(), "a.vmdk".to_owned())];
        let out = String::from_utf8(rewrite(text, &disks, Some("a.nvram"))).unwrap();
        assert_eq!(
            out,
            ".encoding = \"UTF-8\"\r\nDisplayName = \"a\\b\"\r\nSCSI0:0.fileName = \"a.vmdk\"\r\n\
             nvram = \"a.nvram\"\r\nide0:0.fileName = \"cd.iso\""
        );
        assert_eq!(get(text, "displayname").as_deref(), Some("a\\b"));
    }
}
