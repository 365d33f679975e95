//! `monolithicSparse`: header, descriptor, two copies of the directory and tables, grains.
//!
//! ```text
//!   0      1           21                                     overhead
//!   header descriptor  directory · tables · directory · tables  grains …
//! ```

use std::fs::File;

use vcb_block::BlockRef;

use super::vmdk::{
    DESCRIPTOR_SECTORS, FLAGS_SPARSE, GRAIN_SECTORS, Header, SECTOR, TABLE_ENTRIES, TABLE_SECTORS, descriptor, entries,
};
use super::{Copied, CopyError, Export, too_large, write_at};

/// Tables hold sector numbers of 32 bits, and so end the file. 2 TiB less 16 GiB leave room for the tables.
const MAX_SECTORS: u64 = (1 << 32) - (1 << 25);

pub(super) fn write(export: &mut Export<'_>, disk: &BlockRef, file: &File, name: &str) -> Result<Copied, CopyError> {
    let sectors = disk.len().div_ceil(SECTOR);
    if sectors > MAX_SECTORS {
        return Err(too_large("monolithicSparse", "2032 GiB"));
    }
    let grains = sectors.div_ceil(GRAIN_SECTORS);
    let tables = grains.div_ceil(TABLE_ENTRIES);
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    let redundant_directory = 1 + DESCRIPTOR_SECTORS;
    let directory = redundant_directory + directory_sectors + tables * TABLE_SECTORS;
    let overhead = (directory + directory_sectors + tables * TABLE_SECTORS).next_multiple_of(GRAIN_SECTORS);

    let mut next = overhead;
    let mut data = 0;
    let mut table = vec![0u32; (tables * TABLE_ENTRIES) as usize];
    export.pieces(disk, Ok, |_, piece| {
        for (grain, bytes) in piece.grains() {
            write_at(file, bytes, next * SECTOR)?;
            table[grain as usize] = next as u32;
            next += GRAIN_SECTORS;
            data += bytes.len() as u64;
        }
        Ok(())
    })?;

    let finish = || {
        // Also fills up the last grain when the disk's end has cut it short.
        file.set_len(next * SECTOR)?;
        for start in [redundant_directory, directory] {
            let first_table = start + directory_sectors;
            let pointers: Vec<u32> = (0..tables).map(|table| (first_table + table * TABLE_SECTORS) as u32).collect();
            write_at(file, &entries(&pointers), start * SECTOR)?;
            write_at(file, &entries(&table), first_table * SECTOR)?;
        }
        write_at(file, &descriptor("monolithicSparse", name, sectors, export.adapter), SECTOR)?;
        let header = Header {
            version: 1,
            flags: FLAGS_SPARSE,
            capacity: sectors,
            redundant_directory,
            directory,
            overhead,
            compression: 0,
        };
        // The header comes last: without it the file is no disk.
        write_at(file, &header.bytes(), 0)
    };
    finish().map_err(CopyError::Write)?;
    Ok(Copied { len: disk.len(), data, written: next * SECTOR })
}
