//! `config import` and `config show`.

use std::io::Write;
use std::path::{Path, PathBuf};

use vcb_mountd::config::{self, Config};
use vcb_mountd::{Code, Exit, Failure, Outcome};

use crate::args::ConfigCommand;
use crate::context::Context;
use crate::output::Out;

/// Runs `config …`.
pub fn run(command: ConfigCommand, context: &Context) -> Outcome<Exit> {
    match command {
        ConfigCommand::Import { file, password_file } => import(&file, password_file, context),
        ConfigCommand::Show => show(&context.config, context.json),
    }
}

fn import(file: &Path, password_file: Option<PathBuf>, context: &Context) -> Outcome<Exit> {
    let bytes = std::fs::read(file)
        .map_err(|err| Failure::new(Code::PathNotFound, format!("cannot read {}", file.display())).because(err))?;
    // Windows editors of VCB's days wrote the system's code page; only comments can hold anything but ASCII.
    let found = config::import(&String::from_utf8_lossy(&bytes));
    for note in &found.notes {
        context.warn(format_args!("{}: {note}", file.display()));
    }
    let mut config = found.config;
    match (found.password, password_file) {
        (Some(password), Some(target)) => {
            write_secret(&target, &password)?;
            match &mut config.vcenter {
                Some(vcenter) => vcenter.password_file = Some(target),
                None => context.warn("there is a password but no HOST to use it with"),
            }
        }
        (Some(_), None) => context.warn("the password in the file was left out; --password-file FILE stores it safely"),
        (None, Some(_)) => context.warn("there is no password in the file"),
        (None, None) => {}
    }
    show(&config, context.json)
}

/// Writes a new file that only its owner can read, from the moment it exists.
fn write_secret(path: &Path, secret: &str) -> Outcome<()> {
    let failed = |err: std::io::Error| {
        Failure::new(Code::Failed, format!("cannot write the password file {}", path.display()))
            .because(err)
            .next_step("Name a file that does not exist yet, in a folder you may write to.")
    };
    let mut file = vcb_mountd::host::create_private_file(path).map_err(failed)?;
    writeln!(file, "{secret}").and_then(|()| file.sync_all()).map_err(failed)
}

fn show(config: &Config, json: bool) -> Outcome<Exit> {
    let mut out = Out::new();
    if json {
        let value = serde_json::to_value(config)
            .map_err(|err| Failure::new(Code::Failed, "the configuration cannot be written as JSON").because(err))?;
        out.line(value)?;
    } else {
        out.bytes(config.to_toml()?.as_bytes())?;
    }
    out.finish()
}
