//! The text that names a disk's extents, its parent and its properties.
//!
//! Layout: VMware "Virtual Disk Format 5.0", chapter "The Descriptor"; deviations are those observed in
//! files written by Workstation, ESXi, VirtualBox, QEMU and stream converters.

use vcb_block::{Error, Kind, Result};

use crate::text;

const LAYER: &str = "vmdk-descriptor";

/// Most bytes a descriptor may have. A 62 TiB disk split into 2 GiB extents with long names needs 4 MiB.
pub(crate) const MAX_BYTES: u64 = 8 << 20;

/// Most extents: a 62 TiB disk in 2 GiB files has half as many.
const MAX_EXTENTS: usize = 65_536;

/// Longest disk: positions in files are signed 64-bit numbers on every system we run on.
const MAX_SECTORS: u64 = i64::MAX as u64 / 512;

/// No parent.
pub const NO_PARENT: u32 = 0xFFFF_FFFF;

/// Why a descriptor cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// The text is not one.
    #[error("no '# Disk DescriptorFile' line and no disk described")]
    NotADescriptor,
    /// A line that is no comment, no `key = value` and no extent.
    #[error("line {line}: cannot understand '{text}'")]
    Line {
        /// Line number, from 1.
        line: usize,
        /// The line, shortened.
        text: String,
    },
    /// A key with an impossible value.
    #[error("line {line}: {key} is '{value}', not {expected}")]
    Value {
        /// Line number, from 1.
        line: usize,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A key that every descriptor has is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Two lines give a key different values.
    #[error("line {line}: {key} is given a second time with another value")]
    Twice {
        /// Line number, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// The extents together are longer than any disk.
    #[error("the extents add up to more than {MAX_SECTORS} sectors")]
    TooLong,
    /// Encrypted by VMware.
    #[error("the disk is encrypted ({0}); its keys are not available here")]
    Encrypted(&'static str),
}

impl DescriptorError {
    fn corrupt(self) -> Error {
        Error::corrupt(LAYER, self)
    }
}

/// What the guest may do with an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `RW`.
    ReadWrite,
    /// `RDONLY`.
    ReadOnly,
    /// `NOACCESS`: not even reading.
    None,
}

/// How an extent is stored: the type word of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Plain bytes of a file or device.
    Flat,
    /// Hosted sparse or stream-optimized.
    Sparse,
    /// Zeros, stored nowhere.
    Zero,
    /// Plain bytes of a file on VMFS.
    Vmfs,
    /// ESXi's copy-on-write deltas, "COWD".
    VmfsSparse,
    /// A LUN through a mapping file.
    VmfsRdm,
    /// A LUN.
    VmfsRaw,
    /// ESXi's space-efficient sparse deltas.
    SeSparse,
    /// vSAN's sparse deltas, which exist only inside a vSAN.
    VsanSparse,
}

impl ExtentKind {
    const WORDS: [(&'static str, ExtentKind); 9] = [
        ("FLAT", ExtentKind::Flat),
        ("SPARSE", ExtentKind::Sparse),
        ("ZERO", ExtentKind::Zero),
        ("VMFS", ExtentKind::Vmfs),
        ("VMFSSPARSE", ExtentKind::VmfsSparse),
        ("VMFSRDM", ExtentKind::VmfsRdm),
        ("VMFSRAW", ExtentKind::VmfsRaw),
        ("SESPARSE", ExtentKind::SeSparse),
        ("VSANSPARSE", ExtentKind::VsanSparse),
    ];

    /// The type word of an extent line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// One extent line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtentInfo {
    /// What the guest may do.
    pub access: Access,
    /// How it is stored.
    pub kind: ExtentKind,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// The file or device; none for zeros.
    pub file: Option<String>,
    /// Where in the file it begins, in sectors. Only flat extents have one.
    pub offset: u64,
}

/// A parsed descriptor.
#[derive(Debug, Clone)]
pub struct Descriptor {
    /// `version`: 1, 2 or 3.
    pub version: u32,
    /// `CID`: changes whenever the disk is written to after having been opened.
    pub cid: u32,
    /// `parentCID`: the parent's `CID` when this link was made, or [`NO_PARENT`].
    pub parent_cid: u32,
    /// `createType` as written.
    pub create_type: String,
    /// `parentFileNameHint`.
    pub parent_hint: Option<String>,
    /// Extents in disk order.
    pub extents: Vec<ExtentInfo>,
    /// All other `key = value` lines in order, `ddb.` ones among them, keys as written.
    entries: Vec<(String, String)>,
}

impl Descriptor {
    /// Parses a descriptor file.
    ///
    /// # Errors
    /// [`vcb_block::Kind::Corrupt`] or [`vcb_block::Kind::Unsupported`] with a [`DescriptorError`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let text = text::decode(LAYER, bytes)?;
        // What follows the text is padding, or the rest of an older, longer one, but no extent.
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        let rest = String::from_utf8_lossy(&bytes[end..]);
        if text::lines(&rest.replace('\0', "\n")).any(|(line, text)| matches!(extent(line, text), Ok(Some(_)))) {
            return Err(
                Error::corrupt(LAYER, "the text is interrupted: there are extents behind its end").at(end as u64)
            );
        }
        let signed = text::lines(&text).any(|(_, line)| is_signature(line));
        Parser::default().run(&text, signed)
    }

    /// True when `bytes`, the beginning of a file, look like a descriptor.
    #[must_use]
    pub fn probe(bytes: &[u8]) -> bool {
        let head = &bytes[..bytes.len().min(4096)];
        let text = String::from_utf8_lossy(head);
        text::lines(&text).any(|(_, line)| is_signature(line))
    }

    /// An entry of the disk database, without the prefix `ddb.`; case is ignored.
    #[must_use]
    pub fn ddb(&self, key: &str) -> Option<&str> {
        self.ddb_entries().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
    }

    /// The disk database in order, keys without the prefix `ddb.`.
    pub fn ddb_entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().filter_map(|(key, value)| {
            let (prefix, name) = key.split_at_checked(4)?;
            prefix.eq_ignore_ascii_case("ddb.").then_some((name, value.as_str()))
        })
    }

    /// Any other entry, such as `changeTrackPath`; case is ignored.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
    }

    /// True when this link stands on another.
    #[must_use]
    pub fn has_parent(&self) -> bool {
        self.parent_cid != NO_PARENT
    }

    /// Length of the disk in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        // Parsing has bounded the sum.
        self.extents.iter().map(|extent| extent.sectors).sum::<u64>() * 512
    }

    /// True when no extent has a sector.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `# Disk DescriptorFile` as VMware writes it; VirtualBox and others put the blanks elsewhere.
fn is_signature(line: &str) -> bool {
    let Some(comment) = line.trim_start_matches('\u{feff}').strip_prefix('#') else { return false };
    comment.bytes().filter(|b| !b.is_ascii_whitespace()).map(|b| b.to_ascii_lowercase()).eq(*b"diskdescriptorfile")
}

#[derive(Default)]
struct Parser {
    version: Option<u32>,
    cid: Option<u32>,
    parent_cid: Option<u32>,
    create_type: Option<String>,
    parent_hint: Option<String>,
    extents: Vec<ExtentInfo>,
    entries: Vec<(String, String)>,
}

impl Parser {
    fn run(mut self, text: &str, signed: bool) -> Result<Descriptor> {
        for (number, line) in text::lines(text) {
            if line.starts_with('#') {
                swallowed(number, line)?;
                continue;
            }
            if line.is_empty() {
                continue;
            }
            if let Some(extent) = extent(number, line)? {
                self.extents.push(extent);
            } else if let Some((key, value)) = text::key_value(line) {
                self.entry(number, key, value)?;
            } else if signed {
                let text = line.chars().take(60).collect();
                return Err(DescriptorError::Line { line: number, text }.corrupt());
            }
        }
        // A text without the signature is believed when it describes a disk all the same: stream
        // converters write a first line of their own.
        if !signed && (self.cid.is_none() || self.extents.is_empty()) {
            return Err(DescriptorError::NotADescriptor.corrupt());
        }
        self.finish()
    }

    fn entry(&mut self, line: usize, key: &str, value: &str) -> Result<()> {
        match key.to_ascii_lowercase().as_str() {
            "version" => set(&mut self.version, version(line, value)?, line, key),
            "cid" => set(&mut self.cid, hex(line, "CID", value)?, line, key),
            "parentcid" => set(&mut self.parent_cid, hex(line, "parentCID", value)?, line, key),
            "createtype" => set(&mut self.create_type, value.to_owned(), line, key),
            "parentfilenamehint" => set(&mut self.parent_hint, value.to_owned(), line, key),
            "encryptionkeys" if !value.is_empty() => {
                Err(Error::unsupported(LAYER, DescriptorError::Encrypted("encryptionKeys")))
            }
            "ddb.iofilters" if value.to_ascii_lowercase().contains("crypt") => {
                Err(Error::unsupported(LAYER, DescriptorError::Encrypted("an encrypting I/O filter")))
            }
            _ => {
                self.entries.push((key.to_owned(), value.to_owned()));
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<Descriptor> {
        let missing = |key| DescriptorError::Missing(key).corrupt();
        let cid = self.cid.ok_or_else(|| missing("CID"))?;
        // Without parentCID a link that has lost one line would pass for a base and read zeros.
        let parent_cid = self.parent_cid.ok_or_else(|| missing("parentCID"))?;
        let hint = self.parent_hint.filter(|hint| !hint.is_empty());
        match (parent_cid, &hint) {
            (NO_PARENT, Some(_)) => return Err(missing("parentCID of the parent in parentFileNameHint")),
            (cid, None) if cid != NO_PARENT => return Err(missing("parentFileNameHint")),
            _ => {}
        }
        let sum = self.extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.sectors));
        if sum.is_none_or(|sum| sum > MAX_SECTORS) {
            return Err(DescriptorError::TooLong.corrupt());
        }
        if self.extents.len() > MAX_EXTENTS {
            return Err(Error::new(Kind::Limit, LAYER, format!("{} extents", self.extents.len())));
        }
        if self.extents.is_empty() {
            return Err(missing("an extent"));
        }
        Ok(Descriptor {
            version: self.version.unwrap_or(1),
            cid,
            parent_cid,
            create_type: self.create_type.ok_or_else(|| missing("createType"))?,
            parent_hint: hint,
            extents: self.extents,
            entries: self.entries,
        })
    }
}

/// Refuses a comment that ends in an extent line: the line break before it was lost, and an extent with it.
/// A line that somebody has put a `#` before is a comment.
fn swallowed(number: usize, comment: &str) -> Result<()> {
    let text = comment.trim_start_matches('#').trim_start();
    for word in ["RW ", "RDONLY ", "NOACCESS "] {
        let Some(at) = text.find(word).filter(|&at| at > 0) else { continue };
        if matches!(extent(number, &text[at..]), Ok(Some(_))) {
            let text = comment.chars().take(60).collect();
            return Err(DescriptorError::Line { line: number, text }.corrupt());
        }
    }
    Ok(())
}

fn set<T: PartialEq>(slot: &mut Option<T>, value: T, line: usize, key: &str) -> Result<()> {
    if slot.as_ref().is_some_and(|old| *old != value) {
        return Err(DescriptorError::Twice { line, key: key.to_owned() }.corrupt());
    }
    *slot = Some(value);
    Ok(())
}

fn version(line: usize, value: &str) -> Result<u32> {
    // 2 is written for encrypted hosted disks, 3 when changed block tracking is on; both are otherwise
    // read as 1 (VDDK Programming Guide, "Virtual Disk Version").
    match value.trim().parse() {
        Ok(version @ 1..=3) => Ok(version),
        Ok(version) => Err(Error::unsupported(LAYER, format!("descriptor version {version}"))),
        Err(_) => {
            let value = value.to_owned();
            Err(DescriptorError::Value { line, key: "version", value, expected: "a number" }.corrupt())
        }
    }
}

fn hex(line: usize, key: &'static str, value: &str) -> Result<u32> {
    let digits = value.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')).ok_or_else(|| {
        DescriptorError::Value { line, key, value: value.to_owned(), expected: "8 hexadecimal digits" }.corrupt()
    })
}

/// Parses `ACCESS SECTORS TYPE ["FILE" [OFFSET …]]`; `None` when the line does not begin with an access word.
fn extent(line: usize, text: &str) -> Result<Option<ExtentInfo>> {
    let (word, rest) = token(text);
    let access = match word.to_ascii_uppercase().as_str() {
        "RW" => Access::ReadWrite,
        "RDONLY" => Access::ReadOnly,
        "NOACCESS" => Access::None,
        _ => return Ok(None),
    };
    let bad = |key, value: &str, expected| {
        DescriptorError::Value { line, key, value: value.chars().take(60).collect(), expected }.corrupt()
    };
    let (word, rest) = token(rest);
    let sectors = word.parse().map_err(|_| bad("extent length", word, "a number of sectors"))?;
    let (word, rest) = token(rest);
    let kind = ExtentKind::WORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|&(_, kind)| kind);
    let kind = kind.ok_or_else(|| Error::unsupported(LAYER, format!("line {line}: extent type '{word}'")))?;
    let (file, rest) = match rest.strip_prefix('"') {
        Some(quoted) => {
            let (name, rest) = quoted.split_once('"').ok_or_else(|| bad("extent file", quoted, "a quoted name"))?;
            (name, rest.trim_start())
        }
        None => token(rest),
    };
    let file = (!file.is_empty()).then(|| file.to_owned());
    if file.is_none() && kind != ExtentKind::Zero {
        return Err(bad("extent file", "", "a name"));
    }
    // A partition's UUID and device identifier may follow the offset; they do not say where bytes are.
    let (word, rest) = token(rest);
    if rest.split_whitespace().count() > 2 {
        return Err(bad("what follows an extent", rest, "a UUID and a device identifier"));
    }
    let offset = match word {
        "" => 0,
        word => word.parse().map_err(|_| bad("extent offset", word, "a number of sectors"))?,
    };
    if offset != 0 && !matches!(kind, ExtentKind::Flat | ExtentKind::Vmfs | ExtentKind::VmfsRaw | ExtentKind::Zero) {
        return Err(bad("extent offset", word, "0 for an extent of this type"));
    }
    Ok(Some(ExtentInfo { access, kind, sectors, file, offset }))
}

/// The first word and what follows it.
fn token(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
        createType=\"monolithicFlat\"\n# Extent description\nRW 100 FLAT \"a b-flat.vmdk\" 7\n\
        # The Disk Data Base \n#DDB\nddb.adapterType = \"ide\"\nddb.uuid = \"60 00\"\n";

    fn parse(text: &str) -> Result<Descriptor> {
        Descriptor::parse(text.as_bytes())
    }

    #[test]
    fn a_plain_descriptor() {
        let d = parse(BASE).unwrap();
        assert_eq!((d.version, d.cid, d.has_parent()), (1, 0xFFFF_FFFE, false));
        assert_eq!(d.create_type, "monolithicFlat");
        let extent = &d.extents[0];
        assert_eq!((extent.sectors, extent.file.as_deref(), extent.offset), (100, Some("a b-flat.vmdk"), 7));
        assert_eq!((d.ddb("ADAPTERTYPE"), d.len()), (Some("ide"), 51200));
    }

    #[test]
    fn quirks_of_real_files() {
        for text in [
            BASE.replace('\n', "\r\n"),
            BASE.replace("CID=fffffffe", "CID=fffffffe   "),
            BASE.replace("# Disk DescriptorFile", "# Disk Descriptor File"),
            BASE.replace("# Disk DescriptorFile", "#DiskDescriptorFile"),
            BASE.replace("# Disk DescriptorFile", "# Description file created by VMDK stream converter"),
            BASE.replace("createType=", "CREATETYPE = ").replace("RW 100 FLAT", "rw  100\tflat"),
            format!("{BASE}\0\0\0garbage"),
            format!("\u{feff}{BASE}"),
            BASE.replace(" 7\n", " 7 0f0f-uuid device\n"),
        ] {
            let d = parse(&text).unwrap_or_else(|err| panic!("{text}: {err:?}"));
            assert_eq!(d.create_type, "monolithicFlat", "{text}");
            assert_eq!(d.extents[0].file.as_deref(), Some("a b-flat.vmdk"), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_an_error() {
        for (from, to, kind) in [
            ("FLAT", "FLOT", Kind::Unsupported),
            ("RW 100", "RW x", Kind::Corrupt),
            ("RW 100 FLAT", "XW 100 FLAT", Kind::Corrupt),
            ("RW 100", "RW 99999999999999999", Kind::Corrupt),
            ("version=1", "version=4", Kind::Unsupported),
            ("parentCID", "parenuCID", Kind::Corrupt),
            ("CID=fffffffe", "CID=fffffffg", Kind::Corrupt),
            ("ffffffff\n", "12345678\n", Kind::Corrupt),
            ("ffffffff\n", "ffffffff\nparentFileNameHint=\"x.vmdk\"\n", Kind::Corrupt),
            ("CID=fffffffe", "CID=fffffffe\nCID=1", Kind::Corrupt),
            ("version=1", "encryptionKeys=\"vmware:key/list/x\"", Kind::Unsupported),
            ("ddb.uuid = \"60 00\"", "ddb.iofilters = \"vmwarevmcrypt\"", Kind::Unsupported),
            ("\"a b-flat.vmdk\" 7", "", Kind::Corrupt),
            ("description\n", "description\u{b}", Kind::Corrupt),
            ("\" 7\n", "\" 7\u{b}RW 1 ZERO\u{b}RW 1 ZERO\n", Kind::Corrupt),
            ("RW 100", "RW 1 ZERO\0\nRW 100", Kind::Corrupt),
        ] {
            let err = parse(&BASE.replacen(from, to, 1)).expect_err(to);
            assert_eq!(err.kind(), kind, "{to}: {err:?}");
        }
        assert_eq!(parse("hello").unwrap_err().kind(), Kind::Corrupt);
        assert!(parse("").is_err());
    }
}
