//! The logical volume manager below VMFS: devices → one volume.
//!
//! ```text
//!  device    0x100000        0x100200 / 0x101000   0x180600 / 0x182000     data offset
//!  ──────────┬───────────────┬─────────────────────┬───────────────────────┬──────────────
//!            │ LVM header    │ volume entry        │ rows of 128 bytes:    │ physical
//!            │ device, rows  │ size, UUID, extents │ physical ← logical    │ extents …
//! ```
//! The second number of a pair is for LVM version 6. A row maps a run of the volume to the device; up to
//! version 5 it is always 256 MiB long, and further tables of 8,192 rows follow the first. After eight
//! tables (16 TiB) the rest lies in an extension block further out on the device, which holds its tables at
//! the same distances as the header does. Because of those blocks the data is *not* linear on a device
//! of more than 16 TiB: only the rows say where it is.
//!
//! Layout: docs/formats/vmfs.md, section "Logical volume manager"; observed on volumes made by ESXi.

use std::ops::Range;
use std::sync::Arc;

use vcb_block::bytes::{array, le32, le64, u8_at};
use vcb_block::{BlockRef, Concat, Error, Kind, Result, Window, check_range};

use super::error::{LAYER, VmfsError, corrupt, short, unsupported};
use super::uuid::Uuid;

const HEADER: u64 = 0x10_0000;
const MAGIC: u32 = 0xC001_D00D;
const STRUCTURE: &str = "LVM header";
const ROW: usize = 128;
const ROWS_PER_TABLE: u32 = 8192;
/// Distance from one table of rows to the next: the table and the bitmap before it.
const TABLE_STRIDE: u64 = 0x10_0400;
/// Tables per block: one block of header and tables serves 16 TiB.
const TABLES_PER_BLOCK: u32 = 8;
/// Unit in which volume entries count.
const EXTENT: u64 = 256 << 20;
/// Extents start on multiples of 256 MiB from the first one, plus this for every block of tables before them.
const GAP: u64 = 16 << 20;
/// VMFS is limited to 64 TiB per device, 2^18 rows; four times that bounds what we read of a hostile device.
const MAX_ROWS: u32 = 1 << 20;
/// Devices of one volume, a limit of VMFS.
const MAX_DEVICES: u32 = 32;

/// Identity of a LUN, as the host that made the volume saw it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScsiId {
    /// Vendor, model and revision, as in the INQUIRY data.
    pub product: String,
    /// The unique id (NAA, EUI or T10), as it is stored.
    pub id: Vec<u8>,
}

impl ScsiId {
    /// Bytes of the structure on disk.
    pub(super) const SIZE: usize = 78;

    pub(super) fn parse(raw: &[u8]) -> Option<ScsiId> {
        let text = |range: Range<usize>| raw.get(range).map(|part| String::from_utf8_lossy(part).trim().to_owned());
        let len = usize::from(u8_at(raw, 1)?).min(44);
        let product = [text(6..14)?, text(14..30)?, text(30..34)?];
        Some(ScsiId { product: product.join(" ").trim().to_owned(), id: raw.get(34..34 + len)?.to_vec() })
    }

    /// The id as text: as it stands when printable, else in hexadecimal.
    #[must_use]
    pub fn text(&self) -> String {
        if !self.id.is_empty() && self.id.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            return String::from_utf8_lossy(&self.id).trim().to_owned();
        }
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a device says about itself and about the volume it is part of.
#[derive(Debug, Clone)]
pub struct LvmHeader {
    /// LVM version, 3 to 6.
    pub version: u32,
    /// The device as the host saw it when it made the volume.
    pub scsi: ScsiId,
    /// UUID of the device.
    pub device: Uuid,
    /// UUID of the logical volume; equal on all its devices.
    pub volume: Uuid,
    /// Snapshot id: differs when a copy of the LUN was given a new signature.
    pub snapshot: u32,
    /// Length of the volume in bytes.
    pub volume_len: u64,
    /// First and last 256 MiB unit of the volume that this device holds.
    pub units: (u64, u64),
    /// Number of devices of the volume.
    pub devices: u32,
    rows: u32,
    tables: u32,
    /// Offset of the first extent.
    data: u64,
    extension: u64,
}

impl LvmHeader {
    /// Reads the header of `device`; `None` when there is no LVM.
    ///
    /// # Errors
    /// `Corrupt` and `Unsupported` for a header that cannot be believed.
    pub fn read(device: &BlockRef) -> Result<Option<LvmHeader>> {
        let mut raw = [0; 0x1400];
        if device.len() < HEADER + raw.len() as u64 {
            return Ok(None);
        }
        device.read_at(&mut raw, HEADER)?;
        if le32(&raw, 0) != Some(MAGIC) {
            return Ok(None);
        }
        Self::parse(&raw).map(Some).map_err(|err| err.at(HEADER))
    }

    fn parse(raw: &[u8]) -> Result<LvmHeader> {
        let end = || short(STRUCTURE);
        let version = le32(raw, 4).ok_or_else(end)?;
        let entry = match version {
            3..=5 => 0x200,
            6 => {
                let align = le32(raw, 0xCA).ok_or_else(end)?;
                if align != 4096 {
                    return Err(unsupported(STRUCTURE, "metadata alignment", align.into(), "4096"));
                }
                0x1000
            }
            other => return Err(unsupported(STRUCTURE, "version", other.into(), "3 to 6")),
        };
        let volumes = le32(raw, 0x66).ok_or_else(end)?;
        if volumes != 1 {
            return Err(unsupported(STRUCTURE, "number of volumes", volumes.into(), "1"));
        }
        let rows = le32(raw, 0x6A).ok_or_else(end)?;
        if rows == 0 || rows > MAX_ROWS || (version == 6 && rows > ROWS_PER_TABLE) {
            return Err(corrupt(STRUCTURE, "number of rows", rows.into(), format!("1 to {MAX_ROWS}")));
        }
        let tables = le32(raw, 0xBE).ok_or_else(end)?;
        let scsi = raw.get(0x0C..0x0C + ScsiId::SIZE).and_then(ScsiId::parse).ok_or_else(end)?;
        let device = Uuid(array(raw, 0x82).ok_or_else(end)?);
        let extension = le64(raw, 0xC2).ok_or_else(end)?;

        let entry = raw.get(entry..entry + 0x200).ok_or_else(end)?;
        let number = |offset| le64(entry, offset).ok_or_else(end);
        let count = |offset| le32(entry, offset).ok_or_else(end);
        let state = count(0x10)?;
        if state != 1 {
            return Err(unsupported("LVM volume entry", "state", state.into(), "1 (normal)"));
        }
        let header = LvmHeader {
            version,
            scsi,
            device,
            volume: Uuid(array(entry, 0x54).ok_or_else(end)?),
            snapshot: count(0x64)?,
            volume_len: number(0)?,
            units: (number(0x78)?, number(0x80)?),
            devices: count(0x90)?,
            rows,
            tables: tables.max(1),
            data: le64(raw, 0x7A).ok_or_else(end)?,
            extension: if version == 6 { 0 } else { extension },
        };
        let (first, last) = header.units;
        let held = last.checked_sub(first).and_then(|units| units.checked_add(1));
        if held != Some(count(0x74)?.into()) {
            return Err(corrupt("LVM volume entry", "last unit", last, "first + count - 1"));
        }
        if header.devices == 0 || header.devices > MAX_DEVICES {
            return Err(corrupt("LVM volume entry", "number of devices", header.devices.into(), "1 to 32"));
        }
        if header.tables > TABLES_PER_BLOCK {
            return Err(corrupt(STRUCTURE, "number of tables", header.tables.into(), "0 to 8"));
        }
        Ok(header)
    }

    /// The first part of the volume, when it is on `device`, whose header this is.
    pub(super) fn head(&self, device: &BlockRef) -> Result<Option<BlockRef>> {
        let first = self.pieces(device, 0)?.into_iter().find(|piece| piece.start == 0);
        first.map(|piece| Ok(Arc::new(Window::new(device.clone(), piece.physical, piece.len)?) as BlockRef)).transpose()
    }

    /// The rows of the device, in the order of the tables.
    fn pieces(&self, device: &BlockRef, index: usize) -> Result<Vec<Piece>> {
        let first_table = if self.version == 6 { 0x8_2000 } else { 0x8_0600 };
        let (mut block, mut tables, mut next) = (HEADER, self.tables, self.extension);
        let mut pieces: Vec<Piece> = Vec::new();
        let mut done = 0;
        let mut table = 0;
        let mut raw = vec![0; ROWS_PER_TABLE as usize * ROW];
        while done < self.rows {
            if table == tables {
                // Every block serves at least one row, so a chain of blocks ends with the rows.
                (tables, next, block) = extension(device, next)?;
                table = 0;
            }
            let count = (self.rows - done).min(ROWS_PER_TABLE);
            let raw = &mut raw[..count as usize * ROW];
            let start = block.checked_add(first_table + u64::from(table) * TABLE_STRIDE);
            device.read_at(raw, start.ok_or_else(|| short("LVM row table"))?)?;
            for row in raw.chunks_exact(ROW) {
                if let Some(piece) = self.row(row, done, device.len(), index)? {
                    match pieces.last_mut() {
                        Some(last) if last.continued_by(&piece) => last.len += piece.len,
                        _ => pieces.push(piece),
                    }
                }
                done += 1;
            }
            table += 1;
        }
        let mut places: Vec<(u64, u64)> = pieces.iter().map(|piece| (piece.physical, piece.len)).collect();
        places.sort_unstable();
        if let Some(pair) = places.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
            return Err(corrupt("LVM row", "physical offset", pair[1].0, "a range that no other row has"));
        }
        let held: u64 = pieces.iter().map(|piece| piece.len).sum();
        let (first, last) = self.units;
        if Some(held) != (last - first + 1).checked_mul(EXTENT) {
            return Err(corrupt("LVM rows", "bytes mapped", held, format!("{} units of 256 MiB", last - first + 1)));
        }
        Ok(pieces)
    }

    fn row(&self, row: &[u8], number: u32, device_len: u64, index: usize) -> Result<Option<Piece>> {
        const ROW_NAME: &str = "LVM row";
        let end = || short(ROW_NAME);
        let used = u8_at(row, 0).ok_or_else(end)?;
        match used {
            0 => return Ok(None),
            1 => {}
            other => return Err(corrupt(ROW_NAME, "use mark", other.into(), "0 or 1")),
        }
        let id = le32(row, 1).ok_or_else(end)?;
        if id != number {
            return Err(corrupt(ROW_NAME, "number", id.into(), number.to_string()));
        }
        let volume = le32(row, 5).ok_or_else(end)?;
        if volume != 0 {
            return Err(unsupported(ROW_NAME, "volume index", volume.into(), "0"));
        }
        let field = |offset| le64(row, offset).ok_or_else(end);
        let piece = Piece { device: index, physical: field(9)?, start: field(0x11)?, len: field(0x19)? };
        // 2^56 keeps every sum below from passing u64.
        let limit = 1 << 56;
        if piece.len == 0 || !piece.len.is_multiple_of(EXTENT) || piece.len > limit || piece.start > limit {
            return Err(corrupt(ROW_NAME, "length", piece.len, "a multiple of 256 MiB"));
        }
        if piece.physical.checked_add(piece.len).is_none_or(|end| end > device_len) {
            let expected = format!("a range within the {device_len} bytes of the device");
            return Err(corrupt(ROW_NAME, "physical offset", piece.physical, expected));
        }
        if piece.physical < self.data || !(piece.physical - self.data).is_multiple_of(GAP) {
            let expected = format!("{:#x} plus a multiple of 16 MiB", self.data);
            return Err(corrupt(ROW_NAME, "physical offset", piece.physical, expected));
        }
        Ok(Some(piece))
    }
}

/// The extension block at `at`: number of tables, offset of the block after it, own offset.
fn extension(device: &BlockRef, at: u64) -> Result<(u32, u64, u64)> {
    const NAME: &str = "LVM extension block";
    let mut raw = [0; 24];
    if at == 0 {
        return Err(corrupt(NAME, "offset", 0, "a block with the rest of the rows"));
    }
    check_range(device.len(), at, raw.len() as u64)
        .map_err(|_| corrupt(NAME, "offset", at, "an offset within the device"))?;
    device.read_at(&mut raw, at)?;
    let end = || short(NAME);
    let magic = le32(&raw, 0).ok_or_else(end)?;
    if magic != MAGIC {
        return Err(corrupt(NAME, "magic", magic.into(), format!("{MAGIC:#x}")).at(at));
    }
    let tables = le32(&raw, 4).ok_or_else(end)?;
    if tables == 0 || tables > TABLES_PER_BLOCK {
        return Err(corrupt(NAME, "number of tables", tables.into(), "1 to 8").at(at));
    }
    Ok((tables, le64(&raw, 16).ok_or_else(end)?, at))
}

/// A run of the volume on one device.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: u64,
    len: u64,
    device: usize,
    physical: u64,
}

impl Piece {
    fn continued_by(&self, next: &Piece) -> bool {
        next.device == self.device && next.start == self.start + self.len && next.physical == self.physical + self.len
    }
}

/// Puts the devices of one volume together, in any order.
pub(super) fn assemble(devices: &[(BlockRef, LvmHeader)]) -> Result<BlockRef> {
    let wrong = |text: String| Error::new(Kind::NotFound, LAYER, VmfsError::Devices(text));
    let Some((_, first)) = devices.first() else {
        return Err(wrong("no device given".to_owned()));
    };
    let (volume, snapshot, len, count) = (first.volume, first.snapshot, first.volume_len, first.devices);
    if let Some((_, other)) = devices.iter().find(|(_, h)| (h.volume, h.snapshot) != (volume, snapshot)) {
        return Err(wrong(format!("the devices are of different volumes, {volume} and {}", other.volume)));
    }
    if devices.len() != count as usize {
        return Err(wrong(format!("volume {volume} has {count} devices, {} given", devices.len())));
    }
    let mut pieces = Vec::new();
    for (index, (device, header)) in devices.iter().enumerate() {
        if (header.volume_len, header.devices) != (len, count) {
            return Err(corrupt("LVM volume entry", "volume length", header.volume_len, "the same on all devices"));
        }
        pieces.extend(header.pieces(device, index)?);
    }
    pieces.sort_unstable_by_key(|piece| piece.start);
    let mut position = 0;
    let mut parts: Vec<BlockRef> = Vec::with_capacity(pieces.len());
    for piece in &pieces {
        if piece.start != position {
            return Err(corrupt("LVM rows", "logical offset", piece.start, format!("{position:#x}")));
        }
        position += piece.len;
        parts.push(Arc::new(Window::new(devices[piece.device].0.clone(), piece.physical, piece.len)?));
    }
    if position != len {
        let expected = format!("{position:#x}, the sum of the rows");
        return Err(corrupt("LVM volume entry", "volume length", len, expected));
    }
    Ok(Arc::new(Concat::new(parts)?))
}
