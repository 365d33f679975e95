//! UUIDs as VMware prints them.

use std::fmt;

/// A 16-byte VMFS or host UUID. The last six bytes are a MAC address of the host that made it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The MAC address inside, as text.
    #[must_use]
    pub fn mac(&self) -> String {
        let parts: Vec<String> = self.0[10..].iter().map(|byte| format!("{byte:02x}")).collect();
        parts.join(":")
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = &self.0;
        let first = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let second = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        let third = u16::from_le_bytes([b[8], b[9]]);
        write!(f, "{first:08x}-{second:08x}-{third:04x}-")?;
        b[10..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_prints_as_vmware_prints_it() {
        let bytes = [0x2D, 0x6F, 0x62, 0x68, 0x58, 0x31, 0xE2, 0x90, 0x2E, 0x8A, 0xBC, 0x24, 0x11, 0xB1, 0x7E, 0x28];
        assert_eq!(Uuid(bytes).to_string(), "68626f2d-90e23158-8a2e-bc2411b17e28");
        assert_eq!(Uuid(bytes).mac(), "bc:24:11:b1:7e:28");
    }
}
