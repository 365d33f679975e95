//! What `ls`, `cat` and `cp` point at: a path on a volume, or one on a datastore.

use std::ffi::OsStr;
use std::sync::Arc;

use vcb_block::{Error, Kind};
use vcb_fs::{FileId, FileType, Filesystem, NameBuf};
use vcb_mountd::datastore::{Datastore, Datastores, DsPath};
use vcb_mountd::plan::MountPlan;
use vcb_mountd::spec::{Place, Spec};
use vcb_mountd::vm::{OpenVm, OpenVolume};
use vcb_mountd::{Code, Failure, Outcome, lookup};

use crate::args::Reading;
use crate::context::Context;
use crate::output::{arg_bytes, printable};

/// A datastore and a path on it.
pub struct OnDatastore {
    pub store: Arc<dyn Datastore>,
    pub path: DsPath,
}

/// A file or folder of a volume.
pub struct OnVolume {
    pub fs: Arc<dyn Filesystem>,
    pub id: FileId,
    /// As the user wrote it, for messages.
    pub shown: String,
    /// Last component; empty for the root.
    pub name: NameBuf,
}

/// `[datastore] folder/file` without a path on a volume means the datastore itself.
pub fn on_datastore(disk: &str, context: &Context) -> Outcome<Option<OnDatastore>> {
    if !disk.starts_with('[') || std::path::Path::new(disk).exists() {
        return Ok(None);
    }
    let path: DsPath = disk.parse()?;
    let store = match context.config.datastore(&path.datastore) {
        Some(config) => Datastores::open_one(config)?,
        None => Arc::clone(Datastores::open_all(&context.config.datastores).0.get(&path.datastore)?),
    };
    Ok(Some(OnDatastore { store, path }))
}

/// Plans the VM or disk that `disk` means.
pub fn plan(disk: &str, reading: &Reading, context: &Context) -> Outcome<MountPlan> {
    let spec = Spec::parse(disk, context.config.mount.lookup)?;
    lookup::plan_one(&spec, &reading.choice(&context.config), &context.config)
}

/// Where the VM or disk that `disk` means is.
pub fn place(disk: &str, context: &Context) -> Outcome<Place> {
    match Spec::parse(disk, context.config.mount.lookup)? {
        Spec::Path(place) => Ok(place),
        spec => Ok(lookup::find_one(&spec, &context.config)?.place),
    }
}

/// Opens the VM or disk that `disk` means.
pub fn open(disk: &str, reading: &Reading, context: &Context) -> Outcome<OpenVm> {
    plan(disk, reading, context)?.open()
}

/// All volumes of a VM.
pub fn volumes(vm: &OpenVm) -> impl Iterator<Item = &OpenVolume> {
    vm.disks.iter().flat_map(|disk| &disk.volumes)
}

/// Finds `N:/path`. Each component is looked up exactly first and then as the guest would, without regard
/// to case.
pub fn on_volume(vm: &OpenVm, path: &OsStr) -> Outcome<OnVolume> {
    let bytes = arg_bytes(path);
    let shown = printable(bytes);
    let (number, rest) = split(bytes).ok_or_else(|| {
        Failure::new(Code::Usage, format!("'{shown}' is no path of the form N:/path"))
            .next_step("N is the number of a volume; 'vcbmount info' lists them.")
    })?;
    let volume = volumes(vm).find(|volume| volume.number == number).ok_or_else(|| {
        Failure::new(Code::PathNotFound, format!("there is no volume {number}"))
            .because(format!("{} has {} volumes", vm.name, volumes(vm).count()))
            .next_step("'vcbmount info' lists the volumes.")
    })?;
    let fs = match &volume.fs {
        Ok(fs) => Arc::clone(fs),
        Err(err) => {
            let code = Code::of(err.kind());
            return Err(Failure::new(code, format!("volume {number} cannot be read")).because(err.report()));
        }
    };
    let mut id = fs.root();
    let mut name: &[u8] = b"";
    for component in rest.split(|byte| *byte == b'/').filter(|component| !matches!(*component, b"" | b".")) {
        id = child(&*fs, id, component).map_err(|err| {
            let what = format!("cannot find '{}' of {shown}", printable(component));
            match err.kind() {
                Kind::NotFound => Failure::new(Code::PathNotFound, what).because(err),
                _ => Failure::reading(what, err),
            }
        })?;
        name = component;
    }
    Ok(OnVolume { id, shown, name: name.to_vec(), fs })
}

fn child(fs: &dyn Filesystem, dir: FileId, name: &[u8]) -> Result<FileId, Error> {
    if name == b".." {
        return fs.parent(dir);
    }
    if fs.attr(dir)?.kind != FileType::Dir {
        return Err(Error::new(Kind::NotFound, fs.kind(), "the part before it is no folder"));
    }
    match fs.child(dir, name) {
        Err(err) if err.kind() == Kind::NotFound => fs.child_ignore_case(dir, name).map(|(attr, _)| attr.id),
        found => found.map(|attr| attr.id),
    }
}

fn split(path: &[u8]) -> Option<(u32, &[u8])> {
    let colon = path.iter().position(|byte| *byte == b':')?;
    let number = std::str::from_utf8(&path[..colon]).ok()?.parse().ok()?;
    let rest = &path[colon + 1..];
    (rest.is_empty() || rest[0] == b'/').then_some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_paths_come_apart() {
        assert_eq!(split(b"2:/a/b"), Some((2, b"/a/b".as_slice())));
        assert_eq!(split(b"1:"), Some((1, b"".as_slice())));
        assert_eq!(split(b"C:/a"), None);
        assert_eq!(split(b"1:a"), None);
        assert_eq!(split(b"/a"), None);
    }
}
