//! The disk's bytes in a sparse file.

use std::fs::File;

use vcb_block::BlockRef;

use super::{Copied, CopyError, Export, GRAIN, write_at};

pub(super) fn write(export: &mut Export<'_>, disk: &BlockRef, file: &File) -> Result<Copied, CopyError> {
    file.set_len(disk.len()).map_err(CopyError::Write)?;
    let mut data = 0;
    export.pieces(disk, Ok, |_, piece| {
        for (grain, bytes) in piece.grains() {
            write_at(file, bytes, grain * GRAIN as u64)?;
            data += bytes.len() as u64;
        }
        Ok(())
    })?;
    Ok(Copied { len: disk.len(), data, written: disk.len() })
}
