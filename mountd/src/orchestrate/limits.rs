//! How many snapshots are made or removed at once on a datastore or a host, over all processes of this proxy.
//!
//! A place has as many lock files as it has slots; whoever holds one is in. Locks end with the process.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use vcb_vsphere::Cancel;

use crate::failure::{Code, Failure, Outcome};

/// Slots held; they are free again when this is dropped.
pub struct Slots(#[expect(dead_code, reason = "held for their locks")] Vec<File>);

/// Waits for a slot at each of `places` (name and number of slots). Places are taken in the order of their
/// names, so that two processes cannot wait for each other.
///
/// # Errors
/// [`Code::Busy`] after `limit`, [`Code::Interrupted`], [`Code::State`].
pub fn enter(state: &Path, mut places: Vec<(String, u32)>, limit: Duration, cancel: &Cancel) -> Outcome<Slots> {
    let folder = state.join("limits");
    let failed = |err| Failure::new(Code::State, format!("cannot use {}", folder.display())).because(err);
    std::fs::create_dir_all(&folder).map_err(failed)?;
    places.sort();
    places.dedup();
    let started = Instant::now();
    let mut held = Vec::new();
    for (place, slots) in places {
        let file_name: String = place
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
                other => format!("_{other:02x}"),
            })
            .collect();
        'waiting: loop {
            for slot in 0..slots.max(1) {
                let path = folder.join(format!("{file_name}.{slot}"));
                let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
                match file.try_lock() {
                    Ok(()) => {
                        held.push(file);
                        break 'waiting;
                    }
                    Err(TryLockError::WouldBlock) => {}
                    Err(TryLockError::Error(err)) => return Err(failed(err)),
                }
            }
            if cancel.is_raised() {
                return Err(Failure::new(Code::Interrupted, format!("interrupted while waiting for {place}")));
            }
            if started.elapsed() > limit {
                return Err(Failure::new(Code::Busy, format!("{slots} snapshots are at work on {place}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(Slots(held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_get_in_than_there_are_slots() {
        let state = tempfile::tempdir().unwrap();
        let enter = |limit| enter(state.path(), vec![("ds 1".into(), 2)], limit, &Cancel::default());
        let first = enter(Duration::ZERO).unwrap();
        let second = enter(Duration::ZERO).unwrap();
        assert_eq!(enter(Duration::from_millis(120)).err().unwrap().code(), Code::Busy);
        drop(first);
        let third = enter(Duration::ZERO).unwrap();
        drop((second, third));
    }
}
