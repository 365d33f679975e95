//! GUIDs in the byte order of GPT entries: the first three fields are little-endian.

/// Where the digits of byte `n` of the binary form stand in the text.
const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/// `{01234567-89ab-cdef-0123-456789abcdef}`
pub(super) fn format(guid: [u8; 16]) -> String {
    let mut text = String::from("{");
    for (position, &index) in ORDER.iter().enumerate() {
        if matches!(position, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", guid[index]));
    }
    text + "}"
}

/// The GUID of such a text.
pub(super) fn parse(text: &str) -> Option<[u8; 16]> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let lengths: Vec<usize> = inner.split('-').map(str::len).collect();
    if lengths != [8, 4, 4, 4, 12] {
        return None;
    }
    if !inner.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()) {
        return None;
    }
    let digits = u128::from_str_radix(&inner.replace('-', ""), 16).ok()?.to_be_bytes();
    let mut guid = [0; 16];
    for (position, &index) in ORDER.iter().enumerate() {
        guid[index] = digits[position];
    }
    Some(guid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_agree_with_the_example_of_the_uefi_specification() {
        // The EFI system partition type.
        let bytes = [0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11, 0xBA, 0x4B, 0x00, 0xA0, 0xC9, 0x3E, 0xC9, 0x3B];
        let text = "{c12a7328-f81f-11d2-ba4b-00a0c93ec93b}";
        assert_eq!((format(bytes).as_str(), parse(text)), (text, Some(bytes)));
        assert_eq!(parse("{c12a7328-f81f-11d2-ba4b-00a0c93ec93}"), None);
        assert_eq!(parse("{+12a7328-f81f-11d2-ba4b-00a0c93ec93b}"), None);
    }
}
