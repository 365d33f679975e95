//! Locks on files, and the heartbeats of the hosts that hold them, as facts. We never take a lock.
//!
//! Every file descriptor begins with a lock block that names its holder's heartbeat slot. A host that is
//! alive writes a new time stamp into its slot every few seconds. Fields of the holder stay behind when a
//! lock is let go, and a dead host leaves its locks: so a lock counts only when its mode is not free, the
//! slot named is active with the same generation and host, *and* the stamp moves.
//!
//! Layout: docs/formats/vmfs.md, sections "Heartbeats" and "Lock block".

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use vcb_block::bytes::{array, le32, le64};
use vcb_block::{BlockRef, Result};

use super::error::{corrupt, short};
use super::geometry::{Geometry, Version};
use super::uuid::Uuid;

/// Lock block of a file descriptor.
const LOCK_DESCRIPTOR: u32 = 0x10C0_0001;
/// Volume offset of the heartbeat slots.
const HEARTBEATS: u64 = 0x30_0000;
const ACTIVE: u32 = 0xABCD_EF02;
/// Places for holders of a shared lock in a lock block.
const HOLDERS: usize = 8;
/// How often a slot is read while we wait for its stamp to move.
const POLL: Duration = Duration::from_millis(200);

/// How a file is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Not locked.
    Free,
    /// One host may write.
    Exclusive,
    /// Hosts may read, nobody writes: the frozen disks under a snapshot.
    ReadOnly,
    /// Several hosts may write (clustered disks).
    MultiWriter,
    /// A mode we do not know; treated as one that lets its holder write.
    Unknown(u32),
}

impl LockMode {
    /// True when a live holder may be changing the content.
    #[must_use]
    pub fn writable(self) -> bool {
        !matches!(self, LockMode::Free | LockMode::ReadOnly)
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockMode::Free => f.write_str("free"),
            LockMode::Exclusive => f.write_str("exclusive"),
            LockMode::ReadOnly => f.write_str("read-only"),
            LockMode::MultiWriter => f.write_str("multi-writer"),
            LockMode::Unknown(mode) => write!(f, "mode {mode}"),
        }
    }
}

/// A holder as the lock block names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HolderRef {
    slot: u64,
    generation: u64,
    host: Uuid,
}

/// The lock block of a file descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lock {
    pub own_offset: u64,
    /// Rises with changes of what the lock protects.
    pub version: u64,
    pub mode: LockMode,
    pub holders: Vec<HolderRef>,
}

impl Lock {
    pub(super) fn parse(raw: &[u8]) -> Result<Lock> {
        const NAME: &str = "lock block";
        let end = || short(NAME);
        let word = |offset| le32(raw, offset).ok_or_else(end);
        let long = |offset| le64(raw, offset).ok_or_else(end);
        let kind = word(0)?;
        if kind != LOCK_DESCRIPTOR {
            return Err(corrupt(NAME, "type", kind.into(), format!("{LOCK_DESCRIPTOR:#x} (file descriptor)")));
        }
        let mode = match word(0x24)? {
            0 => LockMode::Free,
            1 => LockMode::Exclusive,
            2 => LockMode::ReadOnly,
            3 => LockMode::MultiWriter,
            other => LockMode::Unknown(other),
        };
        let mut holders = Vec::new();
        let owner = Uuid(array(raw, 0x28).ok_or_else(end)?);
        if mode != LockMode::Free && owner != Uuid::default() {
            holders.push(HolderRef { slot: long(0x0C)?, generation: long(0x14)?, host: owner });
        }
        let shared = word(0x40)?;
        if mode != LockMode::Free && shared as usize > HOLDERS {
            return Err(corrupt(NAME, "number of holders", shared.into(), "at most 8"));
        }
        if mode != LockMode::Free {
            for index in 0..shared as usize {
                let at = 0x44 + index * 32;
                let host = Uuid(array(raw, at + 16).ok_or_else(end)?);
                holders.push(HolderRef { slot: long(at)?, generation: long(at + 8)?, host });
            }
        }
        Ok(Lock { own_offset: long(4)?, version: long(0x1C)?, mode, holders })
    }
}

/// Whether a holder is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderState {
    /// Its heartbeat moves.
    Live,
    /// Its heartbeat is idle, belongs to another start of the host, or has stood still for a whole lease.
    Stale,
    /// Its heartbeat fits but has not been watched long enough to tell.
    Unproven,
}

/// A host that a lock names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// UUID of the host.
    pub host: Uuid,
    /// The address it wrote into its heartbeat; empty when the slot is no longer its own.
    pub address: String,
    /// Whether it is there.
    pub state: HolderState,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {} (MAC {}", self.host, self.host.mac())?;
        if !self.address.is_empty() {
            write!(f, ", address {}", self.address)?;
        }
        f.write_str(")")
    }
}

/// How a file is locked and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockReport {
    /// The mode on disk.
    pub mode: LockMode,
    /// The hosts it names.
    pub holders: Vec<Holder>,
}

impl LockReport {
    /// The holder, if any, that may be changing the file now. With holders of which none is proven live the
    /// lock is left over. A lock that lets somebody write but names nobody is believed.
    #[must_use]
    pub fn writer(&self) -> Option<String> {
        if !self.mode.writable() {
            return None;
        }
        if self.holders.is_empty() {
            return Some(format!("an unnamed host ({} lock)", self.mode));
        }
        self.holders
            .iter()
            .find(|holder| holder.state != HolderState::Stale)
            .map(|holder| format!("{holder}, {} lock", self.mode))
    }
}

/// A heartbeat slot as it was first seen with its present generation and stamp.
struct Seen {
    generation: u64,
    stamp: u64,
    since: Instant,
    moved: bool,
}

/// Watches heartbeats over the life of an opened volume.
pub(super) struct Heartbeats {
    seen: Mutex<HashMap<u64, Seen>>,
    /// Time without a new stamp after which a host is taken for dead.
    lease: Duration,
}

impl Heartbeats {
    pub(super) fn new(lease: Duration) -> Self {
        Heartbeats { seen: Mutex::new(HashMap::new()), lease }
    }

    /// Who holds `lock`. With `settle`, waits until every holder is proven live or stale: at most a lease.
    pub(super) fn report(
        &self,
        volume: &BlockRef,
        geometry: &Geometry,
        lock: &Lock,
        settle: bool,
    ) -> Result<LockReport> {
        let mut holders = Vec::with_capacity(lock.holders.len());
        for holder in &lock.holders {
            let mut found = self.look(volume, geometry, holder)?;
            while settle && found.state == HolderState::Unproven {
                std::thread::sleep(POLL.min(self.lease));
                found = self.look(volume, geometry, holder)?;
            }
            holders.push(found);
        }
        Ok(LockReport { mode: lock.mode, holders })
    }

    fn look(&self, volume: &BlockRef, geometry: &Geometry, holder: &HolderRef) -> Result<Holder> {
        const NAME: &str = "heartbeat";
        let end = || short(NAME);
        let (size, count) = if geometry.version == Version::V6 { (4096, 1024) } else { (512, 2048) };
        let distance = holder.slot.checked_sub(HEARTBEATS);
        if distance.is_none_or(|d| d % size != 0 || d / size >= count) {
            return Err(corrupt("lock block", "heartbeat offset", holder.slot, "a heartbeat slot"));
        }
        let mut raw = [0; 512];
        volume.read_at(&mut raw, holder.slot)?;
        let own = le64(&raw, 4).ok_or_else(end)?;
        let generation = le64(&raw, 0x0C).ok_or_else(end)?;
        let stamp = le64(&raw, 0x14).ok_or_else(end)?;
        let host = Uuid(array(&raw, 0x1C).ok_or_else(end)?);
        let active = le32(&raw, 0) == Some(ACTIVE);
        if active && own != holder.slot {
            return Err(corrupt(NAME, "own offset", own, format!("{:#x}", holder.slot)));
        }
        if !active || generation != holder.generation || host != holder.host {
            return Ok(Holder { host: holder.host, address: String::new(), state: HolderState::Stale });
        }
        let address = raw.get(0x36..0x36 + 46).ok_or_else(end)?;
        let address = address.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Holder {
            host,
            address: String::from_utf8_lossy(address).into_owned(),
            state: self.judge(holder.slot, generation, stamp),
        })
    }

    fn judge(&self, slot: u64, generation: u64, stamp: u64) -> HolderState {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Seen { generation, stamp, since: Instant::now(), moved: false };
        let seen = all.entry(slot).or_insert_with(fresh);
        if seen.generation != generation {
            *seen = fresh();
        } else if seen.stamp != stamp {
            *seen = Seen { moved: true, ..fresh() };
        }
        match (seen.since.elapsed() >= self.lease, seen.moved) {
            (true, _) => HolderState::Stale,
            (false, true) => HolderState::Live,
            (false, false) => HolderState::Unproven,
        }
    }
}
