//! One file per command.

mod cat;
mod check;
mod completions;
mod config;
mod cp;
pub mod doctor;
mod export;
mod info;
mod list;
mod ls;
mod luns;
pub mod mount;
mod server;
mod sessions;
mod target;

use vcb_mountd::{Exit, Outcome};

use crate::args::Command;
use crate::context::Context;

/// Runs a command.
///
/// # Errors
/// What the command could not do; the code carries the exit code.
pub fn run(command: Command, context: Context) -> Outcome<Exit> {
    match command {
        Command::Mount { what, at } => mount::mount(&what, at, &context),
        Command::Umount { target } => sessions::umount(&target, &context),
        Command::Run { what, jobs, command } => mount::run(&what, jobs, &command, &context),
        Command::Changed { session, since, disk } => server::changed(&session, disk.as_deref(), &since, &context),
        Command::Trust(args) => server::trust(&args, &context),
        Command::Sessions => sessions::list(&context),
        Command::Cleanup { dry_run } => sessions::cleanup(dry_run, &context),
        Command::List { spec } => list::run(&spec, &context),
        Command::Info { disk, quick, reading } => info::run(&disk, quick, &reading, &context),
        Command::Ls { disk, path, recursive, reading } => {
            ls::run(&disk, path.as_deref(), recursive, &reading, &context)
        }
        Command::Cat { disk, path, stream, reading } => {
            cat::run(&disk, path.as_deref(), stream.as_deref(), &reading, &context)
        }
        Command::Cp { args, recursive, stream, force, reading } => {
            cp::run(&args, &cp::How { recursive, stream, force }, &reading, &context)
        }
        Command::Export { disk, vm, to, format, force, threads, reading } => {
            let spec = disk.or(vm).unwrap_or_default();
            export::run(&spec, &export::How { to, format, force, threads }, &reading, &context)
        }
        Command::Check { disk, reading } => check::run(&disk, &reading, &context),
        Command::Doctor => doctor::run(&context),
        Command::Config(command) => config::run(command, &context),
        Command::Completions { shell } => completions::completions(shell),
        Command::Man => completions::man(),
    }
}
