//! From the checkpoint to the end of the log: which records are to be redone, which transactions undone.

use std::collections::BTreeMap;

use vcb_block::Result;
use vcb_block::bytes::le64;

use super::pages::Log;
use super::record::{Change, Kind, op, parse};
use super::refusal::{Refusal, refuse};
use super::tables::{Checkpoint, DirtyPage, OpenAttribute, Transaction, open_attribute};

/// Records kept in memory, and so the length of one replay. A log of 64 MiB holds fewer.
const MAX_RECORDS: usize = 1 << 20;

/// What a replay has to do.
pub(super) struct Work {
    /// Changes from the oldest dirty page on, oldest first.
    pub(super) redo: Vec<Change>,
    /// Changes to take back, newest first, already turned round.
    pub(super) undo: Vec<Change>,
    /// Pages that may be older than the log.
    pub(super) pages: BTreeMap<(u16, u64), DirtyPage>,
    /// Attributes as the records before the checkpoint's start know them; [`Work::opens`] tells the rest.
    pub(super) attributes: BTreeMap<u16, OpenAttribute>,
    version: u32,
}

impl Work {
    /// The attribute that `change` opens, with the number that later records call it.
    pub(super) fn opens(&self, change: &Change) -> Result<Option<(u16, OpenAttribute)>, Refusal> {
        opened(change, self.version)
    }
}

fn opened(change: &Change, version: u32) -> Result<Option<(u16, OpenAttribute)>, Refusal> {
    if change.redo != op::OPEN_ATTRIBUTE {
        return Ok(None);
    }
    let attribute = open_attribute(change.data(), version).ok_or(refuse(change.lsn, "opens no attribute"))?;
    Ok(Some((change.target, attribute)))
}

/// Reads everything from the oldest page that may be dirty to the end of the log.
pub(super) fn analyse(log: &Log, checkpoint: u64) -> Result<Work> {
    let Checkpoint { start, attributes, mut pages, mut transactions, version } = Checkpoint::read(log, checkpoint)?;
    let oldest = pages.values().map(|page| page.oldest).filter(|&lsn| lsn != 0).min().unwrap_or(start).min(start);
    let redo = changes(log, oldest)?;
    for change in redo.iter().filter(|change| change.lsn >= start) {
        follow_transaction(change, &mut transactions)?;
        if change.redo == op::DELETE_DIRTY_CLUSTERS {
            forget_clusters(change, &mut pages)?;
        } else if change.redo != op::OPEN_ATTRIBUTE && !change.lcns.is_empty() {
            let page = || DirtyPage { oldest: change.lsn, lcns: change.lcns.clone() };
            pages.entry((change.target, change.vcn)).or_insert_with(page);
        }
    }
    let undo = undo(log, &transactions)?;
    Ok(Work { redo, undo, pages, attributes, version })
}

/// All changes from record `lsn` to the last one of the log.
pub(super) fn changes(log: &Log, mut lsn: u64) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    loop {
        let raw = log.record(lsn)?;
        if let Kind::Change(change) = parse(&raw)? {
            if changes.len() == MAX_RECORDS {
                return Err(Refusal::Limit { what: "the number of log records", limit: MAX_RECORDS as u64 }.into());
            }
            changes.push(change);
        }
        if lsn >= log.newest {
            break;
        }
        if raw.next <= lsn {
            return Err(refuse(lsn, "is followed by an older one").into());
        }
        lsn = raw.next;
    }
    if lsn != log.newest {
        return Err(refuse(lsn, "should not be the last one").into());
    }
    Ok(changes)
}

fn follow_transaction(change: &Change, open: &mut BTreeMap<u32, Transaction>) -> Result<(), Refusal> {
    match change.redo {
        // What a committed transaction did stays done, whether it was forgotten yet or not.
        op::FORGET_TRANSACTION | op::COMMIT_TRANSACTION => {
            open.remove(&change.transaction);
        }
        op::PREPARE_TRANSACTION => return Err(refuse(change.lsn, "prepares a transaction")),
        _ => {
            let transaction = open.entry(change.transaction).or_insert(Transaction { undoes: false, last: 0 });
            transaction.undoes |= change.can_be_undone();
            transaction.last = change.lsn;
        }
    }
    Ok(())
}

/// Clusters that were freed: what the log says about them before is not to be written any more, they may hold
/// something else. The data is pairs of first cluster and count.
fn forget_clusters(change: &Change, pages: &mut BTreeMap<(u16, u64), DirtyPage>) -> Result<(), Refusal> {
    for range in change.data().chunks(16) {
        let fields = || {
            let (first, count) = (le64(range, 0)?, le64(range, 8)?);
            Some(first..first.checked_add(count)?)
        };
        let range = fields().ok_or(refuse(change.lsn, "frees no clusters"))?;
        let freed = |lcn: &u64| *lcn != 0 && range.contains(lcn);
        pages.retain(|_, page| !page.lcns.first().is_some_and(freed));
        if pages.values().any(|page| page.lcns.iter().any(freed)) {
            return Err(refuse(change.lsn, "frees a part of a page"));
        }
    }
    Ok(())
}

/// The changes of all transactions that were still open, turned round, newest first.
fn undo(log: &Log, transactions: &BTreeMap<u32, Transaction>) -> Result<Vec<Change>> {
    let mut undo = Vec::new();
    for (&number, transaction) in transactions.iter().filter(|(_, transaction)| transaction.undoes) {
        let mut lsn = transaction.last;
        while lsn != 0 {
            let Kind::Change(change) = parse(&log.record(lsn)?)? else {
                return Err(refuse(lsn, "is no change, yet to be undone").into());
            };
            if change.transaction != number {
                return Err(refuse(lsn, "is to be undone for a transaction it does not belong to").into());
            }
            // Records get older along the chain, so that it ends.
            if change.undo_next >= lsn {
                return Err(refuse(lsn, "is undone before a newer one").into());
            }
            lsn = change.undo_next;
            if change.can_be_undone() {
                undo.push(change.reversed());
            }
        }
    }
    undo.sort_by_key(|change| std::cmp::Reverse(change.lsn));
    Ok(undo)
}
