//! Tells what a byte of a volume belongs to, without the reader's help.

use std::collections::HashMap;

/// Attribute types by their code, as far as the tests meet them.
const KINDS: [(u32, &str); 11] = [
    (0x10, "$STANDARD_INFORMATION"),
    (0x20, "$ATTRIBUTE_LIST"),
    (0x30, "$FILE_NAME"),
    (0x40, "$OBJECT_ID"),
    (0x50, "$SECURITY_DESCRIPTOR"),
    (0x60, "$VOLUME_NAME"),
    (0x70, "$VOLUME_INFORMATION"),
    (0x80, "$DATA"),
    (0x90, "$INDEX_ROOT"),
    (0xA0, "$INDEX_ALLOCATION"),
    (0xB0, "$BITMAP"),
];

/// What [`Places::of`] calls a place of no structure that the tests know: content of files, and what is free.
pub const CLUSTER: &str = "cluster";

/// What the clusters of NTFS's own files are called.
const OWN: [(u64, &str); 6] =
    [(0, "$MFT"), (1, "$MFTMirr"), (2, "$LogFile"), (6, "$Bitmap"), (9, "$Secure"), (10, "$UpCase")];

fn le(bytes: &[u8], at: usize, len: usize) -> usize {
    bytes[at..at + len].iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte))
}

/// A volume with records of 1 KiB and index blocks of 4 KiB, clusters of at most 1 KiB and an $MFT in one record.
pub struct Places<'v> {
    volume: &'v [u8],
    cluster: usize,
    /// Which of NTFS's own files a cluster belongs to, and how far into it.
    own: HashMap<usize, (&'static str, usize)>,
}

impl<'v> Places<'v> {
    pub fn new(volume: &'v [u8]) -> Self {
        let cluster = le(volume, 0x0B, 2) * le(volume, 0x0D, 1);
        let mft = le(volume, 0x30, 8) * cluster;
        let mut own = HashMap::new();
        for (number, name) in OWN {
            let record = &volume[mft + number as usize * 1024..][..1024];
            let mut start = le(record, 0x14, 2);
            while le(record, start, 4) != 0xFFFF_FFFF {
                if record[start + 8] == 1 {
                    for (vcn, lcn) in clusters(&record[start + le(record, start + 0x20, 2)..]) {
                        own.insert(lcn, (name, vcn * cluster));
                    }
                }
                start += le(record, start + 4, 4);
            }
        }
        Places { volume, cluster, own }
    }

    /// What the byte at `at` is part of: of which record or index block, and of which of its fields.
    pub fn of(&self, at: usize) -> String {
        let record = at & !1023;
        if self.volume[record..].starts_with(b"FILE") {
            return in_record(&self.volume[record..record + 1024], at - record);
        }
        for back in 0..4 {
            let block = record.saturating_sub(back << 10);
            if self.volume[block..].starts_with(b"INDX") {
                return in_block(&self.volume[block..block + 4096], at - block);
            }
        }
        match at {
            0..0x54 => format!("boot {at:#x}"),
            0x54..8192 => "boot code".to_owned(),
            _ => self.own(at).map_or(CLUSTER, |own| own.0).to_owned(),
        }
    }

    /// The one of NTFS's own files whose cluster the byte at `at` is in, and how far into its attribute.
    pub fn own(&self, at: usize) -> Option<(&'static str, usize)> {
        self.own.get(&(at / self.cluster)).map(|(name, offset)| (*name, offset + at % self.cluster))
    }
}

/// VCN and LCN of every cluster of a run list.
fn clusters(mut pairs: &[u8]) -> Vec<(usize, usize)> {
    let (mut vcn, mut lcn, mut found) = (0, 0isize, Vec::new());
    while pairs[0] != 0 {
        let (lens, offsets) = (usize::from(pairs[0] & 15), usize::from(pairs[0] >> 4));
        let len = le(pairs, 1, lens);
        if offsets > 0 {
            let shift = 64 - 8 * offsets as u32;
            lcn += le(pairs, 1 + lens, offsets).cast_signed() << shift >> shift;
            found.extend((0..len).map(|index| (vcn + index, lcn.cast_unsigned() + index)));
        }
        vcn += len;
        pairs = &pairs[1 + lens + offsets..];
    }
    found
}

fn in_record(record: &[u8], at: usize) -> String {
    let number = le(record, 0x2C, 4);
    let own = if number < 24 { "NTFS's record" } else { "record" }.to_owned();
    let used = if le(record, 0x16, 2) & 1 == 0 { " (free)" } else { "" };
    let mut start = le(record, 0x14, 2);
    if at < start {
        return format!("{own}{used} header {at:#x}");
    }
    while start + 16 <= 1024 && le(record, start, 4) != 0xFFFF_FFFF {
        let (kind, len) = (le(record, start, 4) as u32, le(record, start + 4, 4));
        if at < start + len {
            let name = KINDS.iter().find(|known| known.0 == kind).map_or("?", |known| known.1);
            let (form, body, fixed) = match record[start + 8] {
                0 => ("value", le(record, start + 0x14, 2), 0x18),
                _ => ("runs", le(record, start + 0x20, 2), 0x40),
            };
            let at = at - start;
            let field = match at {
                _ if at < fixed => format!("{at:#x}"),
                _ if at < body => "name".to_owned(),
                _ if form == "value" && !matches!(kind, 0x80 | 0xC0..) => format!("value+{:#x}", at - body),
                _ => form.to_owned(),
            };
            // Each folder's own: where it leads is what its files hang on.
            let own = if kind == 0x90 { format!("record {number}") } else { own };
            return format!("{own}{used} {name} {form} {field}");
        }
        if len == 0 {
            break;
        }
        start += len;
    }
    format!("{own}{used} slack")
}

fn in_block(block: &[u8], at: usize) -> String {
    if at < 0x40 {
        return format!("index block header {at:#x}");
    }
    let (mut start, end) = (0x18 + le(block, 0x18, 4), 0x18 + le(block, 0x1C, 4));
    while start + 16 <= end {
        let (len, key, flags) = (le(block, start + 8, 2), le(block, start + 10, 2), le(block, start + 12, 2));
        if at < start + len {
            let at = at - start;
            let last = if flags & 2 != 0 { "last " } else { "" };
            return match at {
                _ if at < 0x10 => format!("index block {last}entry {at:#x}"),
                _ if at + 2 == 0x10 + key => "index block entry end of name".to_owned(),
                _ if at < 0x10 + key => format!("index block {last}entry key+{:#x}", (at - 0x10).min(0x42)),
                _ => format!("index block {last}entry rest"),
            };
        }
        if len == 0 {
            break;
        }
        start += len;
    }
    "index block slack".to_owned()
}
