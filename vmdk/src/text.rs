//! The text files beside a disk (descriptor, .vmx, .vmsd): character sets, lines, `key = "value"`.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use vcb_block::{Error, Result};

/// Decodes `bytes` up to their first NUL, which is where padded and embedded texts end.
///
/// The text itself names its character set in a line `encoding = "…"` (`.encoding` in .vmx and .vmsd,
/// `ddb.encoding` in some descriptors). Without one it is UTF-8 if it can be, else windows-1252.
///
/// # Errors
/// An unknown character set is unsupported unless all bytes are ASCII; bytes that are wrong both in the
/// named set and in UTF-8 are corrupt. File names must not be guessed.
pub(crate) fn decode(layer: &'static str, bytes: &[u8]) -> Result<String> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let bytes = bytes[..end].strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes[..end]);
    if bytes.is_ascii() {
        return Ok(String::from_utf8_lossy(bytes).into_owned());
    }
    let Some(label) = declared(bytes) else {
        return match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Ok(WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned()),
        };
    };
    let encoding =
        by_name(&label).ok_or_else(|| Error::unsupported(layer, format!("unknown character set '{label}'")))?;
    if let Some(text) = encoding.decode_without_bom_handling_and_without_replacement(bytes) {
        return Ok(text.into_owned());
    }
    // Tools that rewrite a file in UTF-8 do not always rewrite the line that says so.
    let text = std::str::from_utf8(bytes).map_err(|err| {
        Error::corrupt(layer, format!("the text is neither {label} nor UTF-8")).at(err.valid_up_to() as u64)
    })?;
    Ok(text.to_owned())
}

/// The character set that the text declares, from the bytes alone: keys and names of sets are ASCII in
/// every set that VMware writes.
fn declared(bytes: &[u8]) -> Option<String> {
    let mut weaker = None;
    for line in bytes.split(|&byte| byte == b'\n' || byte == b'\r') {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let Some((key, value)) = key_value(line) else { continue };
        match key.to_ascii_lowercase().as_str() {
            "encoding" | ".encoding" => return Some(value.to_owned()),
            "ddb.encoding" => weaker = Some(value.to_owned()),
            _ => {}
        }
    }
    weaker
}

/// Finds a character set by the names in use: WHATWG labels and ICU converter names such as
/// `windows-949-2000`, which VMware's libraries write.
pub(crate) fn by_name(name: &str) -> Option<&'static Encoding> {
    let name = name.trim().to_ascii_lowercase();
    if let Some(encoding) = Encoding::for_label(name.as_bytes()) {
        return Some(encoding);
    }
    // ICU appends a year (`windows-936-2000`) or a table and a year (`ibm-943_P15A-2003`).
    let stem = name.split('_').next().unwrap_or(&name);
    let stem = match stem.rsplit_once('-') {
        Some((head, year)) if head.contains('-') && year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit()) => head,
        _ => stem,
    };
    let label = match stem {
        "windows-932" | "cp932" | "ibm-943" | "ibm-942" => "shift_jis",
        "windows-936" | "cp936" | "ibm-1386" => "gbk",
        "ibm-1392" | "gb18030" => "gb18030",
        "windows-949" | "cp949" | "ibm-1363" | "ibm-970" => "euc-kr",
        "windows-950" | "cp950" | "ibm-1375" | "ibm-1373" => "big5",
        "ibm-5346" => "windows-1250",
        "ibm-5347" => "windows-1251",
        "ibm-5348" => "windows-1252",
        "ibm-5349" => "windows-1253",
        "ibm-5350" => "windows-1254",
        "utf8" => "utf-8",
        other => other,
    };
    Encoding::for_label(label.as_bytes())
}

/// Lines of a text, whatever ends them, trimmed, with their numbers from 1.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split('\n')
        .flat_map(|line| line.trim_end_matches('\r').split('\r'))
        .map(str::trim)
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

/// Splits `key = "value"`; blanks and quotes are optional. `None` for a line without `=` or without a key.
pub(crate) fn key_value(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    if key.is_empty() || key.starts_with('#') {
        return None;
    }
    Some((key, unquote(value.trim())))
}

/// The text between the first and the last quote, or all of it when it does not begin with one.
fn unquote(value: &str) -> &str {
    match value.strip_prefix('"') {
        Some(rest) => rest.rfind('"').map_or(rest, |end| &rest[..end]),
        None => value,
    }
}

/// A `.vmx` or `.vmsd`: keys that ignore case, with values unescaped. The last of equal keys wins, as it
/// does in VMware's own products.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dictionary {
    /// Key as written and value, in order of first appearance.
    entries: Vec<(String, String)>,
    by_key: std::collections::HashMap<String, usize>,
}

impl Dictionary {
    /// # Errors
    /// As [`decode`].
    pub(crate) fn parse(layer: &'static str, bytes: &[u8]) -> Result<Self> {
        let mut dictionary = Dictionary::default();
        let text = decode(layer, bytes)?;
        let encoding = declared(text.as_bytes()).and_then(|name| by_name(&name)).unwrap_or(UTF_8);
        for (_, line) in lines(&text) {
            if let Some((key, value)) = key_value(line) {
                dictionary.insert(key, unescape(value, encoding));
            }
        }
        Ok(dictionary)
    }

    fn insert(&mut self, key: &str, value: String) {
        let next = self.entries.len();
        let index = *self.by_key.entry(key.to_ascii_lowercase()).or_insert(next);
        if index == next {
            self.entries.push((key.to_owned(), value));
        } else {
            self.entries[index].1 = value;
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.by_key.get(&key.to_ascii_lowercase()).map(|&index| self.entries[index].1.as_str())
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Replaces `|XX` (two hexadecimal digits: one byte in the text's character set), the escape of .vmx and
/// .vmsd values for quotes, newlines and the bar itself (observed).
fn unescape(value: &str, encoding: &'static Encoding) -> String {
    if !value.contains('|') {
        return value.to_owned();
    }
    let mut out = String::with_capacity(value.len());
    let mut escaped = Vec::new();
    let mut rest = value;
    while let Some(next) = rest.chars().next() {
        let code = rest.strip_prefix('|').and_then(|rest| rest.get(..2)).filter(|hex| !hex.starts_with('+'));
        if let Some(byte) = code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            escaped.push(byte);
            rest = &rest[3..];
            continue;
        }
        flush(&mut escaped, &mut out, encoding);
        out.push(next);
        rest = &rest[next.len_utf8()..];
    }
    flush(&mut escaped, &mut out, encoding);
    out
}

fn flush(escaped: &mut Vec<u8>, out: &mut String, encoding: &'static Encoding) {
    if !escaped.is_empty() {
        out.push_str(&encoding.decode_without_bom_handling(escaped).0);
        escaped.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_declared_character_set() {
        let (name, _, _) = encoding_rs::EUC_KR.encode("encoding=\"windows-949-2000\"\nname = \"한글-s001.vmdk\"\n");
        assert!(decode("t", &name).unwrap().contains("한글-s001.vmdk"));
        let (name, _, _) = encoding_rs::SHIFT_JIS.encode("encoding=\"Shift_JIS\"\nx = \"表.vmdk\"\n");
        assert!(decode("t", &name).unwrap().contains("表.vmdk"));
        assert!(decode("t", b"encoding=\"windows-1252\"\nx = \"\xFCber\"").unwrap().contains("über"));
        assert!(decode("t", b"x = \"\xFCber\"").unwrap().contains("über"));
    }

    #[test]
    fn an_unknown_character_set_matters_only_where_it_is_used() {
        assert!(decode("t", b"encoding=\"ibm-9999\"\nx=1").is_ok());
        assert!(decode("t", b"encoding=\"ibm-9999\"\nx=\xFC").is_err());
    }

    #[test]
    fn names_of_character_sets_in_icu_style() {
        for (name, expected) in [
            ("UTF-8", "UTF-8"),
            ("windows-949-2000", "EUC-KR"),
            ("ibm-943_P15A-2003", "Shift_JIS"),
            ("windows-936-2000", "GBK"),
            ("windows-950-2000", "Big5"),
            ("ibm-5348_P100-1997", "windows-1252"),
        ] {
            assert_eq!(by_name(name).map(Encoding::name), Some(expected), "{name}");
        }
    }

    #[test]
    fn dictionaries_ignore_case_take_the_last_and_unescape() {
        let text = b"A.b = \"1\"\r\n# a.b = \"9\"\na.B=\"2\"\nnote = \"say |22hi|22|0A|7c\"\nempty = \"\"\n";
        let dictionary = Dictionary::parse("t", text).unwrap();
        assert_eq!(dictionary.get("a.b"), Some("2"));
        assert_eq!(dictionary.get("note"), Some("say \"hi\"\n|"));
        assert_eq!(dictionary.get("EMPTY"), Some(""));
        assert_eq!(dictionary.entries().count(), 3);
    }
}
