//! `info`: what a disk or VM consists of.

use serde_json::{Map, Value, json};
use vcb_fs::volume::{self, Scan, Volume};
use vcb_fs::{Census, Filesystem, Journal};
use vcb_mountd::plan::{self, MountPlan, PlannedDisk, open_filesystem};
use vcb_mountd::{Exit, Failure, Outcome};
use vcb_vmdk::vmsd::Snapshot;

use super::target;
use crate::args::Reading;
use crate::context::Context;
use crate::output::{Out, human_size, printable, put_name};

/// Shows what `spec` means. Everything that can be read is; volumes that cannot be are told with the reason.
pub fn run(spec: &str, quick: bool, reading: &Reading, context: &Context) -> Outcome<Exit> {
    let plan = target::plan(spec, reading, context)?;
    let snapshots = plan::snapshots(&target::place(spec, context)?, &context.config)?;
    let mut shown = Vec::new();
    let mut number = 0;
    for planned in plan.open_disks()? {
        let volumes = Volumes::of(&planned, &plan, quick, &mut number);
        shown.push((planned, volumes));
    }
    let mut out = Out::new();
    if context.json {
        let disks: Vec<Value> = shown.iter().map(|(planned, volumes)| disk_json(planned, volumes)).collect();
        out.line(json!({
            "name": plan.vm.name,
            "uuid": plan.vm.uuid,
            "files": plan.files,
            "snapshots": snapshots.all().iter().map(snapshot_json).collect::<Vec<_>>(),
            "disks": disks,
        }))?;
        return out.finish();
    }
    out.line(format_args!("{}", plan.vm.name))?;
    if let Some(uuid) = &plan.vm.uuid {
        out.line(format_args!("  uuid: {uuid}"))?;
    }
    for snapshot in snapshots.all() {
        let current = if snapshot.current { ", current" } else { "" };
        out.line(format_args!("  snapshot {}: '{}'{current}", snapshot.uid, printable(snapshot.name.as_bytes())))?;
    }
    for (planned, volumes) in &shown {
        disk_text(planned, volumes, &mut out)?;
    }
    out.finish()
}

/// The volumes of one disk, or why they are not known.
struct Volumes {
    scan: Result<Scan, Failure>,
    found: Vec<Found>,
}

struct Found {
    number: u32,
    volume: Volume,
    /// Filesystem, label, serial and notes, or why it cannot be read.
    fs: Result<FsFacts, String>,
}

struct FsFacts {
    kind: &'static str,
    label: Vec<u8>,
    serial: String,
    journal: Option<Journal>,
    notes: Vec<String>,
    /// How many files there are and cannot be read, or why that is not known; `None` when nobody asked.
    census: Option<Result<Census, String>>,
}

impl FsFacts {
    fn of(fs: &dyn Filesystem, quick: bool) -> Self {
        let census = match quick {
            true => None,
            false => fs.census().map_err(|err| err.report()).transpose(),
        };
        FsFacts {
            kind: fs.kind(),
            label: fs.label(),
            serial: fs.serial(),
            journal: fs.journal(),
            notes: fs.notes(),
            census,
        }
    }
}

impl Volumes {
    fn of(planned: &PlannedDisk, plan: &MountPlan, quick: bool, number: &mut u32) -> Volumes {
        let scan = volume::scan(planned.disk.block());
        let mut found = Vec::new();
        for volume in scan.iter().flat_map(|scan| &scan.volumes) {
            *number += 1;
            let fs = open_filesystem(volume, &plan.options);
            let fs = fs.map_err(|err| err.report()).map(|fs| FsFacts::of(&*fs, quick));
            found.push(Found { number: *number, volume: volume.clone(), fs });
        }
        if scan.is_err() {
            *number += 1;
        }
        let scan = scan.map_err(|err| Failure::reading("the volumes cannot be found", err));
        Volumes { scan, found }
    }
}

fn disk_text(planned: &PlannedDisk, volumes: &Volumes, out: &mut Out) -> Outcome<()> {
    let disk = &planned.disk;
    out.line(format_args!("disk {}: {} ({} bytes)", planned.plan.shown(), human_size(disk.len()), disk.len()))?;
    for warning in disk.warnings() {
        out.line(format_args!("  warning: {warning}"))?;
    }
    for (depth, link) in disk.links().iter().enumerate() {
        let role = if depth == 0 { "link" } else { "  on" };
        out.line(format_args!(
            "  {role} {}  {}  CID {:08x}{}",
            printable(link.name.as_bytes()),
            link.create_type,
            link.cid,
            if link.parent_cid == u32::MAX { String::new() } else { format!(", parent {:08x}", link.parent_cid) }
        ))?;
        for extent in &link.extents {
            out.line(format_args!(
                "       extent {:<10} {:>12}  {}",
                extent.kind.as_str(),
                human_size(extent.sectors.saturating_mul(512)),
                printable(extent.file.as_deref().unwrap_or_default().as_bytes())
            ))?;
        }
    }
    match &volumes.scan {
        Err(failure) => out.line(format_args!("  volumes: {failure:?}"))?,
        Ok(scan) => {
            out.line(format_args!("  partitions: {}", scan.scheme.as_str()))?;
            for warning in &scan.warnings {
                out.line(format_args!("  warning: {warning}"))?;
            }
        }
    }
    for found in &volumes.found {
        volume_text(found, out)?;
    }
    Ok(())
}

fn volume_text(found: &Found, out: &mut Out) -> Outcome<()> {
    let volume = &found.volume;
    out.line(format_args!(
        "  volume {}: {} at {:#x}, {}{}",
        found.number,
        human_size(volume.len),
        volume.start,
        printable(volume.type_name.as_bytes()),
        volume.name.as_ref().map(|name| format!(", '{}'", printable(name.as_bytes()))).unwrap_or_default()
    ))?;
    if let Some(problem) = &volume.problem {
        out.line(format_args!("    warning: it {problem}"))?;
    }
    match &found.fs {
        Ok(fs) => {
            out.line(format_args!("    {} '{}', serial {}", fs.kind, printable(&fs.label), fs.serial))?;
            if let Some(journal) = &fs.journal {
                out.line(format_args!("    log: {}", journal.text))?;
            }
            let told = |note: &&String| fs.journal.as_ref().is_none_or(|journal| journal.text != **note);
            for note in fs.notes.iter().filter(told) {
                out.line(format_args!("    note: {note}"))?;
            }
            match &fs.census {
                Some(Ok(census)) => out.line(format_args!("    {}", census_text(census)))?,
                Some(Err(why)) => out.line(format_args!("    files: not counted: {why}"))?,
                None => {}
            }
        }
        Err(why) => out.line(format_args!("    unreadable: {why}"))?,
    }
    Ok(())
}

fn census_text(census: &Census) -> String {
    if census.unreadable.is_empty() {
        return format!("files: {}, none known to be unreadable", census.files);
    }
    let kinds: Vec<String> = census.unreadable.iter().map(|(word, count)| format!("{count} {word}")).collect();
    format!("files: {}, unreadable: {}", census.files, kinds.join(", "))
}

fn snapshot_json(snapshot: &Snapshot) -> Value {
    let created = snapshot.created.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    json!({
        "uid": snapshot.uid,
        "name": snapshot.name,
        "description": snapshot.description,
        "parent": snapshot.parent,
        "created": created.map(|time| [time.as_secs(), u64::from(time.subsec_nanos())]),
        "current": snapshot.current,
    })
}

fn disk_json(planned: &PlannedDisk, volumes: &Volumes) -> Value {
    let disk = &planned.disk;
    let links: Vec<Value> = disk
        .links()
        .iter()
        .map(|link| {
            let extents: Vec<Value> = link
                .extents
                .iter()
                .map(|extent| {
                    json!({
                        "kind": extent.kind.as_str(),
                        "sectors": extent.sectors,
                        "file": extent.file,
                        "offset": extent.offset,
                    })
                })
                .collect();
            json!({
                "name": link.name,
                "create_type": link.create_type,
                "cid": format!("{:08x}", link.cid),
                "parent_cid": format!("{:08x}", link.parent_cid),
                "extents": extents,
            })
        })
        .collect();
    let scan = match &volumes.scan {
        Ok(scan) => json!({
            "scheme": scan.scheme.as_str(),
            "mbr_signature": scan.mbr_signature.map(|signature| format!("{signature:08x}")),
            "warnings": scan.warnings,
        }),
        Err(failure) => json!({ "problem": format!("{failure:?}") }),
    };
    json!({
        "node": planned.plan.node,
        "file": planned.plan.file,
        "size": disk.len(),
        "adapter": disk.ddb("adapterType"),
        "warnings": disk.warnings(),
        "chain": links,
        "partitions": scan,
        "volumes": volumes.found.iter().map(volume_json).collect::<Vec<_>>(),
    })
}

fn volume_json(found: &Found) -> Value {
    let volume = &found.volume;
    let mut object = Map::new();
    let fields = json!({
        "volume": found.number,
        "partition": volume.partition,
        "start": volume.start,
        "size": volume.len,
        "type": volume.type_name,
        "name": volume.name,
        "content": volume.content.as_str(),
        "problem": volume.problem.as_ref().map(ToString::to_string),
    });
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    match &found.fs {
        Ok(fs) => {
            object.insert("filesystem".to_owned(), fs.kind.into());
            put_name(&mut object, "label", &fs.label);
            object.insert("serial".to_owned(), fs.serial.clone().into());
            object.insert("notes".to_owned(), fs.notes.clone().into());
            let log = fs.journal.as_ref().map(|journal| json!({ "state": journal.state, "text": journal.text }));
            object.insert("log".to_owned(), log.into());
            match &fs.census {
                Some(Ok(census)) => {
                    object.insert("files".to_owned(), census.files.into());
                    object.insert("unreadable_files".to_owned(), json!(census.unreadable));
                }
                Some(Err(why)) => drop(object.insert("not_counted".to_owned(), why.clone().into())),
                None => {}
            }
        }
        Err(why) => {
            object.insert("unreadable".to_owned(), why.clone().into());
        }
    }
    Value::Object(object)
}
