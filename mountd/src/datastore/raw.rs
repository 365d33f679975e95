//! Raw devices of a datastore: what its mapping files and descriptors call them, and where they are here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use vcb_block::{BlockRef, DeviceSource, Result, RetryBlock, RetryPolicy, Trouble};

/// An open device, by its path.
type Device = (PathBuf, Arc<RetryBlock>);

/// The devices that a datastore is read from, for telling how they do.
#[derive(Clone, Default)]
pub(super) struct Devices(Arc<Mutex<Vec<Device>>>);

impl Devices {
    /// Opens `path` past the page cache; a path that fails for a while is tried again.
    pub fn open(&self, path: &PathBuf) -> Result<BlockRef> {
        let source: BlockRef = Arc::new(DeviceSource::open(path)?);
        let device = Arc::new(RetryBlock::new(source, RetryPolicy::default()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((path.clone(), Arc::clone(&device)));
        Ok(device)
    }

    /// The worst trouble of all devices.
    pub fn trouble(&self) -> Option<Trouble> {
        let devices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let troubles = devices.iter().filter_map(|(path, device)| {
            let trouble = device.trouble()?;
            Some(Trouble { reason: format!("{}: {}", path.display(), trouble.reason), ..trouble })
        });
        troubles.max_by_key(|trouble| trouble.kind)
    }
}

/// Raw devices that are configured for a datastore.
#[derive(Clone, Default)]
pub(super) struct RawDevices {
    paths: BTreeMap<String, PathBuf>,
    devices: Devices,
}

impl RawDevices {
    pub fn new(paths: &BTreeMap<String, PathBuf>, devices: Devices) -> Self {
        RawDevices { paths: paths.clone(), devices }
    }

    /// True when there is a device called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.paths.contains_key(name)
    }

    /// Opens the device called `name`; `None` when there is none.
    pub fn open(&self, name: &str) -> Result<Option<BlockRef>> {
        self.paths.get(name).map(|path| self.devices.open(path)).transpose()
    }

    pub fn trouble(&self) -> Option<Trouble> {
        self.devices.trouble()
    }
}
