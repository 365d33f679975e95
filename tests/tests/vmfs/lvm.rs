//! Logical volumes of every version, without LVM, and larger than 16 TiB.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use vcb_block::{Block, BlockRef, FileSource, Kind, Result, Runs, Window, check_range};
use vcb_fixtures::vmfs;
use vcb_fs::vmfs::{Options, Vmfs};

use crate::common::{bytes, check, find};
use crate::image::{Changing, DATA, Layout, V5, V6, device};

const MIB: u64 = 1 << 20;
const UNIT: u64 = 256 * MIB;
const TIB: u64 = 1 << 40;
const HEADER: u64 = 0x10_0000;

fn opens(device: BlockRef, volume: &vmfs::Volume) {
    let fs = Vmfs::open(vec![device], &Options::default()).unwrap();
    for expected in volume.files.iter().filter(|file| !file.path.starts_with("/many/")) {
        check(&*fs, expected);
    }
}

#[test]
fn older_lvm_local_volumes_and_volumes_without_lvm_read_alike() {
    let dir = tempfile::tempdir().unwrap();
    for (name, layout) in [("v5", V5), ("v6", V6)] {
        let Some(volume) = vmfs::make(&vmfs::manifest(name), dir.path()) else { return };
        let image = Changing::new(&volume.devices[0]);
        let version = HEADER + 4;
        if layout.six {
            image.write(version, &[7]);
            let err = Vmfs::open(vec![device(&image)], &Options::default()).err().unwrap();
            assert_eq!(err.kind(), Kind::Unsupported, "{err:?}");
            image.reset();
        } else {
            // LVM 3, 4 and 5 have one layout.
            for lvm in [3, 4] {
                image.write(version, &[lvm]);
                opens(device(&image), &volume);
                image.reset();
            }
        }
        image.write(DATA + 0x20_0000, &0x2FAB_F15Fu32.to_le_bytes());
        opens(device(&image), &volume);
        image.reset();
        let bare = Window::new(device(&image), DATA, image.len() - DATA).unwrap();
        opens(Arc::new(bare), &volume);
    }
}

/// A device of more than 16 TiB: a small image at its start, other bytes further on, zeros between.
struct Large {
    len: u64,
    start: FileSource,
    parts: Vec<(u64, Vec<u8>)>,
}

impl Block for Large {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len, offset, buf.len() as u64)?;
        buf.fill(0);
        let start = self.start.len().saturating_sub(offset).min(buf.len() as u64) as usize;
        if start > 0 {
            self.start.read_at(&mut buf[..start], offset)?;
        }
        let end = offset + buf.len() as u64;
        for (at, bytes) in &self.parts {
            let (from, to) = (offset.max(*at), end.min(at + bytes.len() as u64));
            if from < to {
                let part = &bytes[(from - at) as usize..(to - at) as usize];
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len, range.start, range.end - range.start)?;
        runs.push_own_data(range.end - range.start);
        Ok(())
    }
}

fn row(number: u32, physical: u64, start: u64, len: u64) -> Vec<u8> {
    let mut row = vec![0; 128];
    row[0] = 1;
    row[1..5].copy_from_slice(&number.to_le_bytes());
    row[9..17].copy_from_slice(&physical.to_le_bytes());
    row[17..25].copy_from_slice(&start.to_le_bytes());
    row[25..33].copy_from_slice(&len.to_le_bytes());
    row
}

/// The volume of `image` as if it were 16 TiB and 2 GiB long: data beyond 16 TiB lies 16 MiB further out.
fn enlarge(image: &Path, layout: &Layout) -> Large {
    const BEYOND: u64 = 16 << 20;
    let units = 16 * TIB / UNIT + 8;
    let extension = DATA + 16 * TIB;
    let mut parts = Vec::new();
    let mut put = |at: u64, bytes: &[u8]| parts.push((at, bytes.to_vec()));
    let entry = HEADER + if layout.six { 0x1000 } else { 0x200 };
    put(entry, &(units * UNIT).to_le_bytes());
    put(entry + 0x74, &(units as u32).to_le_bytes());
    put(entry + 0x80, &(units - 1).to_le_bytes());
    if layout.six {
        put(HEADER + 0x6A, &2u32.to_le_bytes());
        let rows = [row(0, DATA, 0, 16 * TIB), row(1, extension + BEYOND, 16 * TIB, 8 * UNIT)].concat();
        put(HEADER + 0x8_2000, &rows);
    } else {
        put(HEADER + 0x6A, &(units as u32).to_le_bytes());
        put(HEADER + 0xBE, &8u32.to_le_bytes());
        put(HEADER + 0xC2, &extension.to_le_bytes());
        let place = |unit: u64| DATA + unit * UNIT + unit / 65_536 * BEYOND;
        let table = |first: u64, count: u64| -> Vec<u8> {
            (first..first + count).flat_map(|unit| row(unit as u32, place(unit), unit * UNIT, UNIT)).collect()
        };
        for number in 0..8 {
            put(HEADER + 0x8_0600 + number * 0x10_0400, &table(number * 8192, 8192));
        }
        let mut block = [0; 24];
        block[..4].copy_from_slice(&0xC001_D00Du32.to_le_bytes());
        block[4] = 1;
        put(extension, &block);
        put(extension + 0x8_0600, &table(65_536, 8));
    }
    let start = FileSource::open(image).unwrap();
    Large { len: extension + BEYOND + 8 * UNIT + 15 * MIB, start, parts }
}

#[test]
fn data_beyond_16_tib_is_found_where_the_rows_say() {
    for (version, layout) in [(5, V5), (6, V6)] {
        let dir = tempfile::tempdir().unwrap();
        let manifest = format!(
            r#"{{"version": {version}, "label": "large", "extent_mib": 512,
                "entries": [{{"path": "/f.bin", "random": {{"size": 3000001, "seed": 3}}}}]}}"#
        );
        let Some(made) = vmfs::make_text(&manifest, dir.path()) else { return };
        let image = Changing::new(&made.devices[0]);
        let descriptor = image.descriptor_of(&layout, 3_000_001);
        let mut large = enlarge(&made.devices[0], &layout);
        // The second block of the file moves beyond 16 TiB; stale bytes lie where a linear map would look.
        let block = (16 * TIB + 300 * MIB) / MIB;
        large.parts.push((descriptor + layout.pointers + layout.pointer_len(), layout.pointer(block)));
        large.parts.push((DATA + block * MIB + 16 * MIB, vec![0x5A; MIB as usize]));
        large.parts.push((DATA + block * MIB, vec![0xDB; MIB as usize]));
        let fs = Vmfs::open(vec![Arc::new(large)], &Options::default()).unwrap();
        let file = fs.open_file(find(&*fs, "/f.bin")).unwrap();
        let file: BlockRef = file;
        assert!(bytes(&file, MIB, MIB).iter().all(|byte| *byte == 0x5A), "VMFS-{version}");
        let before = Vmfs::open(vec![device(&image)], &Options::default()).unwrap();
        let before: BlockRef = before.open_file(find(&*before, "/f.bin")).unwrap();
        for (at, len) in [(0, MIB), (2 * MIB, 3_000_001 - 2 * MIB)] {
            assert!(bytes(&file, at, len) == bytes(&before, at, len), "VMFS-{version} at {at:#x}");
        }
    }
}
