//! Makes plans: from a .vmx, a VM folder, a single disk or an OVA, at the current state or at a snapshot.

use std::path::PathBuf;

use vcb_block::Kind;
use vcb_vmdk::vmsd::Snapshots;
use vcb_vmdk::vmx::Vmx;

use super::ground::Ground;
use super::{DiskPlan, MountPlan, ReadOptions, VmIdentity, ova};
use crate::config::Config;
use crate::datastore::{Entry, file_name, join, parent};
use crate::failure::{Code, Failure, Outcome};
use crate::spec::{Place, uuid_text};

/// What of a VM is wanted.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Name or number of the snapshot to read; none for the current state.
    pub snapshot: Option<String>,
    /// Read the current state of a VM that appears to be running.
    pub live: bool,
    /// Only the disks attached here (`scsi0:0`); empty for all.
    pub nodes: Vec<String>,
    /// How to read.
    pub options: ReadOptions,
}

/// The sort of file a place is.
enum Subject {
    /// A VM's configuration, by its path in the ground's datastore.
    Vm(String),
    /// A disk by itself.
    Disk(String),
    /// An archive with disks in it, on this host.
    Ova(PathBuf),
}

impl MountPlan {
    /// Plans the VM or disk at `place`.
    ///
    /// # Errors
    /// [`Code::VmNotFound`] and [`Code::Ambiguous`] for the place, [`Code::SnapshotNotFound`],
    /// [`Code::Running`] for the current state of a VM that appears to be running, and what reading its
    /// configuration meets.
    pub fn make(place: &Place, choice: &Choice, config: &Config) -> Outcome<MountPlan> {
        let ground = Ground::of(place, config)?;
        match classify(&ground, place)? {
            Subject::Vm(vmx) => of_vm(&ground, &vmx, choice),
            Subject::Disk(path) => of_disk(&ground, &path, choice),
            Subject::Ova(file) => ova::plan(file, choice),
        }
    }
}

/// Which VM or disk is at `place`, and the place of its .vmx (or of the disk), without looking into any disk.
///
/// # Errors
/// As for [`MountPlan::make`], as far as the configuration is concerned.
pub fn identify(place: &Place, config: &Config) -> Outcome<(VmIdentity, Place)> {
    let ground = Ground::of(place, config)?;
    match classify(&ground, place)? {
        Subject::Vm(path) => {
            let vmx = read_vmx(&ground, &path)?;
            Ok((identity(&path, &vmx), ground.source.place(&ground.name(&path))?))
        }
        Subject::Ova(file) => Ok((ova::identity(&file), Place::Host(file))),
        Subject::Disk(path) => {
            // Only opening it tells whether it is there at all.
            let shown = ground.shown(&path);
            ground.store.open(&path).map_err(|err| Failure::reading(format!("cannot open {shown}"), err))?;
            let name = stem(&path).to_owned();
            Ok((VmIdentity { name, ..VmIdentity::default() }, ground.source.place(&ground.name(&path))?))
        }
    }
}

fn read_vmx(ground: &Ground, path: &str) -> Outcome<Vmx> {
    let bytes = ground.read(path)?;
    Vmx::parse(&bytes)
        .map_err(|err| Failure::reading(format!("cannot read the configuration {}", ground.shown(path)), err))
}

fn identity(vmx_path: &str, vmx: &Vmx) -> VmIdentity {
    VmIdentity {
        name: vmx.display_name().map_or_else(|| stem(vmx_path).to_owned(), str::to_owned),
        uuid: vmx.uuid_bios().and_then(uuid_text),
        moref: None,
    }
}

fn classify(ground: &Ground, place: &Place) -> Outcome<Subject> {
    let lower = ground.path.to_ascii_lowercase();
    let is_dir = match place {
        Place::Host(path) => path.is_dir(),
        Place::Datastore(_) => ground.store.list(&ground.path).is_ok(),
    };
    if is_dir {
        return vmx_of_folder(ground).map(Subject::Vm);
    }
    if lower.ends_with(".vmx") {
        return Ok(Subject::Vm(ground.path.clone()));
    }
    if lower.ends_with(".ova")
        && let Some(file) = ground.host_path()
    {
        return Ok(Subject::Ova(file));
    }
    Ok(Subject::Disk(ground.path.clone()))
}

/// The one .vmx of a VM folder.
fn vmx_of_folder(ground: &Ground) -> Outcome<String> {
    let entries = ground.list(&ground.path)?;
    let found: Vec<&Entry> =
        entries.iter().filter(|entry| !entry.is_dir && entry.name.to_ascii_lowercase().ends_with(".vmx")).collect();
    let shown = ground.shown(&ground.path);
    match found.as_slice() {
        [only] => Ok(join(&ground.path, &only.name)),
        [] => Err(Failure::new(Code::VmNotFound, format!("there is no .vmx file in {shown}"))
            .next_step("Name a .vmdk file in it to read one disk, or the folder of a VM.")),
        several => {
            let names: Vec<&str> = several.iter().map(|entry| entry.name.as_str()).collect();
            Err(Failure::new(Code::Ambiguous, format!("there are several .vmx files in {shown}"))
                .because(names.join(", "))
                .next_step("Name one of them."))
        }
    }
}

fn of_vm(ground: &Ground, vmx_path: &str, choice: &Choice) -> Outcome<MountPlan> {
    let shown = ground.shown(vmx_path);
    let vmx = read_vmx(ground, vmx_path)?;
    if vmx.is_encrypted() {
        return Err(Failure::new(Code::Unsupported, format!("the VM {shown} is encrypted"))
            .because("the names of its disks are encrypted too, and the keys are not available here"));
    }
    let vmx_name = ground.name(vmx_path);
    let current = current_disks(ground, &vmx_name, &vmx)?;
    let disks = match &choice.snapshot {
        None => current.clone(),
        Some(snapshot) => snapshot_disks(ground, vmx_path, snapshot)?,
    };
    let disks = select(disks, &choice.nodes, &shown)?;
    if !choice.live && disks.iter().any(|disk| current.iter().any(|leaf| leaf.file == disk.file)) {
        refuse_running(ground, parent(vmx_path), &shown)?;
    }
    Ok(MountPlan {
        vm: identity(vmx_path, &vmx),
        source: ground.source.clone(),
        files: small_files(ground, vmx_path, &vmx)?,
        disks,
        options: choice.options.clone(),
    })
}

/// The disks that the VM writes to, with their names within the source.
fn current_disks(ground: &Ground, vmx_name: &str, vmx: &Vmx) -> Outcome<Vec<DiskPlan>> {
    let resolver = ground.source.resolver()?;
    let disks = vmx.disks().into_iter().map(|disk| {
        let found = resolver
            .open(vmx_name, &disk.file_name)
            .map_err(|err| Failure::reading(format!("cannot find the disk {} ({})", disk.node, disk.file_name), err))?;
        Ok(DiskPlan { node: disk.node, file: found.name })
    });
    disks.collect()
}

/// The snapshots of the VM at `place`; none for a single disk.
///
/// # Errors
/// As for [`MountPlan::make`], as far as the configuration is concerned.
pub fn snapshots(place: &Place, config: &Config) -> Outcome<Snapshots> {
    let ground = Ground::of(place, config)?;
    match classify(&ground, place)? {
        Subject::Vm(path) => Ok(read_snapshots(&ground, &snapshot_list(&path))?.unwrap_or_default()),
        Subject::Disk(_) | Subject::Ova(_) => Ok(Snapshots::default()),
    }
}

/// Path of the list of a VM's snapshots.
fn snapshot_list(vmx_path: &str) -> String {
    join(parent(vmx_path), &format!("{}.vmsd", stem(vmx_path)))
}

/// Reads a list of snapshots; `None` when there is none.
fn read_snapshots(ground: &Ground, path: &str) -> Outcome<Option<Snapshots>> {
    if matches!(ground.store.open(path), Err(err) if err.kind() == Kind::NotFound) {
        return Ok(None);
    }
    let failed = |err| Failure::reading(format!("cannot read the list of snapshots {}", ground.shown(path)), err);
    Snapshots::parse(&ground.read(path)?).map(Some).map_err(failed)
}

/// The disks that a snapshot froze.
fn snapshot_disks(ground: &Ground, vmx_path: &str, wanted: &str) -> Outcome<Vec<DiskPlan>> {
    let path = snapshot_list(vmx_path);
    let snapshots = read_snapshots(ground, &path)?.ok_or_else(|| {
        Failure::new(Code::SnapshotNotFound, format!("there is no snapshot '{wanted}'"))
            .because(format!("there is no list of snapshots, {}", ground.shown(&path)))
    })?;
    let snapshot = snapshots.find(wanted).map_err(|err| {
        let several = snapshots.all().iter().filter(|snapshot| snapshot.name == wanted).count() > 1;
        let code = if several { Code::Ambiguous } else { Code::SnapshotNotFound };
        Failure::new(code, format!("cannot choose the snapshot '{wanted}'")).because(err)
    })?;
    let resolver = ground.source.resolver()?;
    let name = ground.name(&path);
    let disks = snapshot.disks.iter().map(|(node, file)| {
        let found = resolver.open(&name, file).map_err(|err| {
            Failure::reading(format!("cannot find the disk {node} of the snapshot '{wanted}' ({file})"), err)
        })?;
        Ok(DiskPlan { node: node.clone(), file: found.name })
    });
    disks.collect()
}

fn select(disks: Vec<DiskPlan>, nodes: &[String], shown: &str) -> Outcome<Vec<DiskPlan>> {
    let known: Vec<String> = disks.iter().map(|disk| disk.node.clone()).collect();
    if let Some(unknown) = nodes.iter().find(|node| !known.iter().any(|known| known.eq_ignore_ascii_case(node))) {
        return Err(Failure::new(Code::VmNotFound, format!("{shown} has no disk at {unknown}"))
            .because(format!(
                "it has disks at: {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            ))
            .next_step("Choose among those."));
    }
    let wanted = |disk: &DiskPlan| nodes.is_empty() || nodes.iter().any(|node| node.eq_ignore_ascii_case(&disk.node));
    Ok(disks.into_iter().filter(wanted).collect())
}

/// Fails when the VM in `folder` appears to be running.
fn refuse_running(ground: &Ground, folder: &str, shown: &str) -> Outcome<()> {
    let running = ground.store.running(folder);
    match running.map_err(|err| Failure::reading(format!("cannot tell whether {shown} is running"), err))? {
        Some(why) => Err(Failure::new(Code::Running, format!("{shown} appears to be running")).because(why)),
        None => Ok(()),
    }
}

/// The VM's small files that lie beside its configuration, the configuration first.
fn small_files(ground: &Ground, vmx_path: &str, vmx: &Vmx) -> Outcome<Vec<String>> {
    let folder = parent(vmx_path);
    let entries = ground.list(folder)?;
    let stem = stem(vmx_path);
    let nvram = vmx.get("nvram").map_or_else(|| format!("{stem}.nvram"), |name| file_name(name).to_owned());
    let wanted = [nvram, format!("{stem}.vmsd"), format!("{stem}.vmxf")];
    let mut files = vec![ground.name(vmx_path)];
    for name in wanted {
        if entries.iter().any(|entry| entry.name == name && !entry.is_dir) {
            files.push(ground.name(&join(folder, &name)));
        }
    }
    Ok(files)
}

fn of_disk(ground: &Ground, path: &str, choice: &Choice) -> Outcome<MountPlan> {
    let shown = ground.shown(path);
    if let Some(snapshot) = &choice.snapshot {
        return Err(Failure::new(Code::Usage, format!("{shown} is a disk, so no snapshot '{snapshot}' can be chosen"))
            .next_step("Name the VM's folder or .vmx to choose a snapshot, or the snapshot's own .vmdk."));
    }
    if !choice.live && is_current_of_its_folder(ground, path)? {
        refuse_running(ground, parent(path), &shown)?;
    }
    Ok(MountPlan {
        vm: VmIdentity { name: stem(path).to_owned(), ..VmIdentity::default() },
        source: ground.source.clone(),
        files: Vec::new(),
        disks: vec![DiskPlan { node: String::new(), file: ground.name(path) }],
        options: choice.options.clone(),
    })
}

/// True unless a .vmx beside the disk shows that another link than this one is written to.
fn is_current_of_its_folder(ground: &Ground, path: &str) -> Outcome<bool> {
    let folder = parent(path);
    let mut described = false;
    for entry in ground.list(folder)? {
        if entry.is_dir || !entry.name.to_ascii_lowercase().ends_with(".vmx") {
            continue;
        }
        let vmx_path = join(folder, &entry.name);
        let Ok(vmx) = Vmx::parse(&ground.read(&vmx_path)?) else { continue };
        for disk in vmx.disks() {
            described = true;
            if file_name(&disk.file_name.replace('\\', "/")).eq_ignore_ascii_case(file_name(path)) {
                return Ok(true);
            }
        }
    }
    Ok(!described)
}

/// A file name without its folder and extension.
pub(super) fn stem(path: &str) -> &str {
    let name = file_name(path);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}
