//! Tells what a byte of a volume belongs to, without the reader's help.

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

/// What [`of`] calls a place in no record or index block.
pub const CLUSTER: &str = "cluster";

fn le(bytes: &[u8], at: usize, len: usize) -> usize {
    bytes[at..at + len].iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte))
}

/// What the byte at `at` of a volume with records of 1 KiB and index blocks of 4 KiB is part of: of which record or
/// index block, and of which of its fields.
pub fn of(volume: &[u8], at: usize) -> String {
    let record = at & !1023;
    if volume[record..].starts_with(b"FILE") {
        return in_record(&volume[record..record + 1024], at - record);
    }
    for back in 0..4 {
        let block = record.saturating_sub(back << 10);
        if volume[block..].starts_with(b"INDX") {
            return in_block(&volume[block..block + 4096], at - block);
        }
    }
    match at {
        0..0x54 => format!("boot {at:#x}"),
        0x54..8192 => "boot code".to_owned(),
        _ => CLUSTER.to_owned(),
    }
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
