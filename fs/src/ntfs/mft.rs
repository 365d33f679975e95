//! The $MFT: finding records, with a cache that reads them in large pieces.

use std::sync::Arc;

use vcb_block::{Block, BlockRef, Result, plan};

use super::boot::Geometry;
use super::cache::Cache;
use super::error::Fault;
use super::file::File;
use super::fixup;
use super::record::{Form, NUMBER, Record, kind};
use super::runlist::RunList;
use super::stream::StreamBlock;

/// Bytes of $MFT read at once: neighbouring records are mostly files of one folder.
const PIECE: u64 = 64 << 10;
/// Pieces read at once where the one before was asked for too: somebody walks folders in the order in which
/// their files were made.
const AHEAD: u64 = 4;
/// Records kept twice on every volume, in $MFTMirr.
const MIRRORED: u64 = 4;

/// Some records in a row, update sequences applied.
struct Piece {
    bytes: Arc<[u8]>,
    /// Records that cannot be used, by index in the piece.
    faults: Vec<(usize, Fault)>,
}

/// The master file table of a volume.
pub(super) struct Mft {
    /// Sizes of the volume.
    pub(super) geometry: Geometry,
    /// The volume.
    pub(super) volume: BlockRef,
    data: StreamBlock,
    /// Records that have ever been written.
    records: u64,
    pieces: Cache<u64, Piece>,
}

impl Mft {
    /// Reads record 0 and from it where all the others are.
    ///
    /// The $MFT may be described by several records (its attribute list); each lies in the part that the
    /// ones before describe, so the table grows part by part.
    pub(super) fn open(volume: BlockRef, geometry: Geometry, cache_bytes: usize) -> Result<Self> {
        let record = first_record(&volume, &geometry)?;
        let mut runs = RunList::default();
        let (mut size, mut initialized, mut parts) = (0, 0, 0u32);
        for attribute in record.attributes() {
            let attribute = attribute.map_err(|fault| fault.in_record(0))?;
            if attribute.kind == kind::DATA && attribute.name.0.is_empty() {
                let Form::NonResident(part) = attribute.form else {
                    return Err(Fault::Missing("run list").in_record(0));
                };
                if part.lowest != 0 || parts != 0 {
                    return Err(Fault::Gap { kind: kind::DATA, vcn: 0 }.in_record(0));
                }
                let append = runs.append(part.pairs, part.clusters, geometry.clusters);
                append.map_err(|fault| fault.in_record(0))?;
                (size, initialized, parts) = (part.size, part.initialized.min(part.size), 1);
            }
        }
        if parts == 0 {
            return Err(Fault::Missing("$DATA").in_record(0));
        }
        // Holes and repeated runs could make it endless.
        if size > geometry.clusters << geometry.cluster_shift() {
            return Err(Fault::Field { field: "length of the $MFT", value: size }.in_record(0));
        }
        loop {
            let known = runs.clusters() << geometry.cluster_shift();
            let complete = known >= size;
            let cache = if complete { cache_bytes } else { 0 };
            let mft =
                Self::over(volume.clone(), geometry, runs.clone(), size.min(known), initialized.min(known), cache);
            if complete {
                return Ok(mft);
            }
            File::new(&mft, record.clone())?.append_part(kind::DATA, &mut runs)?;
        }
    }

    fn over(volume: BlockRef, geometry: Geometry, runs: RunList, size: u64, initialized: u64, cache: usize) -> Self {
        let data = StreamBlock::new(volume.clone(), Arc::new(runs), geometry.cluster_shift(), size, initialized);
        let records = initialized / u64::from(geometry.record);
        Mft { geometry, volume, data, records, pieces: Cache::new(cache) }
    }

    /// The record that `reference` names: in use, with the right sequence number.
    pub(super) fn referenced(&self, reference: u64) -> Result<Record> {
        let number = reference & NUMBER;
        let record = self.record(number)?;
        let (found, expected) = (record.sequence(), (reference >> 48) as u16);
        let fault = if !record.in_use() {
            Fault::NotInUse
        } else if found != expected {
            Fault::Sequence { found, expected }
        } else {
            return Ok(record);
        };
        Err(fault.in_record(number))
    }

    /// Record `number`, in use or not.
    pub(super) fn record(&self, number: u64) -> Result<Record> {
        if number >= self.records {
            return Err(Fault::OutsideMft(self.records).in_record(number));
        }
        let size = self.geometry.record as usize;
        let index = number / self.per_piece();
        let (piece, slot) = match self.pieces.get(&index).map_or_else(|| self.fetch(index), Ok) {
            Ok(piece) => (piece, (number % self.per_piece()) as usize),
            // One bad sector must not take the records around it along.
            Err(_) => (Arc::new(self.piece(number, self.read_one(number)?)), 0),
        };
        if let Some((_, fault)) = piece.faults.iter().find(|(bad, _)| *bad == slot) {
            return Err(fault.clone().in_record(number));
        }
        Record::new(number, Arc::clone(&piece.bytes), slot * size, size).map_err(|fault| fault.in_record(number))
    }

    fn per_piece(&self) -> u64 {
        PIECE / u64::from(self.geometry.record)
    }

    /// Reads piece `index` into the cache, and those after it when they are likely to be wanted.
    fn fetch(&self, index: u64) -> Result<Arc<Piece>> {
        let per_piece = self.per_piece();
        let walking = index.checked_sub(1).is_some_and(|before| self.pieces.contains(&before));
        let bytes = self.read(index * per_piece, per_piece * if walking { AHEAD } else { 1 })?;
        let mut fetched = None;
        for (index, bytes) in (index..).zip(bytes.chunks(PIECE as usize)) {
            let piece = Arc::new(self.piece(index * per_piece, bytes.to_vec()));
            self.pieces.insert(index, Arc::clone(&piece), bytes.len());
            fetched.get_or_insert(piece);
        }
        fetched.ok_or_else(|| Fault::OutsideMft(self.records).in_record(index * per_piece))
    }

    fn read_one(&self, number: u64) -> Result<Vec<u8>> {
        match self.read(number, 1) {
            Err(_) if number < MIRRORED => mirrored(&self.volume, &self.geometry, number),
            other => other,
        }
    }

    /// The bytes of `count` records from `first`, fewer at the end of the table.
    fn read(&self, first: u64, count: u64) -> Result<Vec<u8>> {
        let size = u64::from(self.geometry.record);
        let mut bytes = vec![0; (count.min(self.records.saturating_sub(first)) * size) as usize];
        plan::read_mapped(&self.data, &mut bytes, first * size)?;
        Ok(bytes)
    }

    fn piece(&self, first: u64, mut bytes: Vec<u8>) -> Piece {
        let mut faults = Vec::new();
        for (index, record) in bytes.chunks_exact_mut(self.geometry.record as usize).enumerate() {
            let Err(fault) = fixup::apply(record, "FILE") else { continue };
            let number = first + index as u64;
            let copy = (number < MIRRORED).then(|| self.copy(number)).flatten();
            match copy {
                Some(copy) => record.copy_from_slice(&copy),
                None => faults.push((index, fault)),
            }
        }
        Piece { bytes: bytes.into(), faults }
    }

    /// The usable copy of record `number` in $MFTMirr.
    fn copy(&self, number: u64) -> Option<Vec<u8>> {
        let mut copy = mirrored(&self.volume, &self.geometry, number).ok()?;
        fixup::apply(&mut copy, "FILE").ok()?;
        Some(copy)
    }

    /// Where record `number` lies on the volume.
    pub(super) fn place(&self, number: u64) -> Option<u64> {
        self.data.place(number.checked_mul(u64::from(self.geometry.record))?)
    }

    /// Length of the table in bytes.
    pub(super) fn len(&self) -> u64 {
        self.data.len()
    }
}

/// Record 0, from its own place or from the copy.
fn first_record(volume: &BlockRef, geometry: &Geometry) -> Result<Record> {
    let size = geometry.record as usize;
    let parse = |bytes: Result<Vec<u8>>| -> Result<Record> {
        let mut bytes = bytes?;
        fixup::apply(&mut bytes, "FILE")
            .and_then(|()| Record::new(0, bytes.into(), 0, size))
            .map_err(|fault| fault.in_record(0))
    };
    let mut bytes = vec![0; size];
    let own = plan::read(volume, &mut bytes, geometry.mft << geometry.cluster_shift());
    match parse(own.map(|()| bytes)) {
        Ok(record) => Ok(record),
        Err(err) => parse(mirrored(volume, geometry, 0)).map_err(|_| err),
    }
}

/// The copy of record `number` in $MFTMirr, as it is stored.
fn mirrored(volume: &BlockRef, geometry: &Geometry, number: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; geometry.record as usize];
    let start = geometry.mirror << geometry.cluster_shift();
    plan::read(volume, &mut bytes, start + number * u64::from(geometry.record))?;
    Ok(bytes)
}
