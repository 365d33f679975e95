//! The output of an LZ77 decoder: bytes written so far, and copies of earlier ones.

use super::Damage;

/// A buffer that fills from the front.
pub(super) struct Output<'a> {
    bytes: &'a mut [u8],
    filled: usize,
}

impl<'a> Output<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        Output { bytes, filled: 0 }
    }

    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Bytes still to come.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.filled
    }

    #[inline]
    pub(super) fn literal(&mut self, byte: u8) -> Result<(), Damage> {
        *self.bytes.get_mut(self.filled).ok_or(Damage::TooLong)? = byte;
        self.filled += 1;
        Ok(())
    }

    pub(super) fn literals(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        let end = self.filled + bytes.len();
        self.bytes.get_mut(self.filled..end).ok_or(Damage::TooLong)?.copy_from_slice(bytes);
        self.filled = end;
        Ok(())
    }

    /// Repeats the `len` bytes that were written `distance` bytes ago; they may overlap what they become.
    #[inline]
    pub(super) fn copy(&mut self, distance: usize, len: usize) -> Result<(), Damage> {
        let start = self.filled.checked_sub(distance).filter(|_| distance > 0).ok_or(Damage::Distance)?;
        let end = self.filled.checked_add(len).filter(|&end| end <= self.bytes.len()).ok_or(Damage::TooLong)?;
        if distance >= len {
            self.bytes.copy_within(start..start + len, self.filled);
        } else {
            // What is copied repeats with the period `distance`.
            let area = &mut self.bytes[start..end];
            for at in distance..area.len() {
                area[at] = area[at - distance];
            }
        }
        self.filled = end;
        Ok(())
    }
}
