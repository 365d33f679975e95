//! Names between the guest's NTFS and Windows programs.
//!
//! Views carry names as WTF-8, Windows as UTF-16; both hold the same names, unpaired surrogates included.
//! What differs is what programs may say: an NTFS volume written by a POSIX system can hold names that the
//! Win32 layer refuses or would take for something else. Such characters are shown as private-use
//! characters, U+F000 plus the character, which is what Cygwin and Services for Macintosh do:
//!
//! | in the volume | shown as |
//! |---|---|
//! | control characters, `" * : < > ? \ \|` | U+F001 … U+F07C |
//! | a dot or space at the end of a name | U+F02E, U+F020 |
//!
//! A name that holds those private-use characters itself is found first, by its exact form.

/// First of the private-use characters that stand for characters Win32 refuses.
const PRIVATE: u16 = 0xF000;

fn refused(unit: u16) -> bool {
    matches!(unit, 1..=31) || [b'"', b'*', b':', b'<', b'>', b'?', b'\\', b'|'].iter().any(|&c| unit == u16::from(c))
}

fn refused_at_end(unit: u16) -> bool {
    unit == u16::from(b'.') || unit == u16::from(b' ')
}

/// A WTF-8 name as Windows programs see it.
#[must_use]
pub fn to_windows(name: &[u8]) -> Vec<u16> {
    let mut units = wtf8_to_utf16(name);
    let last = units.len().saturating_sub(1);
    for (index, unit) in units.iter_mut().enumerate() {
        if refused(*unit) || (index == last && refused_at_end(*unit)) {
            *unit += PRIVATE;
        }
    }
    units
}

/// The names in a view that `shown` may stand for, likeliest first: itself, and with private-use characters
/// turned back.
#[must_use]
pub fn from_windows(shown: &[u16]) -> Vec<Vec<u8>> {
    let mut back = shown.to_vec();
    let last = back.len().saturating_sub(1);
    for (index, unit) in back.iter_mut().enumerate() {
        let plain = unit.wrapping_sub(PRIVATE);
        if *unit >= PRIVATE && (refused(plain) || (index == last && refused_at_end(plain))) {
            *unit = plain;
        }
    }
    let mut names = vec![utf16_to_wtf8(shown)];
    if back != shown {
        names.push(utf16_to_wtf8(&back));
    }
    names
}

/// UTF-16 units of a WTF-8 string. Bytes that are not WTF-8 become U+FFFD, one for each.
#[must_use]
pub fn wtf8_to_utf16(name: &[u8]) -> Vec<u16> {
    let mut units = Vec::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        let valid = match std::str::from_utf8(rest) {
            Ok(text) => text.len(),
            Err(err) => err.valid_up_to(),
        };
        let (head, tail) = rest.split_at(valid);
        units.extend(std::str::from_utf8(head).unwrap_or_default().encode_utf16());
        rest = tail;
        // A surrogate by itself is ED A0..BF 80..BF, which UTF-8 forbids and WTF-8 allows.
        rest = match rest {
            [0xED, middle @ 0xA0..=0xBF, last @ 0x80..=0xBF, tail @ ..] => {
                units.push(0xD000 | u16::from(middle & 0x3F) << 6 | u16::from(last & 0x3F));
                tail
            }
            [_, tail @ ..] => {
                units.push(0xFFFD);
                tail
            }
            [] => rest,
        };
    }
    units
}

/// WTF-8 of UTF-16 units: UTF-8, and three bytes for each surrogate without a partner.
#[must_use]
pub fn utf16_to_wtf8(units: &[u16]) -> Vec<u8> {
    let mut name = Vec::with_capacity(units.len() * 3);
    for decoded in char::decode_utf16(units.iter().copied()) {
        match decoded {
            Ok(c) => name.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(err) => {
                let unit = err.unpaired_surrogate();
                name.extend([0xED, 0x80 | (unit >> 6 & 0x3F) as u8, 0x80 | (unit & 0x3F) as u8]);
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(name: &[u8]) -> Vec<u16> {
        let shown = to_windows(name);
        assert!(from_windows(&shown).iter().any(|n| n == name), "{name:?} does not come back from {shown:04x?}");
        shown
    }

    #[test]
    fn ordinary_names_are_shown_as_they_are() {
        for name in ["a.txt", "Grüße", "日本語", "𝄞 clef", ".hidden", "a b"] {
            assert_eq!(round_trip(name.as_bytes()), name.encode_utf16().collect::<Vec<_>>());
        }
    }

    #[test]
    fn names_that_win32_refuses_are_escaped_and_come_back() {
        assert_eq!(round_trip(b"a:b"), [0x61, 0xF03A, 0x62]);
        assert_eq!(round_trip(b"back\\slash")[4], 0xF05C);
        assert_eq!(round_trip(b"dot."), [0x64, 0x6F, 0x74, 0xF02E]);
        assert_eq!(round_trip(b"space "), [0x73, 0x70, 0x61, 0x63, 0x65, 0xF020]);
        assert_eq!(round_trip(b"line\nfeed")[4], 0xF00A);
    }

    #[test]
    fn a_name_that_holds_the_private_character_itself_is_tried_first() {
        let own = "a\u{F03A}b".as_bytes();
        assert_eq!(from_windows(&to_windows(own))[0], own);
    }

    #[test]
    fn surrogates_without_a_partner_survive() {
        let units = [0x61, 0xD800, 0x62, 0xDC00];
        let name = utf16_to_wtf8(&units);
        assert_eq!(name, b"a\xED\xA0\x80b\xED\xB0\x80");
        assert_eq!(wtf8_to_utf16(&name), units);
    }
}
