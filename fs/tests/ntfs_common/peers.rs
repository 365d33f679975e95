//! Other readers of NTFS, asked by `fixtures/ntfs/peers.py`, and our own answers in the same form.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use vcb_fs::{FileId, FileType, Filesystem};

use super::made::SCRIPTS;
use super::{digest, entries};

/// Answers by what they are about: content of record N, stream of record N, or a path. The value is what was
/// found: size and hash, the record of a path, or `e` and why the reader refuses.
pub type Answers = BTreeMap<String, String>;

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// UTF-16LE of a name in WTF-8.
fn utf16(name: &[u8]) -> String {
    let mut units = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest.utf8_chunks().next().unwrap();
        units.extend(text.valid().encode_utf16());
        rest = &rest[text.valid().len()..];
        // What is no UTF-8 is an unpaired surrogate in three bytes.
        if let [a, b, c, tail @ ..] = rest {
            units.push(u16::from(a & 0xF) << 12 | u16::from(b & 0x3F) << 6 | u16::from(c & 0x3F));
            rest = tail;
        }
    }
    hex(&units.into_iter().flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
}

/// Everything on the volume.
pub fn ours(fs: &dyn Filesystem) -> Answers {
    let mut answers = Answers::new();
    let mut seen = BTreeSet::new();
    let mut folders = vec![(fs.root(), Vec::new())];
    while let Some((folder, path)) = folders.pop() {
        for entry in entries(fs, folder, 500).unwrap() {
            let path = if path.is_empty() { entry.name } else { [&path[..], b"/", &entry.name].concat() };
            let record = entry.id.0 & 0xFFFF_FFFF_FFFF;
            answers.insert(format!("p\t{}", hex(&path)), record.to_string());
            let kind = fs.attr(entry.id).unwrap().kind;
            if kind == FileType::Dir {
                folders.push((entry.id, path));
            }
            if !seen.insert(entry.id) {
                continue;
            }
            if kind == FileType::File {
                answers.insert(format!("f\t{record}"), content(fs, entry.id, None));
            }
            for stream in fs.streams(entry.id).unwrap() {
                let key = format!("s\t{record}\t{}", utf16(&stream.name));
                answers.insert(key, content(fs, entry.id, Some(&stream.name)));
            }
        }
    }
    answers
}

fn content(fs: &dyn Filesystem, id: FileId, stream: Option<&[u8]>) -> String {
    match fs.open(id, stream).and_then(|block| Ok(format!("{}\t{}", block.len(), digest(&block)?))) {
        Ok(found) => found,
        Err(err) => format!("e\t{}", err.kind()),
    }
}

/// What `reader` (of peers.py) finds at `place`, about the files and streams of `asked`. `None`, with the reason
/// printed, where it is not installed.
pub fn ask(reader: &str, place: &Path, asked: &Answers) -> Option<Answers> {
    let installed = match reader {
        "sleuthkit" => ["istat", "icat"].into_iter().all(vcb_fixtures::need_tool),
        "libfsntfs" => {
            let found = Command::new("python3").args(["-c", "import pyfsntfs"]).stderr(Stdio::null()).status();
            let found = found.is_ok_and(|status| status.success());
            if !found {
                vcb_fixtures::skip("no Python module pyfsntfs");
            }
            found
        }
        _ => true,
    };
    if !installed {
        return None;
    }
    let mut child = Command::new("python3")
        .arg(format!("{SCRIPTS}/peers.py"))
        .arg(reader)
        .arg(place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let questions: String = asked.iter().map(|(key, value)| format!("{key}\t{value}\n")).collect();
    let writer = std::thread::spawn(move || drop(stdin.write_all(questions.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "peers.py {reader}");
    let mut answers = Answers::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let (key, value) = match fields[..] {
            ["p", record, path] => (format!("p\t{path}"), record.to_owned()),
            ["f", record, size, hash] => (format!("f\t{record}"), format!("{size}\t{hash}")),
            ["s", record, name, size, hash] => (format!("s\t{record}\t{name}"), format!("{size}\t{hash}")),
            ["e", record, why] => (format!("f\t{record}"), format!("e\t{why}")),
            ["e", record, name, why] => (format!("s\t{record}\t{name}"), format!("e\t{why}")),
            _ => panic!("{line}"),
        };
        answers.insert(key, value);
    }
    Some(answers)
}
