//! The `.vmsd`: the tree of a VM's snapshots.
//!
//! Keys as observed in files of ESXi and Workstation. `snapshotN.diskM.fileName` is the link that the
//! snapshot froze; the disk that is written to now is in the `.vmx`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vcb_block::{Error, Kind, Result};

use crate::text::Dictionary;

const LAYER: &str = "vmsd";

/// Most snapshots and most disks of one that are looked at. VMware allows 32 in a chain and 496 in all,
/// and 256 disks.
const MAX_SNAPSHOTS: u32 = 4096;
const MAX_DISKS: u32 = 1024;

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Unique number within the VM.
    pub uid: u32,
    /// `displayName`, which need not be unique.
    pub name: String,
    /// `description`.
    pub description: String,
    /// `uid` of the snapshot that this one was taken on.
    pub parent: Option<u32>,
    /// When it was taken.
    pub created: Option<SystemTime>,
    /// True for the snapshot that the VM runs on.
    pub current: bool,
    /// Frozen disks: where they are attached (`scsi0:0`) and the names of their descriptors.
    pub disks: Vec<(String, String)>,
}

/// All snapshots of a VM.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    list: Vec<Snapshot>,
}

impl Snapshots {
    /// Parses a `.vmsd`. An empty file, which VMware leaves behind when there are none, is valid.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for numbers that are none and for two snapshots of one number; character set errors.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let entries = Dictionary::parse(LAYER, bytes)?;
        let current = number(&entries, "snapshot.current")?;
        // numSnapshots is not always there, and numbers in between may be missing after deletions.
        let mut numbers: Vec<u32> = entries
            .entries()
            .filter_map(|(key, _)| {
                key.to_ascii_lowercase().strip_prefix("snapshot")?.strip_suffix(".uid")?.parse().ok()
            })
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() > MAX_SNAPSHOTS as usize {
            return Err(Error::new(Kind::Limit, LAYER, format!("{} snapshots", numbers.len())));
        }
        let mut list: Vec<Snapshot> = Vec::with_capacity(numbers.len());
        for number in numbers {
            let snapshot = snapshot(&entries, number, current)?;
            if list.iter().any(|other| other.uid == snapshot.uid) {
                return Err(Error::corrupt(LAYER, format!("two snapshots have the number {}", snapshot.uid)));
            }
            list.push(snapshot);
        }
        Ok(Snapshots { list })
    }

    /// All snapshots in the order of the file.
    #[must_use]
    pub fn all(&self) -> &[Snapshot] {
        &self.list
    }

    /// The snapshot with this name or number.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is none or when several fit, with the list to choose from.
    pub fn find(&self, name_or_uid: &str) -> Result<&Snapshot> {
        let uid: Option<u32> = name_or_uid.parse().ok();
        let fits: Vec<&Snapshot> = self.list.iter().filter(|s| s.name == name_or_uid || Some(s.uid) == uid).collect();
        match fits.as_slice() {
            [only] => Ok(only),
            [] => {
                let text = format!("no snapshot '{name_or_uid}'; there are: {}", listing(self.list.iter()));
                Err(Error::new(Kind::NotFound, LAYER, text))
            }
            several => {
                let text = format!("'{name_or_uid}' may be: {}", listing(several.iter().copied()));
                Err(Error::new(Kind::NotFound, LAYER, text))
            }
        }
    }
}

fn listing<'a>(snapshots: impl Iterator<Item = &'a Snapshot>) -> String {
    let names: Vec<String> = snapshots.map(|s| format!("{} ('{}')", s.uid, s.name)).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn snapshot(entries: &Dictionary, number_in_file: u32, current: Option<u32>) -> Result<Snapshot> {
    let key = |name: &str| format!("snapshot{number_in_file}.{name}");
    let text = |name: &str| entries.get(&key(name)).unwrap_or_default().to_owned();
    let uid = number(entries, &key("uid"))?
        .ok_or_else(|| Error::corrupt(LAYER, format!("snapshot {number_in_file} has no number")))?;
    let count = number(entries, &key("numDisks"))?.unwrap_or(MAX_DISKS).min(MAX_DISKS);
    let disks = (0..count).filter_map(|disk| {
        let file = entries.get(&key(&format!("disk{disk}.fileName")))?;
        let node = entries.get(&key(&format!("disk{disk}.node"))).unwrap_or_default();
        Some((node.to_ascii_lowercase(), file.to_owned()))
    });
    Ok(Snapshot {
        uid,
        name: text("displayName"),
        description: text("description"),
        // A parent of 0 is written for none.
        parent: number(entries, &key("parent"))?.filter(|&parent| parent != 0),
        created: created(entries.get(&key("createTimeHigh")), entries.get(&key("createTimeLow"))),
        current: current == Some(uid),
        disks: disks.collect(),
    })
}

fn number(entries: &Dictionary, key: &str) -> Result<Option<u32>> {
    let Some(value) = entries.get(key).filter(|value| !value.is_empty()) else { return Ok(None) };
    value.trim().parse().map(Some).map_err(|_| Error::corrupt(LAYER, format!("{key} is '{value}', not a number")))
}

/// Microseconds since 1970 in two halves, both printed as signed 32-bit numbers.
fn created(high: Option<&str>, low: Option<&str>) -> Option<SystemTime> {
    let half = |text: Option<&str>| text?.trim().parse::<i64>().ok().map(|value| value as u32);
    let micros = u64::from(half(high)?) << 32 | u64::from(half(low)?);
    UNIX_EPOCH.checked_add(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "snapshot.lastUID = \"4\"\nsnapshot.current = \"4\"\nsnapshot0.uid = \"1\"\n\
        snapshot0.displayName = \"first\"\nsnapshot0.createTimeHigh = \"388745\"\n\
        snapshot0.createTimeLow = \"1991180826\"\nsnapshot0.numDisks = \"1\"\n\
        snapshot0.disk0.fileName = \"a b.vmdk\"\nsnapshot0.disk0.node = \"scsi0:0\"\n\
        snapshot1.uid = \"4\"\nsnapshot1.parent = \"1\"\nsnapshot1.displayName = \"first\"\n\
        snapshot1.createTimeHigh = \"388801\"\nsnapshot1.createTimeLow = \"-814770620\"\n";

    #[test]
    fn the_tree_and_its_points() {
        let snapshots = Snapshots::parse(TEXT.as_bytes()).unwrap();
        let [first, second] = snapshots.all() else { panic!("not two") };
        assert_eq!(first.disks, [("scsi0:0".to_owned(), "a b.vmdk".to_owned())]);
        assert_eq!((second.parent, second.current, first.current), (Some(1), true, false));
        let at = |s: &Snapshot| s.created.unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
        // 28 November and 1 December 2022.
        assert_eq!((at(first), at(second)), (1_669_649_052, 1_669_891_059));
        assert_eq!(snapshots.find("4").unwrap().uid, 4);
        assert_eq!(snapshots.find("first").unwrap_err().kind(), Kind::NotFound);
        assert_eq!(snapshots.find("nope").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn no_snapshots_and_nonsense() {
        assert!(Snapshots::parse(b"").unwrap().all().is_empty());
        assert!(Snapshots::parse(b"snapshot0.uid = \"x\"\n").is_err());
        assert!(Snapshots::parse(b"snapshot0.uid = \"1\"\nsnapshot1.uid = \"1\"\n").is_err());
    }
}
