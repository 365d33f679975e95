//! Checked access to little- and big-endian fields of on-disk structures.
//!
//! Every getter returns `None` past the end of the slice, so that a parser cannot panic on a short or
//! hostile structure.

/// Copies `N` bytes at `offset`.
#[must_use]
pub fn array<const N: usize>(buf: &[u8], offset: usize) -> Option<[u8; N]> {
    buf.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

macro_rules! getters {
    ($($name:ident $ty:ty, $from:ident, $what:literal;)*) => {$(
        #[doc = $what]
        #[must_use]
        pub fn $name(buf: &[u8], offset: usize) -> Option<$ty> {
            array(buf, offset).map(<$ty>::$from)
        }
    )*};
}

getters! {
    le16 u16, from_le_bytes, "Little-endian `u16` at `offset`.";
    le32 u32, from_le_bytes, "Little-endian `u32` at `offset`.";
    le64 u64, from_le_bytes, "Little-endian `u64` at `offset`.";
    be16 u16, from_be_bytes, "Big-endian `u16` at `offset`.";
    be32 u32, from_be_bytes, "Big-endian `u32` at `offset`.";
    be64 u64, from_be_bytes, "Big-endian `u64` at `offset`.";
}

/// The byte at `offset`.
#[must_use]
pub fn u8_at(buf: &[u8], offset: usize) -> Option<u8> {
    buf.get(offset).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_inside_and_refuses_outside() {
        let buf = [1, 2, 3, 4, 5];
        assert_eq!(le16(&buf, 3), Some(0x0504));
        assert_eq!(be32(&buf, 1), Some(0x0203_0405));
        assert_eq!(le16(&buf, 4), None);
        assert_eq!(le64(&buf, usize::MAX), None);
    }
}
