//! `mount` and `run`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use vcb_mountd::config::{self, octal_mode};
use vcb_mountd::front::FrontOptions;
use vcb_mountd::plan::MountPlan;
use vcb_mountd::session::{self, Program, Request, Show, Started, StateDir};
use vcb_mountd::view::{FileOptions, FullVmOptions, ImageType, StreamsAs};
use vcb_mountd::{Code, Exit, Failure, Outcome};

use super::{sessions, target};
use crate::args::{Image, MountArgs, Streams};
use crate::context::Context;
use crate::output::Out;
use crate::sys;

/// Mounts and prints the path.
pub fn mount(args: &MountArgs, at: Option<PathBuf>, context: &Context) -> Outcome<Exit> {
    let state = StateDir::usual()?;
    let started = start(args, at, &state, context)?;
    let partial = tell_notes(&started, context);
    let mut out = Out::new();
    if context.json {
        out.line(json!({
            "mount": started.at.display().to_string(),
            "session": started.id,
            "reused": started.reused,
            "notes": started.notes,
        }))?;
    } else {
        out.bytes(started.at.as_os_str().as_encoded_bytes())?;
        out.line("")?;
    }
    out.finish()?;
    Ok(if partial { Exit::Partial } else { Exit::Done })
}

/// Mounts, runs the command, unmounts.
pub fn run(args: &MountArgs, command: &[OsString], context: &Context) -> Outcome<Exit> {
    // Caught from here on, so that unmounting is not cut off: a terminal's Ctrl-C reaches the command too.
    let stop = sys::stop_on_signals()?;
    let state = StateDir::usual()?;
    let started = start(args, None, &state, context)?;
    let mut partial = tell_notes(&started, context);
    let outcome = run_on(&started.at, command, &stop);
    let unmounted = session::umount(&state, &started.id);
    match &unmounted {
        Ok(unmounted) => partial |= sessions::tell_unreadable(unmounted, context),
        // The command's failure is told first; this one must not be lost.
        Err(failure) if outcome.is_err() => context.warn(format_args!("{failure:?}")),
        Err(_) => {}
    }
    let code = outcome?;
    unmounted?;
    if stop.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(Failure::new(Code::Interrupted, "the command was interrupted"));
    }
    match code {
        0 if partial => Ok(Exit::Partial),
        0 => Ok(Exit::Done),
        code => std::process::exit(code),
    }
}

/// Runs the command and gives its exit code; a signal that ended it counts as 128 and its number.
fn run_on(at: &Path, command: &[OsString], stop: &std::sync::atomic::AtomicBool) -> Outcome<i32> {
    let (program, args) =
        command.split_first().ok_or_else(|| Failure::new(Code::Usage, "there is no command to run"))?;
    let with_path = |arg: &OsString| if arg == "{}" { at.as_os_str().to_owned() } else { arg.clone() };
    let failed = |err: std::io::Error| {
        Failure::new(Code::Failed, format!("cannot run {}", program.display()))
            .because(err)
            .next_step("Check the command after --; it is run directly, without a shell.")
    };
    let mut child =
        Command::new(program).args(args.iter().map(with_path)).env("VCB_MOUNT", at).spawn().map_err(failed)?;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(sys::exit_code(status));
        }
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            sys::terminate(&child);
            return Ok(sys::exit_code(child.wait().map_err(failed)?));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn start(args: &MountArgs, at: Option<PathBuf>, state: &StateDir, context: &Context) -> Outcome<Started> {
    let plan = target::plan(&args.vm, &args.reading, context)?;
    let id = session::new_id();
    let request = Request {
        at: at.unwrap_or_else(|| default_mount_point(&plan, &id, state, context)),
        show: show(args, context),
        front: front(args, context)?,
        id,
        plan,
    };
    let preexisting = args.preexisting.map_or(context.config.mount.preexisting, Into::into);
    session::start(state, &request, preexisting, &Program::current(context.inherited.clone())?)
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

/// A folder of its own below the configured root, called after the VM. The session's id keeps two mounts of
/// one VM apart.
fn default_mount_point(plan: &MountPlan, id: &str, state: &StateDir, context: &Context) -> PathBuf {
    let root = context.config.mount.root.clone().unwrap_or_else(|| state.root().join("mnt"));
    let plain = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let name: String = plan.vm.name.chars().map(plain).take(64).collect();
    root.join(format!("{}-{id}", name.trim_start_matches('.')))
}

/// Tells what a user should know about the mount; true when data is missing from it.
fn tell_notes(started: &Started, context: &Context) -> bool {
    for note in &started.notes {
        if note.unreadable {
            eprintln!("vcbmount: unreadable: {}: {}", note.place, note.text);
        } else {
            context.warn(format_args!("{}: {}", note.place, note.text));
        }
    }
    started.notes.iter().any(|note| note.unreadable)
}
