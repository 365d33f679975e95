//! The `vcbmount` binary: flags and glue. What it does lives in `vcb-mountd`.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod commands;
mod context;
mod logging;
mod output;
mod sys;

use std::process::ExitCode;

use clap::Parser;
use vcb_mountd::Exit;
use vcb_mountd::config::Config;

use args::Cli;
use context::Context;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => {
            // Help and version come this way too, and are no failure.
            let exit = if err.use_stderr() { Exit::Usage } else { Exit::Done };
            let _ = err.print();
            return ExitCode::from(exit.number());
        }
    };
    let outcome = Config::load(cli.global.config.as_deref()).and_then(|config| {
        logging::start(&cli.global, &config.log)?;
        commands::run(cli.command, Context::new(config, &cli.global))
    });
    let exit = outcome.unwrap_or_else(|failure| {
        output::print_failure(&failure, cli.global.json);
        failure.code().exit()
    });
    ExitCode::from(exit.number())
}
