//! VMFS target: a volume as a list of its sectors that are not zero.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use vcb_block::{Block, BlockRef, Result, Runs, check_range};
use vcb_fs::vmfs::{Options, Vmfs};
use vcb_fs::{FileId, FileType, Filesystem};

const SECTOR: usize = 512;
/// A record of the input: the number of a sector, then the sector.
const RECORD: usize = 4 + SECTOR;
/// Length of the device, as the seeds have it: 512 MiB of volume, the header before and the slack behind.
const LEN: u64 = 0x110_0000 + (512 << 20) + (15 << 20);
/// Bytes read of each file.
const READ: u64 = 128 << 10;
/// Entries looked at: enough for every seed, and the end of a folder that a fuzzer made endless.
const ENTRIES: usize = 200;

struct Sectors(HashMap<u32, Vec<u8>>);

impl Block for Sectors {
    fn len(&self) -> u64 {
        LEN
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(LEN, offset, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let within = (at % SECTOR as u64) as usize;
            let len = (SECTOR - within).min(buf.len() - done);
            let part = &mut buf[done..done + len];
            match self.0.get(&((at / SECTOR as u64) as u32)) {
                Some(sector) => part.copy_from_slice(&sector[within..within + len]),
                None => part.fill(0),
            }
            done += len;
        }
        Ok(())
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(LEN, range.start, range.end.saturating_sub(range.start))?;
        runs.push_own_data(range.end - range.start);
        Ok(())
    }
}

/// A whole volume: opened, listed, read, verified.
pub fn volume(data: &[u8]) {
    let records = data.chunks_exact(RECORD).map(|record| {
        let number = u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
        (number, record[4..].to_vec())
    });
    let device: BlockRef = Arc::new(Sectors(records.collect()));
    let options = Options { lease: Some(Duration::ZERO), recheck: Duration::ZERO, ..Options::default() };
    let Ok(fs) = Vmfs::open(vec![device], &options) else { return };
    let mut left = ENTRIES;
    look(&fs, fs.root(), 0, &mut left);
    let _ = fs.verify();
}

fn look(fs: &Vmfs, dir: FileId, depth: u32, left: &mut usize) {
    let mut entries = Vec::new();
    let _ = fs.read_dir(dir, 0, &mut |entry| {
        if *left == 0 || depth > 8 {
            return ControlFlow::Break(());
        }
        *left -= 1;
        entries.push(entry);
        ControlFlow::Continue(())
    });
    for entry in entries {
        let _ = fs.attr(entry.id);
        let _ = fs.lock(entry.id, false);
        match entry.kind {
            FileType::Dir => look(fs, entry.id, depth + 1, left),
            FileType::Symlink => drop(fs.read_link(entry.id)),
            _ => {
                let Ok(file) = fs.open(entry.id, None) else { continue };
                let mut buf = vec![0; file.len().min(READ) as usize];
                let _ = file.read_at(&mut buf, 0);
                let last = file.len() - buf.len() as u64;
                let _ = file.read_at(&mut buf, last);
            }
        }
    }
}
