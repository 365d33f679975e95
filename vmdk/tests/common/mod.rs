//! A folder in memory as a resolver.

use std::collections::BTreeMap;
use std::sync::Arc;

use vcb_block::{BlockRef, Error, Kind, MemBlock, Result};
use vcb_vmdk::{Resolved, Resolver, candidates};

/// Files by name, without folders.
pub struct Memory(BTreeMap<String, BlockRef>);

impl Memory {
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let block = |bytes| Arc::new(MemBlock::new(bytes)) as BlockRef;
        Memory(files.into_iter().map(|(name, bytes)| (name, block(bytes))).collect())
    }

    /// Puts another block in the place of a file.
    #[allow(dead_code)]
    pub fn with(mut self, name: &str, block: BlockRef) -> Self {
        self.0.insert(name.to_owned(), block);
        self
    }

    #[allow(dead_code)]
    pub fn file(&self, name: &str) -> BlockRef {
        self.0[name].clone()
    }
}

impl Resolver for Memory {
    fn open(&self, _: &str, name: &str) -> Result<Resolved> {
        let found = candidates(name).into_iter().find_map(|name| Some((name.clone(), self.0.get(&name)?.clone())));
        match found {
            Some((name, block)) => Ok(Resolved { name, block }),
            None => Err(Error::new(Kind::NotFound, "memory", format!("no file '{name}'"))),
        }
    }

    fn siblings(&self, _: &str) -> Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }
}
