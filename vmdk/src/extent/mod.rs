//! Extents: the files of a link, each saying piece by piece where its bytes come from.

pub(crate) mod cowd;
mod flat;
pub(crate) mod footer;
mod grains;
pub(crate) mod hosted;
pub(crate) mod sesparse;
pub(crate) mod stream;
mod survey;
mod table;

use std::sync::Arc;

use vcb_block::{BlockRef, Result};

use crate::cache::Cached;
use crate::check::Report;

pub(crate) use flat::{Flat, NoAccess, Zeros};
pub(crate) use hosted::{HostedHeader, MAGIC as HOSTED_MAGIC};
pub(crate) use table::Table;

/// What an extent says about a piece of itself.
pub(crate) enum Piece<'a> {
    /// Nothing is stored: the parent's bytes, or zeros without one.
    Hole,
    /// Zeros, whatever the parent says.
    Zero,
    /// The bytes at this offset of another block.
    Child(&'a BlockRef, u64),
}

/// One extent of a link.
pub(crate) trait Extent: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// The piece at `offset`, and how many bytes of it lie before `end`. The caller keeps `offset < end <=
    /// len()`. `cursor` belongs to one walk over one link and spares looking up the same table twice.
    fn piece(&self, cursor: &mut Cursor, offset: u64, end: u64) -> Result<(Piece<'_>, u64)>;

    /// Looks through all metadata, beyond what opening looked at.
    ///
    /// # Errors
    /// When looking fails, not when something is found.
    fn check(&self, report: &mut Report) -> Result<()>;

    /// The block that this extent is, byte for byte, when it is one.
    fn whole(&self) -> Option<&BlockRef> {
        None
    }
}

/// Where a walk is: the table it used last and the segment in it.
#[derive(Default)]
pub(crate) struct Cursor {
    /// Index of the extent in its link.
    pub(crate) extent: usize,
    /// Owner and index of `table`.
    key: Option<crate::cache::Key>,
    table: Option<Arc<Cached>>,
    segment: usize,
}
