//! The bit stream that XPRESS-Huffman and LZX share: 16-bit little-endian words, most significant bit first.
//!
//! Words are taken as \[MS-XCA\] 2.2.4 takes them: two at the start, and one more as soon as fewer than 16 bits
//! are left. XPRESS keeps whole bytes between those words, so that the moment of taking one matters.

use super::Damage;

/// A stream being read. Past its end it yields zeros and remembers how many: taking words early is part of
/// the format, using bits that are not there is damage, which [`Bits::check`] tells.
pub(super) struct Bits<'a> {
    input: &'a [u8],
    /// Offset of the next word or byte to take.
    next: usize,
    /// The bits taken and not used, at the top.
    window: u32,
    /// How many they are: 16 to 32.
    valid: u32,
    /// How many bits taken were not in the input.
    missing: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        let mut bits = Bits { input, next: 0, window: 0, valid: 0, missing: 0 };
        bits.start();
        bits
    }

    fn start(&mut self) {
        self.take_word();
        self.take_word();
    }

    #[inline]
    fn take_word(&mut self) {
        let word = match self.input.get(self.next..self.next + 2) {
            Some(&[low, high]) => u16::from_le_bytes([low, high]),
            _ => {
                self.missing += 16;
                0
            }
        };
        self.next += 2;
        self.window |= u32::from(word) << (16 - self.valid);
        self.valid += 16;
    }

    /// The next 16 bits, without using them.
    #[inline]
    pub(super) fn peek16(&self) -> u32 {
        self.window >> 16
    }

    /// Uses `count` bits, at most 16.
    #[inline]
    pub(super) fn skip(&mut self, count: u32) {
        self.window <<= count;
        self.valid -= count;
        if self.valid < 16 {
            self.take_word();
        }
    }

    /// The next `count` bits, at most 16, as a number.
    #[inline]
    pub(super) fn get(&mut self, count: u32) -> u32 {
        let value = self.peek16() >> (16 - count);
        self.skip(count);
        value
    }

    /// The byte after the words taken so far.
    pub(super) fn byte(&mut self) -> Result<u8, Damage> {
        let byte = *self.input.get(self.next).ok_or(Damage::Ends)?;
        self.next += 1;
        Ok(byte)
    }

    /// Ends the bits at a word boundary, a whole word further when they already end at one, and gives the
    /// `len` bytes that follow. Bits go on with [`Bits::resume`].
    pub(super) fn aligned_bytes(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        self.check()?;
        let partial = match self.valid % 16 {
            0 => 16,
            bits => bits,
        };
        // Words taken early go back.
        let unused = (self.valid - partial) / 16;
        self.next -= 2 * unused as usize;
        (self.window, self.valid, self.missing) = (0, 0, 0);
        self.bytes(len)
    }

    /// The next `len` bytes, after [`Bits::aligned_bytes`].
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let bytes = self.input.get(self.next..).and_then(|rest| rest.get(..len)).ok_or(Damage::Ends)?;
        self.next += len;
        Ok(bytes)
    }

    /// Starts a new stream of bits after bytes.
    pub(super) fn resume(&mut self) {
        self.start();
    }

    /// Fails when bits were used that the input does not have.
    pub(super) fn check(&self) -> Result<(), Damage> {
        if self.missing > self.valid { Err(Damage::Ends) } else { Ok(()) }
    }
}
