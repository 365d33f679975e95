//! Names: UTF-16 as stored, WTF-8 as handed out, and the volume's rules for letter case.

use std::cmp::Ordering;

use crate::NameBuf;

/// A name as stored: UTF-16 code units, little-endian, possibly with unpaired surrogates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Utf16<'a>(pub(super) &'a [u8]);

impl<'a> Utf16<'a> {
    /// The code units.
    pub(super) fn units(self) -> impl Iterator<Item = u16> + Clone + 'a {
        self.0.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
    }

    /// True when the name is exactly `text`.
    pub(super) fn is(self, text: &str) -> bool {
        self.units().eq(text.encode_utf16())
    }

    /// In WTF-8: UTF-8 in which an unpaired surrogate has the three bytes its number would have.
    pub(super) fn to_wtf8(self) -> NameBuf {
        wtf8(self.units(), self.0.len())
    }
}

/// Code units in WTF-8.
pub(super) fn wtf8(units: impl Iterator<Item = u16>, capacity: usize) -> NameBuf {
    let mut name = Vec::with_capacity(capacity);
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(c) => name.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(err) => {
                let unit = err.unpaired_surrogate();
                // 1110xxxx 10xxxxxx 10xxxxxx, as for any other number below 0x10000.
                name.push(0xE0 | (unit >> 12) as u8);
                name.push(0x80 | ((unit >> 6) & 0x3F) as u8);
                name.push(0x80 | (unit & 0x3F) as u8);
            }
        }
    }
    name
}

/// The code units of a WTF-8 name; `None` for bytes that no UTF-16 name has.
pub(super) fn units(mut name: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(name.len());
    while !name.is_empty() {
        let valid = match std::str::from_utf8(name) {
            Ok(text) => text,
            Err(err) => std::str::from_utf8(name.get(..err.valid_up_to())?).ok()?,
        };
        units.extend(valid.encode_utf16());
        name = name.get(valid.len()..)?;
        if let [0xED, high @ 0xA0..=0xBF, low @ 0x80..=0xBF, rest @ ..] = name {
            let unit = 0xD000 | (u16::from(high & 0x3F) << 6) | u16::from(low & 0x3F);
            // A pair has a four-byte form: written as two surrogates it is another, wrong spelling.
            let pairs = (0xDC00..0xE000).contains(&unit)
                && valid.is_empty()
                && units.last().is_some_and(|last| (0xD800..0xDC00).contains(last));
            if pairs {
                return None;
            }
            units.push(unit);
            name = rest;
        } else if !name.is_empty() {
            return None;
        }
    }
    Some(units)
}

/// The volume's table of capital letters ($UpCase), one entry for each code unit.
pub(super) struct UpCase(Box<[u16]>);

impl UpCase {
    /// Bytes of $UpCase.
    pub(super) const BYTES: usize = 2 * 65536;

    /// From the content of $UpCase; `None` when it has another length.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == Self::BYTES).then(|| UpCase(Utf16(bytes).units().collect()))
    }

    /// The capital letter of `unit`, or `unit` itself.
    pub(super) fn of(&self, unit: u16) -> u16 {
        self.0.get(usize::from(unit)).copied().unwrap_or(unit)
    }

    /// Compares as NTFS sorts file names, leaving equal what differs in case only.
    pub(super) fn compare(&self, a: impl Iterator<Item = u16>, b: impl Iterator<Item = u16>) -> Ordering {
        a.map(|unit| self.of(unit)).cmp(b.map(|unit| self.of(unit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(units: &[u16]) -> Vec<u8> {
        units.iter().flat_map(|unit| unit.to_le_bytes()).collect()
    }

    #[test]
    fn every_name_goes_there_and_back() {
        let names: [&[u16]; 6] = [
            &[],
            &[0x41, 0xE9, 0x4E2D],
            &[0xD83D, 0xDE00],
            &[0xD83D],
            &[0x78, 0xDE00, 0xD83D, 0x79],
            &[0xDE00, 0xD83D, 0xD83D, 0xDE00],
        ];
        for name in names {
            let bytes = Utf16(&stored(name)).to_wtf8();
            assert_eq!(units(&bytes).as_deref(), Some(name), "{name:x?}");
        }
        assert_eq!(Utf16(&stored(&[0xD83D])).to_wtf8(), b"\xED\xA0\xBD");
    }

    #[test]
    fn bytes_that_no_name_has_are_refused() {
        for bytes in [&b"\xFF"[..], b"a\xC0\x80", b"\xED\xA0", b"\xED\xA0\xBD\xED\xB8\x80"] {
            assert_eq!(units(bytes), None, "{bytes:x?}");
        }
    }

    #[test]
    fn capital_letters_decide_the_order() {
        let table: Vec<u8> = (0..=u16::MAX)
            .map(|unit| if (0x61..0x7B).contains(&unit) { unit - 32 } else { unit })
            .flat_map(u16::to_le_bytes)
            .collect();
        let upcase = UpCase::new(&table).unwrap();
        let order = |a: &str, b: &str| upcase.compare(a.encode_utf16(), b.encode_utf16());
        assert_eq!(order("abc", "ABC"), Ordering::Equal);
        assert_eq!(order("a_", "AB"), Ordering::Greater);
        assert_eq!(order("ab", "ABC"), Ordering::Less);
        assert!(UpCase::new(&table[2..]).is_none());
    }
}
