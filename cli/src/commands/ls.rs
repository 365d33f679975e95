//! `ls`: folders of volumes and datastores.

use std::ffi::OsStr;
use std::ops::ControlFlow;

use serde_json::{Map, Value, json};
use vcb_fs::{Attr, FileId, FileType, Filesystem, Time, Unreadable};
use vcb_mountd::vm::OpenVm;
use vcb_mountd::{Exit, Failure, Outcome};

use super::target::{self, OnDatastore, OnVolume};
use crate::args::Reading;
use crate::context::Context;
use crate::output::{Out, human_size, print_failure, printable, put_name, time_text};

/// Lists what `disk` and `path` mean.
pub fn run(disk: &str, path: Option<&OsStr>, recursive: bool, reading: &Reading, context: &Context) -> Outcome<Exit> {
    let Some(path) = path else {
        return match target::on_datastore(disk, context)? {
            Some(place) => list_datastore(&place, context),
            None => list_volumes(&target::open(disk, reading, context)?, context),
        };
    };
    let vm = target::open(disk, reading, context)?;
    let place = target::on_volume(&vm, path)?;
    let mut listing = Listing { out: Out::new(), context, fs: &*place.fs, failed: false };
    listing.start(&place, recursive)?;
    let failed = listing.failed;
    listing.out.finish()?;
    Ok(if failed { Exit::Partial } else { Exit::Done })
}

fn list_datastore(place: &OnDatastore, context: &Context) -> Outcome<Exit> {
    let failed = |err| Failure::reading(format!("cannot list {}", place.path), err);
    let mut out = Out::new();
    for entry in place.store.list(&place.path.path).map_err(failed)? {
        let kind = if entry.is_dir { "dir" } else { "file" };
        if context.json {
            out.line(json!({
                "name": entry.name,
                "type": kind,
                "size": entry.size,
                "modified": entry.modified.map(time_json),
                "unreadable": entry.unreadable,
            }))?;
        } else {
            let time = entry.modified.map_or_else(|| "-".to_owned(), time_text);
            let note = entry.unreadable.map(|why| format!("  [{why}]")).unwrap_or_default();
            out.line(format_args!(
                "{kind:<4} {:>16} {time:<19} {}{note}",
                entry.size,
                printable(entry.name.as_bytes())
            ))?;
        }
    }
    out.finish()
}

fn list_volumes(vm: &OpenVm, context: &Context) -> Outcome<Exit> {
    let mut out = Out::new();
    for volume in target::volumes(vm) {
        let (kind, label, problem) = match &volume.fs {
            Ok(fs) => (fs.kind(), fs.label(), None),
            Err(err) => ("-", Vec::new(), Some(err.report())),
        };
        if context.json {
            let mut object = Map::new();
            object.insert("volume".to_owned(), volume.number.into());
            object.insert("filesystem".to_owned(), kind.into());
            object.insert("size".to_owned(), volume.len.into());
            put_name(&mut object, "label", &label);
            object.insert("problem".to_owned(), problem.into());
            out.line(Value::Object(object))?;
        } else {
            let note = problem.unwrap_or_else(|| printable(&label));
            out.line(format_args!("{}:  {kind:<6} {:>10}  {note}", volume.number, human_size(volume.len)))?;
        }
    }
    out.finish()
}

struct Listing<'a> {
    out: Out,
    context: &'a Context,
    fs: &'a dyn Filesystem,
    failed: bool,
}

/// A folder still to be listed, with its path below the one the user named.
struct Pending {
    id: FileId,
    path: Vec<u8>,
}

impl Listing<'_> {
    fn start(&mut self, place: &OnVolume, recursive: bool) -> Outcome<()> {
        let failed = |err| Failure::reading(format!("cannot read {}", place.shown), err);
        let attr = self.fs.attr(place.id).map_err(failed)?;
        if attr.kind != FileType::Dir {
            return self.line(&place.name, &attr);
        }
        // A list instead of recursion: the depth of a hostile tree must not be that of our stack.
        let mut pending = vec![Pending { id: place.id, path: Vec::new() }];
        let mut first = true;
        while let Some(folder) = pending.pop() {
            let listed = self.folder(&folder, recursive.then_some(&mut pending));
            match listed {
                Err(failure) if first => return Err(failure),
                Err(failure) => self.report(&failure),
                Ok(()) => {}
            }
            first = false;
        }
        Ok(())
    }

    fn folder(&mut self, folder: &Pending, mut pending: Option<&mut Vec<Pending>>) -> Outcome<()> {
        let mut entries = Vec::new();
        let read = self.fs.read_dir(folder.id, 0, &mut |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        });
        // What was read before a failure is shown all the same.
        for entry in entries {
            let attr = self.fs.attr_as(folder.id, &entry.name, entry.id);
            let path = if folder.path.is_empty() {
                entry.name
            } else {
                [folder.path.as_slice(), b"/", entry.name.as_slice()].concat()
            };
            match attr {
                Ok(attr) => {
                    self.line(&path, &attr)?;
                    if let Some(pending) = pending.as_deref_mut()
                        && attr.kind == FileType::Dir
                    {
                        pending.push(Pending { id: entry.id, path });
                    }
                }
                Err(err) => self.report(&Failure::reading(format!("cannot read '{}'", printable(&path)), err)),
            }
        }
        read.map_err(|err| Failure::reading(format!("cannot list '/{}' to its end", printable(&folder.path)), err))
    }

    fn report(&mut self, failure: &Failure) {
        print_failure(failure, self.context.json);
        self.failed = true;
    }

    fn line(&mut self, name: &[u8], attr: &Attr) -> Outcome<()> {
        if self.context.json {
            return self.out.line(attr_json(name, attr));
        }
        let kind = type_word(attr.kind);
        let note = attr.unreadable.as_ref().map(|why| format!("  [{}]", unreadable_text(why))).unwrap_or_default();
        self.out.line(format_args!(
            "{kind:<4} {:>16} {} {}{note}",
            attr.size,
            time_text(attr.modified),
            printable(name)
        ))
    }
}

fn type_word(kind: FileType) -> &'static str {
    match kind {
        FileType::File => "file",
        FileType::Dir => "dir",
        FileType::Symlink => "link",
        FileType::Other => "-",
    }
}

fn unreadable_text(why: &Unreadable) -> String {
    match why {
        Unreadable::Encrypted => "encrypted by EFS".to_owned(),
        Unreadable::Deduplicated => "deduplicated".to_owned(),
        Unreadable::CloudPlaceholder { .. } => "not on this volume but in the cloud".to_owned(),
        Unreadable::UnknownReparse { tag } => format!("unknown reparse tag {tag:#010x}"),
        Unreadable::Other(why) => why.clone(),
    }
}

fn time_json(time: Time) -> Value {
    let (seconds, nanoseconds) = time.unix();
    json!([seconds, nanoseconds])
}

fn attr_json(name: &[u8], attr: &Attr) -> Value {
    let mut object = Map::new();
    put_name(&mut object, "name", name);
    let fields = json!({
        "type": type_word(attr.kind),
        "id": attr.id.0,
        "size": attr.size,
        "allocated": attr.allocated,
        "links": attr.links,
        "modified": time_json(attr.modified),
        "changed": time_json(attr.changed),
        "accessed": time_json(attr.accessed),
        "created": time_json(attr.created),
        "attributes": attr.dos,
        "unreadable": attr.unreadable.as_ref().map(unreadable_text),
    });
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    Value::Object(object)
}
