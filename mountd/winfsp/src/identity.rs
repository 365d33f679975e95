//! What Windows shows as a mount's label and serial number.

use vcb_fs::NameBuf;
use vcb_mountd::view::View;

/// Label and number of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The label in WTF-8. Windows shows 32 units of it.
    pub label: NameBuf,
    /// The serial number.
    pub serial: u32,
}

impl Identity {
    /// A view that stands for one volume has that volume's own; other views have `name`, which is the VM's, and a
    /// number made of it, so that both are the same at every mount. So has what a volume does not tell.
    #[must_use]
    pub fn of(view: &dyn View, name: &str) -> Self {
        let volume = view.volume();
        // NTFS has 64 bits, of which Windows shows the lower half.
        let serial = volume.as_ref().and_then(|volume| u64::from_str_radix(&volume.serial, 16).ok());
        let label = volume.map(|volume| volume.label).filter(|label| !label.is_empty());
        Identity {
            label: label.unwrap_or_else(|| name.as_bytes().to_vec()),
            serial: serial.map_or_else(|| number_of(name), |serial| serial as u32),
        }
    }
}

/// A number made of a name.
fn number_of(name: &str) -> u32 {
    // FNV-1a: any spread will do.
    name.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
