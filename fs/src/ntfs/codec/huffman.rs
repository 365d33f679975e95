//! Canonical Huffman codes: those of one length are consecutive and in the order of their symbols, shorter
//! ones come before longer ones (\[MS-XCA\] 2.2.1, \[MS-PATCH\] 2.3).

use super::Damage;
use super::bits::Bits;

/// Codes up to this long are found with one look into a table.
const FAST: u32 = 10;
/// The longest code of any of the formats, in bits.
const LONGEST: usize = 16;

/// Decoder of a code for `SYMBOLS` symbols. Rebuilt in place, so that a chunk allocates nothing.
pub(super) struct Huffman<const SYMBOLS: usize> {
    /// By the next [`FAST`] bits: symbol × 32 + length, 0 for longer codes.
    fast: [u16; 1 << FAST],
    /// For every length, the first 16-bit value above its codes, codes being aligned to the top.
    limit: [u32; LONGEST + 1],
    /// For every length, the aligned value of its first code.
    first: [u32; LONGEST + 1],
    /// For every length, where its symbols start in `symbols`.
    index: [u16; LONGEST + 1],
    /// Symbols in the order of their codes.
    symbols: [u16; SYMBOLS],
}

impl<const SYMBOLS: usize> Huffman<SYMBOLS> {
    pub(super) fn new() -> Self {
        Huffman {
            fast: [0; 1 << FAST],
            limit: [0; LONGEST + 1],
            first: [0; LONGEST + 1],
            index: [0; LONGEST + 1],
            symbols: [0; SYMBOLS],
        }
    }

    /// Takes the code lengths of all symbols, 0 for those that do not occur.
    ///
    /// # Errors
    /// Lengths that leave codes over or need more than there are. All zero is allowed until a symbol is asked
    /// for: LZX writes that for a length tree it does not use.
    pub(super) fn set(&mut self, lengths: &[u8; SYMBOLS]) -> Result<(), Damage> {
        let mut count = [0u16; LONGEST + 1];
        for &length in lengths {
            *count.get_mut(usize::from(length)).ok_or(Damage::Code)? += 1;
        }
        let (mut code, mut index) = (0u32, 0u16);
        for (length, &count) in count.iter().enumerate().skip(1) {
            self.first[length] = code;
            self.index[length] = index;
            code += u32::from(count) << (LONGEST - length);
            index += count;
            self.limit[length] = code;
        }
        if code != 1 << LONGEST && code != 0 {
            return Err(Damage::Code);
        }
        let mut place = self.index;
        for (symbol, &length) in (0u16..).zip(lengths) {
            if length > 0 {
                let at = &mut place[usize::from(length)];
                self.symbols[usize::from(*at)] = symbol;
                *at += 1;
            }
        }
        self.fill_fast(&count);
        Ok(())
    }

    fn fill_fast(&mut self, count: &[u16; LONGEST + 1]) {
        let mut at = 0;
        for (length, &count) in count.iter().enumerate().take(FAST as usize + 1).skip(1) {
            let start = usize::from(self.index[length]);
            for &symbol in &self.symbols[start..start + usize::from(count)] {
                let end = at + (1 << (FAST as usize - length));
                self.fast[at..end].fill(symbol << 5 | length as u16);
                at = end;
            }
        }
        self.fast[at..].fill(0);
    }

    /// The next symbol.
    #[inline]
    pub(super) fn decode(&self, bits: &mut Bits<'_>) -> Result<usize, Damage> {
        let next = bits.peek16();
        let entry = self.fast[(next >> (16 - FAST)) as usize];
        if entry != 0 {
            bits.skip(u32::from(entry & 31));
            return Ok(usize::from(entry >> 5));
        }
        self.decode_long(bits, next)
    }

    fn decode_long(&self, bits: &mut Bits<'_>, next: u32) -> Result<usize, Damage> {
        for length in FAST as usize + 1..=LONGEST {
            if next < self.limit[length] {
                let nth = (next - self.first[length]) >> (LONGEST - length);
                bits.skip(length as u32);
                let symbol = self.symbols.get(usize::from(self.index[length]) + nth as usize);
                return symbol.map(|&symbol| usize::from(symbol)).ok_or(Damage::Code);
            }
        }
        Err(Damage::Code)
    }
}
