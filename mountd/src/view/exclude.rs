//! What a backup can do without, left out of a file view on request.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use vcb_fs::Name;

/// Sorts of files that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exclude {
    /// `\pagefile.sys`
    PageFile,
    /// `\hiberfil.sys`
    HiberFil,
    /// `\swapfile.sys`
    SwapFile,
    /// Shadow copy stores in `\System Volume Information`, often most of a volume.
    Vss,
    /// `\$Recycle.Bin`, and `\RECYCLER` of older systems.
    Recycle,
}

impl Exclude {
    /// All of them with their names on the command line.
    pub const NAMES: [(&'static str, Exclude); 5] = [
        ("pagefile", Exclude::PageFile),
        ("hiberfil", Exclude::HiberFil),
        ("swapfile", Exclude::SwapFile),
        ("vss", Exclude::Vss),
        ("recycle", Exclude::Recycle),
    ];

    fn in_root(self, name: &Name) -> bool {
        let names: &[&str] = match self {
            Exclude::PageFile => &["pagefile.sys"],
            Exclude::HiberFil => &["hiberfil.sys"],
            Exclude::SwapFile => &["swapfile.sys"],
            Exclude::Vss => &[],
            Exclude::Recycle => &["$Recycle.Bin", "RECYCLER"],
        };
        names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    }
}

impl FromStr for Exclude {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|&(_, exclude)| exclude).ok_or_else(|| {
            let names: Vec<_> = Self::NAMES.iter().map(|(name, _)| *name).collect();
            format!("'{text}' is not one of {}", names.join(", "))
        })
    }
}

/// Folder of the shadow copy stores.
pub(super) const SYSTEM_VOLUME_INFORMATION: &[u8] = b"System Volume Information";
/// Ends the name of every shadow copy store: the identifier of the volume shadow copy service (observed).
const VSS_STORE: &[u8] = b"{3808876b-c176-4e48-b7ae-04046e6cc752}";

/// Which folder of a volume a name is in, as far as exclusion cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Root,
    SystemVolumeInformation,
    Elsewhere,
}

/// True when `name` in `place` is left out.
pub(super) fn hides(excludes: &[Exclude], place: Place, name: &Name) -> bool {
    match place {
        Place::Root => excludes.iter().any(|exclude| exclude.in_root(name)),
        Place::SystemVolumeInformation => {
            let tail = name.len().checked_sub(VSS_STORE.len()).map(|start| &name[start..]);
            excludes.contains(&Exclude::Vss) && tail.is_some_and(|tail| tail.eq_ignore_ascii_case(VSS_STORE))
        }
        Place::Elsewhere => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_files_in_their_places_are_hidden() {
        let all: Vec<Exclude> = Exclude::NAMES.iter().map(|&(_, exclude)| exclude).collect();
        assert!(hides(&all, Place::Root, b"PageFile.sys"));
        assert!(hides(&all, Place::Root, b"$RECYCLE.BIN"));
        assert!(!hides(&all, Place::Elsewhere, b"pagefile.sys"));
        assert!(!hides(&[Exclude::HiberFil], Place::Root, b"pagefile.sys"));
        let store = b"{5a5ae05e-1111-2222-3333-444444444444}{3808876B-C176-4e48-b7ae-04046e6cc752}";
        assert!(hides(&all, Place::SystemVolumeInformation, store));
        assert!(!hides(&all, Place::SystemVolumeInformation, b"tracking.log"));
        assert!(!hides(&all, Place::Root, store));
    }

    #[test]
    fn names_parse_and_others_are_refused_with_the_list() {
        assert_eq!("vss".parse(), Ok(Exclude::Vss));
        assert!("page".parse::<Exclude>().unwrap_err().contains("pagefile"));
    }
}
