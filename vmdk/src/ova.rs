//! `.ova`: a VM exported into one tar archive. Its disks are read where they lie.
//!
//! Layout: POSIX ustar with the pax and GNU extensions for long names; DMTF DSP0243 for the manifest.

use std::sync::Arc;

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use vcb_block::{BlockRef, Error, Kind, Result, Window};

use crate::check::{Finding, Report, Severity};
use crate::resolve::{Resolved, Resolver, candidates};

const LAYER: &str = "ova";
const SECTOR: u64 = 512;

/// Most members of an archive. Exports have a few dozen.
const MAX_MEMBERS: usize = 65_536;
/// Longest name or extended header that is read into memory.
const MAX_TEXT: u64 = 1 << 20;

/// A file in the archive.
#[derive(Debug, Clone)]
struct Member {
    name: String,
    /// Byte offset of its content.
    offset: u64,
    len: u64,
}

/// An archive as a folder.
pub struct OvaResolver {
    archive: BlockRef,
    path: String,
    members: Vec<Member>,
}

impl OvaResolver {
    /// Reads the archive's headers; `path` is for messages.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for an archive that is none or is cut short, with the offset.
    pub fn open(archive: BlockRef, path: &str) -> Result<Arc<Self>> {
        let members = members(&archive).map_err(|err| err.path(path))?;
        Ok(Arc::new(OvaResolver { archive, path: path.to_owned(), members }))
    }

    /// Names of the disks, in the order of the archive.
    pub fn disks(&self) -> impl Iterator<Item = &str> {
        let names = self.members.iter().map(|member| member.name.as_str());
        names.filter(|name| name.to_ascii_lowercase().ends_with(".vmdk"))
    }

    /// Names of all members, in the order of the archive.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name.as_str())
    }

    /// Compares every member with the archive's manifest (`.mf`), reading all of it.
    ///
    /// # Errors
    /// When the archive cannot be read. What does not match is a finding.
    pub fn check(&self) -> Result<Vec<Finding>> {
        let mut report = Report::new();
        report.about(&self.path);
        let Some(manifest) = self.members.iter().find(|member| member.name.to_ascii_lowercase().ends_with(".mf"))
        else {
            report.add(Severity::Note, None, "there is no manifest to compare the content with");
            return Ok(report.finish());
        };
        let text = String::from_utf8_lossy(&self.text(manifest)?).into_owned();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let Some((algorithm, name, expected)) = manifest_line(line) else {
                report.add(
                    Severity::Warning,
                    Some(manifest.offset),
                    format!("manifest line '{line}' is not understood"),
                );
                continue;
            };
            let Some(member) = self.members.iter().find(|member| member.name == name) else {
                report.add(Severity::Error, None, format!("'{name}' is in the manifest, but not in the archive"));
                continue;
            };
            let found = match algorithm.to_ascii_uppercase().as_str() {
                "SHA1" => self.hash::<Sha1>(member)?,
                "SHA256" => self.hash::<Sha256>(member)?,
                "SHA512" => self.hash::<Sha512>(member)?,
                _ => {
                    report.add(Severity::Warning, Some(manifest.offset), format!("unknown checksum '{algorithm}'"));
                    continue;
                }
            };
            if !found.eq_ignore_ascii_case(expected) {
                let text = format!("'{name}' has the {algorithm} checksum {found}, the manifest says {expected}");
                report.add(Severity::Error, Some(member.offset), text);
            }
        }
        Ok(report.finish())
    }

    fn text(&self, member: &Member) -> Result<Vec<u8>> {
        text(&self.archive, member.offset, member.len).map_err(|err| err.path(&self.path))
    }

    fn hash<D: Digest>(&self, member: &Member) -> Result<String> {
        let mut hasher = D::new();
        let mut buf = vec![0; 1 << 20];
        let mut done = 0;
        while done < member.len {
            let part = (member.len - done).min(buf.len() as u64) as usize;
            self.archive.read_at(&mut buf[..part], member.offset + done)?;
            hasher.update(&buf[..part]);
            done += part as u64;
        }
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Resolver for OvaResolver {
    fn open(&self, from: &str, name: &str) -> Result<Resolved> {
        let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
        for candidate in candidates(name) {
            let full = if folder.is_empty() { candidate } else { format!("{folder}/{candidate}") };
            if let Some(member) = self.members.iter().find(|member| member.name == full) {
                let block = Window::new(self.archive.clone(), member.offset, member.len)?;
                return Ok(Resolved { name: full, block: Arc::new(block) });
            }
        }
        Err(Error::new(Kind::NotFound, LAYER, format!("'{name}' is not in the archive")).path(&self.path))
    }

    fn siblings(&self, from: &str) -> Result<Vec<String>> {
        let folder = from.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let inside = self.members.iter().filter_map(|member| member.name.strip_prefix(&folder));
        let mut names: Vec<String> = inside.filter(|name| !name.contains('/')).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }
}

/// `SHA256(name)= hex`.
fn manifest_line(line: &str) -> Option<(&str, &str, &str)> {
    let (algorithm, rest) = line.split_once('(')?;
    let (name, hex) = rest.rsplit_once(')')?;
    Some((algorithm.trim(), name, hex.trim_start().strip_prefix('=')?.trim()))
}

fn text(archive: &BlockRef, offset: u64, len: u64) -> Result<Vec<u8>> {
    if len > MAX_TEXT {
        return Err(Error::new(Kind::Limit, LAYER, format!("a text of {len} bytes")).at(offset));
    }
    let mut bytes = vec![0; len as usize];
    archive.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// All regular files.
fn members(archive: &BlockRef) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::new();
    let mut long_name = None;
    let mut at = 0;
    loop {
        // An empty sector ends an archive. One that just ends has lost members, or its tail.
        if archive.len() - at < SECTOR {
            return Err(Error::corrupt(LAYER, "the archive is cut short: it has no end").at(at));
        }
        let mut header = [0; SECTOR as usize];
        archive.read_at(&mut header, at)?;
        if header.iter().all(|&byte| byte == 0) {
            return Ok(members);
        }
        verify(&header).map_err(|text| Error::corrupt(LAYER, text).at(at))?;
        let len = number(&header[124..136]).ok_or_else(|| Error::corrupt(LAYER, "a size that is no number").at(at))?;
        let offset = at + SECTOR;
        let end = offset.checked_add(len).filter(|&end| end <= archive.len());
        let end = end.ok_or_else(|| {
            let text = format!("the archive is cut short: '{}' has {len} bytes", plain_name(&header));
            Error::corrupt(LAYER, text).at(archive.len())
        })?;
        match header[156] {
            b'L' => long_name = Some(string(&text(archive, offset, len)?)),
            b'x' => long_name = pax_path(&text(archive, offset, len)?).or(long_name),
            kind => {
                let name = long_name.take().unwrap_or_else(|| plain_name(&header));
                if matches!(kind, b'0' | 0 | b'7') {
                    let name = name.trim_start_matches("./").to_owned();
                    members.push(Member { name, offset, len });
                }
                if members.len() > MAX_MEMBERS {
                    return Err(Error::new(Kind::Limit, LAYER, "too many files in the archive").at(at));
                }
            }
        }
        at = end.next_multiple_of(SECTOR).min(archive.len());
    }
}

/// Checks the header's sum, which is over all its bytes with the sum itself as blanks.
fn verify(header: &[u8; SECTOR as usize]) -> Result<(), String> {
    let sum: u64 =
        header.iter().enumerate().map(|(at, &b)| u64::from(if (148..156).contains(&at) { b' ' } else { b })).sum();
    match number(&header[148..156]) {
        Some(stored) if stored == sum => Ok(()),
        _ => Err("no archive member begins here: the header's checksum is wrong".to_owned()),
    }
}

/// Octal text, or big-endian binary with the highest bit set (GNU, for 8 GiB and more).
fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        let (high, low) = field.split_at_checked(field.len() - 8)?;
        let unused = high.iter().enumerate().all(|(at, &byte)| byte == if at == 0 { 0x80 } else { 0 });
        return unused.then(|| low.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)));
    }
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches(|c: char| c == '\0' || c == ' ');
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// Prefix and name of a ustar header.
fn plain_name(header: &[u8; SECTOR as usize]) -> String {
    let name = string(&header[..100]);
    let prefix = if header.get(257..262) == Some(b"ustar") { string(&header[345..500]) } else { String::new() };
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

fn string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// `path` of a pax header, whose records are `length key=value\n`.
fn pax_path(mut bytes: &[u8]) -> Option<String> {
    let mut path = None;
    while let Some(space) = bytes.iter().position(|&byte| byte == b' ') {
        let len: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..len)?;
        if let Some(value) = record.strip_prefix(b"path=") {
            path = Some(string(value).trim_end_matches('\n').to_owned());
        }
        bytes = &bytes[len..];
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_both_spellings() {
        assert_eq!(number(b"00000001750\0"), Some(1000));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), Some(2 << 32));
        assert_eq!(number(b"\xFF\0\0\0\0\0\0\x02\0\0\0\0"), None);
        assert_eq!(number(b"00000009\0"), None);
    }

    #[test]
    fn manifest_lines_and_long_names() {
        assert_eq!(manifest_line("SHA256(a (1).vmdk)= 00ff"), Some(("SHA256", "a (1).vmdk", "00ff")));
        assert_eq!(manifest_line("SHA1 (a)=0"), Some(("SHA1", "a", "0")));
        assert_eq!(manifest_line("nonsense"), None);
        assert_eq!(pax_path(b"12 size=123\n99 path=ab.vmdk\n"), None, "wrong length");
        assert_eq!(pax_path(b"12 size=123\n16 path=ab.vmdk\n"), Some("ab.vmdk".to_owned()));
    }
}
