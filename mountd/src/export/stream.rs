//! `streamOptimized`: compressed grains, each behind a marker, tables after their grains, the directory and
//! a footer at the end, so that the file can be written and read as a stream.

use std::fs::File;
use std::io::{BufWriter, Write};

use libdeflater::{CompressionLvl, Compressor};
use vcb_block::{BlockRef, Error, Result};

use super::vmdk::{
    DIRECTORY_AT_END, FLAGS_STREAM, GRAIN_SECTORS, Header, SECTOR, TABLE_ENTRIES, TABLE_SECTORS, descriptor, entries,
};
use super::{Copied, CopyError, Export, GRAIN, Piece, too_large};

/// Sectors before the first marker.
const OVERHEAD: u64 = 128;
/// Bytes of a marker in front of compressed data: grain's first sector, length.
const MARKER: usize = 12;
/// Kinds of markers that stand in a sector of their own.
const END_OF_STREAM: u32 = 0;
const GRAIN_TABLE: u32 = 1;
const GRAIN_DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;
/// Tables hold sector numbers of 32 bits. Data that cannot be compressed grows a little, hence the margin.
const MAX_SECTORS: u64 = (1 << 32) - (1 << 27);
/// Compression as VMware's own exports choose it: a balance of size and speed.
const LEVEL: i32 = 6;

/// A grain behind its marker, padded to whole sectors.
struct Packed {
    grain: u64,
    bytes: Vec<u8>,
}

pub(super) fn write(export: &mut Export<'_>, disk: &BlockRef, file: &File, name: &str) -> Result<Copied, CopyError> {
    let sectors = disk.len().div_ceil(SECTOR);
    if sectors > MAX_SECTORS {
        return Err(too_large("streamOptimized", "1984 GiB"));
    }
    let mut header = Header {
        version: 3,
        flags: FLAGS_STREAM,
        capacity: sectors,
        redundant_directory: 0,
        directory: DIRECTORY_AT_END,
        overhead: OVERHEAD,
        compression: 1,
    };
    let mut out = Sectors { out: BufWriter::with_capacity(1 << 20, file), written: 0 };
    let adapter = export.adapter;
    let start = |out: &mut Sectors<'_>| {
        out.put(&header.bytes())?;
        out.put(&descriptor("streamOptimized", name, sectors, adapter))?;
        out.pad_to(OVERHEAD)
    };
    start(&mut out).map_err(CopyError::Write)?;

    let grains = sectors.div_ceil(GRAIN_SECTORS);
    let mut tables = Tables { table: vec![0; TABLE_ENTRIES as usize], current: 0, directory: Vec::new() };
    let mut data = 0;
    export.pieces(
        disk,
        |piece| pack(&piece),
        |_, packed| {
            for Packed { grain, bytes } in packed {
                tables.advance(grain / TABLE_ENTRIES, &mut out)?;
                tables.table[(grain % TABLE_ENTRIES) as usize] = out.sector()?;
                out.put(&bytes)?;
                data += GRAIN as u64;
            }
            Ok(())
        },
    )?;

    let mut finish = || {
        tables.advance(grains.div_ceil(TABLE_ENTRIES), &mut out)?;
        let directory = entries(&tables.directory);
        out.marker((directory.len() as u64).div_ceil(SECTOR), GRAIN_DIRECTORY)?;
        header.directory = u64::from(out.sector()?);
        out.put(&directory)?;
        out.pad()?;
        out.marker(1, FOOTER)?;
        out.put(&header.bytes())?;
        out.marker(0, END_OF_STREAM)?;
        out.out.flush()
    };
    finish().map_err(CopyError::Write)?;
    Ok(Copied { len: disk.len(), data: data.min(disk.len()), written: out.written })
}

/// Compresses the grains of a piece. The last grain of a disk is filled up with zeros, as readers expect
/// whole grains.
fn pack(piece: &Piece) -> Result<Vec<Packed>> {
    let level = CompressionLvl::new(LEVEL).unwrap_or_default();
    let mut compressor = Compressor::new(level);
    let mut whole = vec![0; GRAIN];
    let mut packed = Vec::new();
    for (grain, bytes) in piece.grains() {
        whole[..bytes.len()].copy_from_slice(bytes);
        whole[bytes.len()..].fill(0);
        let mut out = vec![0; MARKER + compressor.zlib_compress_bound(GRAIN)];
        let len = compressor.zlib_compress(&whole, &mut out[MARKER..]).map_err(|err| {
            Error::new(vcb_block::Kind::Limit, "export", format!("a grain cannot be compressed: {err}"))
        })?;
        out[..8].copy_from_slice(&(grain * GRAIN_SECTORS).to_le_bytes());
        out[8..MARKER].copy_from_slice(&(len as u32).to_le_bytes());
        out.resize((MARKER + len).next_multiple_of(SECTOR as usize), 0);
        // The padding may hold what the compressor tried before it settled.
        out[MARKER + len..].fill(0);
        packed.push(Packed { grain, bytes: out });
    }
    Ok(packed)
}

/// The grain table being filled, and the directory of those written.
struct Tables {
    table: Vec<u32>,
    current: u64,
    directory: Vec<u32>,
}

impl Tables {
    /// Writes tables until `table` is the current one. Tables without a grain are not written.
    fn advance(&mut self, table: u64, out: &mut Sectors<'_>) -> std::io::Result<()> {
        while self.current < table {
            if self.table.iter().all(|entry| *entry == 0) {
                self.directory.push(0);
            } else {
                out.marker(TABLE_SECTORS, GRAIN_TABLE)?;
                self.directory.push(out.sector()?);
                out.put(&entries(&self.table))?;
                self.table.fill(0);
            }
            self.current += 1;
        }
        Ok(())
    }
}

/// The file, written front to back.
struct Sectors<'a> {
    out: BufWriter<&'a File>,
    written: u64,
}

impl Sectors<'_> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Number of the next sector.
    fn sector(&self) -> std::io::Result<u32> {
        u32::try_from(self.written / SECTOR).map_err(|_| std::io::Error::other("the file passes 2 TiB"))
    }

    fn pad(&mut self) -> std::io::Result<()> {
        self.pad_to(self.written.div_ceil(SECTOR))
    }

    fn pad_to(&mut self, sector: u64) -> std::io::Result<()> {
        let missing = (sector * SECTOR).saturating_sub(self.written);
        self.put(&vec![0; missing as usize])
    }

    /// A marker in a sector of its own.
    fn marker(&mut self, sectors: u64, kind: u32) -> std::io::Result<()> {
        let mut sector = [0; SECTOR as usize];
        sector[..8].copy_from_slice(&sectors.to_le_bytes());
        sector[12..16].copy_from_slice(&kind.to_le_bytes());
        self.put(&sector)
    }
}
