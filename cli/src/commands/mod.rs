//! One file per command.

mod completions;
mod config;

use vcb_mountd::{Exit, Outcome};

use crate::args::Command;
use crate::context::Context;

/// Runs a command.
///
/// # Errors
/// What the command could not do; the code carries the exit code.
pub fn run(command: Command, context: Context) -> Outcome<Exit> {
    match command {
        Command::Config(command) => config::run(command, &context),
        Command::Completions { shell } => completions::completions(shell),
        Command::Man => completions::man(),
    }
}
