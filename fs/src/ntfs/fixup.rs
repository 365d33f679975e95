//! Update sequence arrays: how NTFS notices torn writes of records and index blocks.
//!
//! The last two bytes of every 512-byte stride hold the update sequence number; the bytes that belong
//! there are kept in the array. The stride is 512 whatever the sector size (observed on 4 KiB sectors).

use vcb_block::bytes::{array, le16};

use super::error::Fault;

/// Bytes between two checked positions.
const STRIDE: usize = 512;

/// Checks the signature and every stride of `block` and puts the real bytes back.
///
/// # Errors
/// A wrong signature, an array that does not fit, a torn write. `block` is then not to be used.
pub(super) fn apply(block: &mut [u8], signature: &'static str) -> Result<(), Fault> {
    let found: [u8; 4] = array(block, 0).ok_or(Fault::Short("signature"))?;
    if found != signature.as_bytes() {
        return Err(Fault::Signature { found, expected: signature });
    }
    let start = usize::from(le16(block, 4).ok_or(Fault::Short("update sequence"))?);
    let count = usize::from(le16(block, 6).ok_or(Fault::Short("update sequence"))?);
    let strides = block.len() / STRIDE;
    if count != strides + 1 || !block.len().is_multiple_of(STRIDE) {
        return Err(Fault::Field { field: "update sequence count", value: count as u64 });
    }
    // The array may not reach into the first position that it protects.
    if start < 8 || start % 2 != 0 || start + 2 * count > STRIDE - 2 {
        return Err(Fault::Field { field: "update sequence offset", value: start as u64 });
    }
    let expected = le16(block, start).ok_or(Fault::Short("update sequence"))?;
    for sector in 0..strides {
        let end = (sector + 1) * STRIDE - 2;
        let found = le16(block, end).ok_or(Fault::Short("sector"))?;
        if found != expected {
            return Err(Fault::Torn { sector, found, expected });
        }
        let real = start + 2 + 2 * sector;
        block.copy_within(real..real + 2, end);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Vec<u8> {
        let mut block = vec![0x11; 1024];
        block[..4].copy_from_slice(b"FILE");
        block[4..8].copy_from_slice(&[0x30, 0, 3, 0]);
        block[0x30..0x36].copy_from_slice(&[7, 0, 0xA1, 0xA2, 0xB1, 0xB2]);
        block[510..512].copy_from_slice(&[7, 0]);
        block[1022..].copy_from_slice(&[7, 0]);
        block
    }

    #[test]
    fn real_bytes_come_back() {
        let mut block = block();
        apply(&mut block, "FILE").unwrap();
        assert_eq!((&block[510..512], &block[1022..]), (&[0xA1, 0xA2][..], &[0xB1, 0xB2][..]));
    }

    #[test]
    fn a_torn_write_is_noticed() {
        let mut block = block();
        block[1022] = 6;
        assert_eq!(apply(&mut block, "FILE"), Err(Fault::Torn { sector: 1, found: 6, expected: 7 }));
    }

    #[test]
    fn an_array_that_does_not_fit_is_refused() {
        for (at, value) in [(6, 2), (6, 4), (4, 0xFF), (5, 0xFF), (0, b'B')] {
            let mut block = block();
            block[at] = value;
            assert!(apply(&mut block, "FILE").is_err(), "byte {at} = {value:#x}");
        }
        assert!(apply(&mut [], "FILE").is_err());
    }
}
