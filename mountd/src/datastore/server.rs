//! A datastore read through the server's web access: the way that needs neither SAN nor share.
//!
//! Slow beside the others, and hosts refuse files that a VM has open for writing; frozen files of a snapshot
//! can be read. Reads go in large pieces, kept in a bounded cache; for a reader that goes on where it stopped
//! the next ones are fetched meanwhile.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lru::LruCache;
use vcb_block::ahead::{Ahead, Reach, Source};
use vcb_block::{Block, BlockRef, Error, Kind, Result, check_range};
use vcb_vmdk::{Resolved, Resolver, candidates};
use vcb_vsphere::{Client, DatastoreFile, KeepAlive};

use super::{Datastore, Entry, join, parent};
use crate::config::{ServerStore, VCenter};
use crate::failure::Outcome;
use crate::orchestrate;

const LAYER: &str = "https";
/// Unit of the cache.
const CHUNK: u64 = 1 << 20;
/// Chunks kept per file.
const KEPT: usize = 32;
/// Hosts serve some tens of MiB per second and connection: this is below a second. One of the four requests
/// that a session may have under way is left to readers.
const REACH: Reach = Reach { window: 8 * CHUNK, near: 2 * CHUNK, threads: 3 };

/// Sessions of this process, one per server, shared by all files.
static CLIENTS: Mutex<Vec<(String, Weak<Client>)>> = Mutex::new(Vec::new());

/// A datastore behind a server.
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    datacenter: String,
    client: Arc<Client>,
    /// A mount may stand idle for hours between two reads.
    _alive: KeepAlive,
}

impl Server {
    /// Logs in, or joins the session that this process has with that server.
    ///
    /// # Errors
    /// As [`orchestrate::connect`]; nobody is asked for a password.
    pub fn open(name: impl Into<String>, store: &ServerStore) -> Outcome<Self> {
        let client = shared_client(&store.server)?;
        let alive = KeepAlive::start(client.clone(), orchestrate::KEEP_ALIVE);
        let shared = Shared { name: name.into(), datacenter: store.datacenter.clone(), client, _alive: alive };
        Ok(Server { shared: Arc::new(shared) })
    }
}

fn shared_client(server: &VCenter) -> Outcome<Arc<Client>> {
    // Held while logging in, so that a mount of several datastores logs in once.
    let mut clients = CLIENTS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = format!("{}@{}", server.username, server.host);
    if let Some(client) = clients.iter().filter(|(known, _)| *known == key).find_map(|(_, client)| client.upgrade()) {
        return Ok(client);
    }
    let client = Arc::new(orchestrate::connect(server, &|_| None)?);
    clients.retain(|(_, client)| client.strong_count() > 0);
    clients.push((key, Arc::downgrade(&client)));
    Ok(client)
}

impl Datastore for Server {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn describe(&self) -> String {
        format!("'{}' through {}", self.shared.name, self.shared.client.host())
    }

    fn list(&self, _folder: &str) -> Result<Vec<Entry>> {
        Err(Error::unsupported(LAYER, "folders cannot be listed through the server").path(&self.shared.name))
    }

    fn open(&self, path: &str) -> Result<BlockRef> {
        self.shared.open(path)
    }

    fn resolver(&self) -> Result<Arc<dyn Resolver>> {
        Ok(self.shared.clone())
    }

    fn running(&self, _folder: &str) -> Result<Option<String>> {
        // Only the frozen files of a snapshot are planned through the server.
        Ok(None)
    }
}

impl Shared {
    fn open(&self, path: &str) -> Result<BlockRef> {
        let name = format!("[{}] {path}", self.name);
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !path.split('/').all(plain) {
            return Err(Error::new(Kind::Forbidden, LAYER, format!("'{path}' leads out of the datastore")));
        }
        let file = DatastoreFile::open(self.client.clone(), &self.datacenter, &self.name, path)
            .map_err(|err| convert(err).path(Path::new(&name)))?;
        let kept = std::num::NonZeroUsize::new(KEPT).unwrap_or(std::num::NonZeroUsize::MIN);
        let remote = Arc::new(Remote { file, name });
        let ahead = Ahead::new(Arc::clone(&remote), REACH);
        Ok(Arc::new(ServerFile { remote, cache: Mutex::new(LruCache::new(kept)), ahead }))
    }
}

impl Resolver for Shared {
    fn open(&self, from: &str, name: &str) -> Result<Resolved> {
        let mut first = None;
        for candidate in candidates(name) {
            let Some(path) = beside(from, &candidate) else { continue };
            match self.open(&path) {
                Ok(block) => return Ok(Resolved { name: path, block }),
                Err(err) if err.kind() == Kind::NotFound => {
                    first.get_or_insert(err);
                }
                Err(err) => return Err(err),
            }
        }
        Err(first.unwrap_or_else(|| {
            Error::new(Kind::Forbidden, LAYER, format!("'{name}' leads out of the datastore")).path(from)
        }))
    }

    fn siblings(&self, from: &str) -> Result<Vec<String>> {
        Err(Error::unsupported(LAYER, "folders cannot be listed through the server").path(from))
    }
}

/// `candidate` as seen from the folder of `from`; `None` when it leads out of the datastore.
fn beside(from: &str, candidate: &str) -> Option<String> {
    let mut folder = parent(from);
    let mut rest = candidate;
    while let Some(up) = rest.strip_prefix("../") {
        if folder.is_empty() {
            return None;
        }
        folder = parent(folder);
        rest = up;
    }
    (!rest.split('/').any(|part| part == "..")).then(|| join(folder, rest))
}

fn convert(err: vcb_vsphere::Error) -> Error {
    let kind = match &err {
        err if err.is_not_found() => Kind::NotFound,
        err if err.is_busy() => Kind::Busy,
        err if err.is_refused() => Kind::Denied,
        _ => Kind::Io,
    };
    Error::new(kind, LAYER, err)
}

/// A file in chunks.
struct Remote {
    file: DatastoreFile,
    name: String,
}

impl Remote {
    fn fetch(&self, number: u64) -> Result<Box<[u8]>> {
        let start = number * CHUNK;
        // At most a chunk.
        let len = CHUNK.min(self.file.len().saturating_sub(start)) as usize;
        let mut bytes = vec![0; len].into_boxed_slice();
        self.file.read_at(&mut bytes, start).map_err(|err| convert(err).path(Path::new(&self.name)).at(start))?;
        Ok(bytes)
    }
}

impl Source for Remote {
    type Job = u64;

    fn make(&self, number: u64) -> Option<Box<[u8]>> {
        self.fetch(number).ok()
    }
}

struct ServerFile {
    remote: Arc<Remote>,
    cache: Mutex<LruCache<u64, Arc<[u8]>>>,
    ahead: Ahead<Remote>,
}

impl ServerFile {
    fn cache(&self) -> MutexGuard<'_, LruCache<u64, Arc<[u8]>>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunk(&self, number: u64) -> Result<Arc<[u8]>> {
        if let Some(found) = self.cache().get(&number) {
            return Ok(Arc::clone(found));
        }
        let bytes = match self.ahead.take(number * CHUNK) {
            Some(bytes) => bytes,
            None => {
                // Another reader may have waited for the same one and taken it.
                if let Some(found) = self.cache().get(&number) {
                    return Ok(Arc::clone(found));
                }
                self.remote.fetch(number)?
            }
        };
        let chunk: Arc<[u8]> = bytes.into();
        self.cache().put(number, Arc::clone(&chunk));
        Ok(chunk)
    }

    /// The chunks for offsets `from..to` that are not here.
    fn list(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let numbers = from.div_ceil(CHUNK)..to.min(self.len()).div_ceil(CHUNK);
        let cache = self.cache();
        numbers.filter(|number| !cache.contains(number)).map(|number| (number * CHUNK, number)).collect()
    }
}

impl Block for ServerFile {
    fn len(&self) -> u64 {
        self.remote.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len(), offset, buf.len() as u64)?;
        self.ahead.note(offset, offset + buf.len() as u64, |from, to| self.list(from, to));
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let chunk = self.chunk(at / CHUNK)?;
            let within = (at % CHUNK) as usize;
            let count = (chunk.len() - within).min(buf.len() - done);
            buf[done..done + count].copy_from_slice(&chunk[within..within + count]);
            done += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_the_datastore() {
        assert_eq!(beside("vm/a.vmdk", "b.vmdk").unwrap(), "vm/b.vmdk");
        assert_eq!(beside("vm/a.vmdk", "../base/b.vmdk").unwrap(), "base/b.vmdk");
        assert_eq!(beside("", "vm/b.vmdk").unwrap(), "vm/b.vmdk");
        for (from, out) in [("a.vmdk", "../b.vmdk"), ("vm/a.vmdk", "../../b"), ("vm/a.vmdk", "x/../../b")] {
            assert!(beside(from, out).is_none(), "{out}");
        }
    }
}
