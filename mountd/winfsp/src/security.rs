//! Security descriptors in self-relative form (MS-DTYP 2.4.6), as the guest has them.

/// Where a descriptor keeps the offsets of its owner, group, and two lists.
const OWNER: usize = 4;
const GROUP: usize = 8;
const SACL: usize = 12;
const DACL: usize = 16;
/// Bits of the control field: a list is there; offsets are relative to the descriptor.
const DACL_PRESENT: u16 = 0x0004;
const SACL_PRESENT: u16 = 0x0010;
const SELF_RELATIVE: u16 = 0x8000;
/// Sub-authorities a SID can have.
const MAX_SUB: u8 = 15;

/// For what has no descriptor of its own, such as the folders that a view makes: everybody may read and list,
/// nobody may write. `O:BAG:BAD:P(A;;0x1200a9;;;WD)`, which is FILE_GENERIC_READ and FILE_GENERIC_EXECUTE.
pub const READABLE_BY_ALL: [u8; 80] = [
    1, 0, 0x04, 0x90, 20, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 52, 0, 0, 0, // owner at 20, group at 36, DACL at 52
    1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0, // S-1-5-32-544
    1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0, // S-1-5-32-544
    2, 0, 28, 0, 1, 0, 0, 0, // ACL of one entry
    0, 0, 20, 0, 0xA9, 0x00, 0x12, 0x00, // allow FILE_GENERIC_READ | FILE_GENERIC_EXECUTE
    1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, // to S-1-1-0
];

/// True for a descriptor that Windows can check access against: self-relative, with owner and group, and
/// everything within its bytes. The guest's disk is hostile, and the driver is not the place to find that out.
#[must_use]
pub fn is_sound(bytes: &[u8]) -> bool {
    let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let part = |at: usize| {
        let offset = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize;
        if offset < 20 { None } else { bytes.get(offset..) }
    };
    let sound = || {
        let control = half(2)?;
        let header = bytes.first() == Some(&1) && control & SELF_RELATIVE != 0;
        let owners = part(OWNER).and_then(sid_len).is_some() && part(GROUP).and_then(sid_len).is_some();
        // No list, or a null one, lets everybody do everything: it is the guest's own choice.
        let list = |bit: u16, at| Some(control & bit == 0 || is_null(bytes, at) || is_sound_list(part(at)?));
        Some(header && owners && list(DACL_PRESENT, DACL)? && list(SACL_PRESENT, SACL)?)
    };
    sound().unwrap_or(false)
}

fn is_null(bytes: &[u8], at: usize) -> bool {
    bytes.get(at..at + 4) == Some(&[0; 4])
}

/// Length of the SID at the start of `bytes`.
fn sid_len(bytes: &[u8]) -> Option<usize> {
    let (&revision, &count) = (bytes.first()?, bytes.get(1)?);
    let len = 8 + 4 * usize::from(count);
    (revision == 1 && count <= MAX_SUB && len <= bytes.len()).then_some(len)
}

/// An access control list whose entries lie within it.
fn is_sound_list(bytes: &[u8]) -> bool {
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let (Some(size), Some(count)) = (half(2), half(4)) else { return false };
    if !matches!(bytes[0], 2..=4) || size < 8 || size > bytes.len() {
        return false;
    }
    let mut at = 8;
    for _ in 0..count {
        // An entry is a header of four bytes, a mask, and a SID or more.
        match half(at + 2) {
            Some(len) if len >= 8 && len % 4 == 0 && at + len <= size => at += len,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_of_any_byte_is_found_or_harmless() {
        assert!(is_sound(&READABLE_BY_ALL));
        for len in 0..READABLE_BY_ALL.len() {
            assert!(!is_sound(&READABLE_BY_ALL[..len]), "{len} bytes");
        }
        for at in 0..READABLE_BY_ALL.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut damaged = READABLE_BY_ALL;
                damaged[at] = value;
                // Must not panic; what it says is checked for the offsets alone.
                let sound = is_sound(&damaged);
                assert!(!(sound && value == 0xFF && matches!(at, 4..12 | 16..20)), "offset byte {at}");
            }
        }
    }

    #[test]
    fn a_descriptor_without_owner_or_group_cannot_be_checked() {
        for field in [OWNER, GROUP] {
            let mut without = READABLE_BY_ALL;
            without[field] = 0;
            assert!(!is_sound(&without));
        }
        let mut null = READABLE_BY_ALL;
        null[DACL] = 0;
        assert!(is_sound(&null), "a null list is the guest's own choice");
    }
}
