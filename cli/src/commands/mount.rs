//! `mount` and `run`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use vcb_mountd::config::{self, octal_mode};
use vcb_mountd::front::FrontOptions;
use vcb_mountd::orchestrate::{Mount, PASSWORD_VARIABLE, Proxy, Ran, Reached, Wanted};
use vcb_mountd::session::{Program, Show, StateDir};
use vcb_mountd::spec::Spec;
use vcb_mountd::view::{FileOptions, FullVmOptions, ImageType, StreamsAs};
use vcb_mountd::{Code, Exit, Failure, Outcome};

use super::sessions;
use crate::args::{Image, MountArgs, Streams};
use crate::context::Context;
use crate::output::{Out, failure_json, print_failure, printable};
use crate::sys;

/// Gives `work` everything that a backup needs.
pub fn with_proxy<T>(context: &Context, work: impl FnOnce(&Proxy<'_>) -> Outcome<T>) -> Outcome<T> {
    let program = Program::current(context.inherited.clone())?;
    let cancel = sys::stop_on_signals()?.into();
    work(&Proxy::new(&context.config, StateDir::usual()?, program, &prompt, cancel))
}

/// Asks for a password where there is somebody to ask, unless the environment has it.
fn prompt(text: &str) -> Option<String> {
    if std::env::var_os(PASSWORD_VARIABLE).is_some() || !std::io::stdin().is_terminal() {
        return None;
    }
    rpassword::prompt_password(text).ok()
}

/// Mounts and prints the path.
pub fn mount(args: &MountArgs, at: Option<PathBuf>, context: &Context) -> Outcome<Exit> {
    let spec = Spec::parse(&args.vm, context.config.mount.lookup)?;
    let wanted = wanted(args, spec, at, context)?;
    let mount = with_proxy(context, |proxy| proxy.mount(&wanted))?;
    let partial = tell_notes(&mount, context);
    let started = &mount.started;
    let mut out = Out::new();
    if context.json {
        out.line(json!({
            "mount": started.at.display().to_string(),
            "session": started.id,
            "vm": mount.vm,
            "reused": started.reused,
            "consistency": mount.reached.map(Reached::as_str),
            "notes": started.notes,
        }))?;
    } else {
        out.bytes(started.at.as_os_str().as_encoded_bytes())?;
        out.line("")?;
    }
    out.finish()?;
    // Now that the path is known to whoever asked. The session with the server has ended before.
    mount.keep()?;
    Ok(if partial { Exit::Partial } else { Exit::Done })
}

/// Mounts, runs the command, unmounts; for each VM that the specification means.
pub fn run(args: &MountArgs, jobs: usize, command: &[OsString], context: &Context) -> Outcome<Exit> {
    let spec = Spec::parse(&args.vm, context.config.mount.lookup)?;
    if spec.is_plural() {
        return run_all(args, &spec, jobs, command, context);
    }
    let wanted = wanted(args, spec, None, context)?;
    // The session with the server has ended before this process may exit.
    let ran = with_proxy(context, |proxy| proxy.run(&wanted, command))?;
    match (sys::exit_code(ran.status), tell_run(&ran, context)) {
        (0, false) => Ok(Exit::Done),
        (0, true) => Ok(Exit::Partial),
        (code, _) => std::process::exit(code),
    }
}

fn run_all(args: &MountArgs, spec: &Spec, jobs: usize, command: &[OsString], context: &Context) -> Outcome<Exit> {
    // Made before any VM is touched, so that wrong flags fail at once.
    let sample = wanted(args, spec.clone(), None, context)?;
    let wish = |spec: Spec| Wanted { spec, ..sample.clone() };
    let failed = AtomicUsize::new(0);
    let printing = Mutex::new(());
    let count = with_proxy(context, |proxy| {
        proxy.run_all(spec, jobs, &wish, command, &|vm, outcome| {
            let _one_at_a_time = printing.lock();
            let code = match outcome {
                Ok(ran) => match (sys::exit_code(ran.status), tell_run(ran, context)) {
                    (0, true) => i32::from(Exit::Partial.number()),
                    (code, _) => code,
                },
                Err(failure) => i32::from(failure.code().exit().number()),
            };
            failed.fetch_add(usize::from(code != 0), Ordering::Relaxed);
            let failure = outcome.as_ref().err();
            if context.json {
                println!(
                    "{}",
                    json!({ "vm": vm.name, "moref": vm.moref, "exit": code, "failure": failure.map(failure_json) })
                );
                return;
            }
            if let Some(failure) = failure {
                print_failure(failure, false);
            }
            println!("{:<8} {}", if code == 0 { "done" } else { "FAILED" }, printable(vm.name.as_bytes()));
        })
    })?;
    let failed = failed.into_inner();
    if count == 0 {
        return Err(Failure::new(Code::VmNotFound, format!("no VM matches '{spec}'")));
    }
    if !context.quiet {
        eprintln!("vcbmount: {} of {count} VMs done", count - failed);
    }
    Ok(match failed {
        0 => Exit::Done,
        failed if failed < count => Exit::Partial,
        _ => Exit::Failed,
    })
}

fn wanted(args: &MountArgs, spec: Spec, at: Option<PathBuf>, context: &Context) -> Outcome<Wanted> {
    Ok(Wanted {
        spec,
        choice: args.reading.choice(&context.config),
        show: show(args, context),
        at,
        front: front(args, context)?,
        preexisting: args.preexisting.map_or(context.config.mount.preexisting, Into::into),
    })
}

/// Tells what could not be read; true when there was anything.
fn tell_run(ran: &Ran, context: &Context) -> bool {
    let missing = tell_notes(&ran.mount, context);
    sessions::tell_unreadable(&ran.unmounted, context) || missing
}

fn show(args: &MountArgs, context: &Context) -> Show {
    let configured = &context.config.mount;
    match args.mode.map_or(configured.mode, Into::into) {
        config::Mode::File => Show::File(FileOptions {
            streams: match args.streams {
                Streams::Xattr => StreamsAs::Xattr,
                Streams::Files => StreamsAs::Files,
            },
            list_acl: args.list_acl || configured.list_acl,
            exclude: args.exclude.clone(),
        }),
        config::Mode::Fullvm => Show::Fullvm(FullVmOptions {
            image: match args.image {
                Image::Vmfs => ImageType::Vmfs,
                Image::Flat => ImageType::MonolithicFlat,
            },
        }),
    }
}

fn front(args: &MountArgs, context: &Context) -> Outcome<FrontOptions> {
    let configured = &context.config.mount;
    let usual = FrontOptions::default();
    let mode = |flag: Option<u16>, configured: &Option<String>, usual: u32| match (flag, configured) {
        (Some(mode), _) => Ok(u32::from(mode)),
        (None, Some(text)) => {
            octal_mode(text).map(u32::from).map_err(|why| Failure::new(Code::Config, "[mount] is wrong").because(why))
        }
        (None, None) => Ok(usual),
    };
    Ok(FrontOptions {
        uid: args.uid.or(configured.uid),
        gid: args.gid.or(configured.gid),
        file_mode: mode(args.file_mode, &configured.file_mode, usual.file_mode)?,
        dir_mode: mode(args.dir_mode, &configured.dir_mode, usual.dir_mode)?,
        allow_other: args.allow_other || configured.allow_other,
        ..usual
    })
}

/// Tells what a user should know about the mount; true when data is missing from it.
fn tell_notes(mount: &Mount, context: &Context) -> bool {
    if mount.reached == Some(Reached::CrashConsistent) {
        context.warn(format_args!("{} was not quiesced: its disks look as after a power cut", mount.vm.name));
    }
    for note in &mount.started.notes {
        if note.unreadable {
            eprintln!("vcbmount: unreadable: {}: {}", note.place, note.text);
        } else {
            context.warn(format_args!("{}: {}", note.place, note.text));
        }
    }
    mount.started.notes.iter().any(|note| note.unreadable)
}
