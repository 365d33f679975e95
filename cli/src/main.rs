//! The `vcbmount` binary: flags and glue. What it does lives in `vcb-mountd`.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod commands;
mod context;
mod logging;
mod output;
mod service;
mod sys;
mod vcb;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use vcb_mountd::Exit;
use vcb_mountd::config::Config;
use vcb_mountd::plan::MountPlan;
use vcb_mountd::session::{self, Program};

use args::{Background, Cli};
use context::Context;

fn main() -> ExitCode {
    if let Some(exit) = background() {
        return exit;
    }
    let mut args = std::env::args_os();
    if let Some(name) = args.next().and_then(|program| vcb::name(Path::new(&program))) {
        return ExitCode::from(vcb::main(name, args));
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => {
            // Help and version come this way too, and are no failure.
            let exit = if err.use_stderr() { Exit::Usage } else { Exit::Done };
            let _ = err.print();
            return ExitCode::from(exit.number());
        }
    };
    let outcome = context::load(cli.global.config.as_deref()).and_then(|config| {
        logging::start(&cli.global, &config.log)?;
        commands::run(cli.command, Context::new(config, &cli.global))
    });
    let exit = outcome.unwrap_or_else(|failure| {
        output::print_failure(&failure, cli.global.json);
        failure.code().exit()
    });
    ExitCode::from(exit.number())
}

/// Serves or watches a mount, when this process was started by `mount` to do so, or runs as a service. The words are no part of
/// the command line: nobody else is to use them.
fn background() -> Option<ExitCode> {
    let args: Vec<_> = std::env::args_os().collect();
    let [_, flags @ .., command] = args.as_slice() else { return None };
    let command = command.to_str().filter(|command| command.starts_with("__"))?;
    let program = Program::current(flags.to_vec()).ok()?;
    let global = Background::try_parse_from(std::iter::once(&args[0]).chain(flags)).ok()?.global;
    if command == service::COMMAND {
        return Some(service::run(global));
    }
    let config = Config::load(global.config.as_deref()).unwrap_or_default();
    if let Err(failure) = logging::start(&global, &config.log) {
        output::print_failure(&failure, global.json);
    }
    session::hidden(&program, command, &MountPlan::open, &sys::front_end())
}
