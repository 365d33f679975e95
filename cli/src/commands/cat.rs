//! `cat`: a file to stdout.

use std::ffi::OsStr;

use vcb_block::{BlockRef, Error, plan};
use vcb_mountd::{Code, Exit, Failure, Outcome};

use super::target;
use crate::args::Reading;
use crate::context::Context;
use crate::output::{Out, arg_bytes};

/// Bytes read at a time.
const PIECE: u64 = 1 << 20;

/// Writes what `disk` and `path` mean to stdout.
pub fn run(
    disk: &str,
    path: Option<&OsStr>,
    stream: Option<&OsStr>,
    reading: &Reading,
    context: &Context,
) -> Outcome<Exit> {
    let Source { block, shown, verify } = open(disk, path, stream, reading, context)?;
    let mut out = Out::new();
    let mut bytes = vec![0; PIECE.min(block.len()) as usize];
    let mut offset = 0;
    while offset < block.len() {
        let piece = &mut bytes[..PIECE.min(block.len() - offset) as usize];
        plan::read(&block, piece, offset)
            .map_err(|err| Failure::reading(format!("cannot read {shown}"), err.at(offset)))?;
        out.bytes(piece)?;
        offset += piece.len() as u64;
    }
    verify().map_err(|err| Failure::reading(format!("what was read of {shown} cannot be trusted"), err))?;
    out.finish()
}

/// What is to be written, how to name it, and how to make sure of what was read.
struct Source {
    block: BlockRef,
    shown: String,
    verify: Box<dyn FnOnce() -> Result<(), Error>>,
}

fn open(
    disk: &str,
    path: Option<&OsStr>,
    stream: Option<&OsStr>,
    reading: &Reading,
    context: &Context,
) -> Outcome<Source> {
    let Some(path) = path else {
        let place = target::on_datastore(disk, context)?.ok_or_else(|| {
            Failure::new(Code::Usage, format!("which file of {disk}?")).next_step("Add its path, as in 1:/folder/file.")
        })?;
        let shown = place.path.to_string();
        let block =
            place.store.open(&place.path.path).map_err(|err| Failure::reading(format!("cannot open {shown}"), err))?;
        let verify = move || place.store.resolver()?.verify();
        return Ok(Source { block, shown, verify: Box::new(verify) });
    };
    let vm = target::open(disk, reading, context)?;
    let file = target::on_volume(&vm, path)?;
    let block = file
        .fs
        .open(file.id, stream.map(arg_bytes))
        .map_err(|err| Failure::reading(format!("cannot open {}", file.shown), err))?;
    let shown = file.shown.clone();
    Ok(Source { block, shown, verify: Box::new(move || vm.verify()) })
}
