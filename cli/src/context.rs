//! What every command is given: the configuration and how to talk to the user.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use vcb_mountd::Outcome;
use vcb_mountd::config::Config;
use vcb_mountd::orchestrate::trust;
use vcb_mountd::session::StateDir;

use crate::args::{Global, LogFormat};

/// All layers of configuration files, with the certificate that was accepted for the server.
pub fn load(explicit: Option<&Path>) -> Outcome<Config> {
    let mut config = Config::load(explicit)?;
    // Without a state folder nothing was ever accepted; commands that need one say so.
    if let Ok(state) = StateDir::usual() {
        trust::apply(&mut config, state.root())?;
    }
    Ok(config)
}

/// Configuration and manners of one invocation.
pub struct Context {
    /// All layers of configuration files.
    pub config: Config,
    /// The file of `--config`, for processes started by this one.
    pub config_file: Option<PathBuf>,
    /// Print JSON instead of text.
    pub json: bool,
    /// Print no warnings and no progress.
    pub quiet: bool,
    /// Flags that processes started by this one are given: where the configuration is and how to log.
    pub inherited: Vec<OsString>,
    /// Show progress, when stderr is a terminal.
    pub progress: bool,
}

impl Context {
    /// From the global flags.
    pub fn new(config: Config, global: &Global) -> Self {
        Context {
            config,
            config_file: global.config.clone(),
            json: global.json,
            quiet: global.quiet,
            inherited: inherited(global),
            progress: !global.no_progress && !global.quiet,
        }
    }

    /// A condition that the user should know although the command goes on.
    pub fn warn(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("vcbmount: warning: {text}");
        }
    }
}

fn inherited(global: &Global) -> Vec<OsString> {
    let mut flags: Vec<OsString> = Vec::new();
    // The background process runs in another folder.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for (flag, path) in [("--config", &global.config), ("--log-file", &global.log_file)] {
        if let Some(path) = path {
            flags.extend([flag.into(), absolute(path).into_os_string()]);
        }
    }
    if let Some(format) = global.log_format {
        let name = match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        flags.extend(["--log-format".into(), name.into()]);
    }
    if global.verbose > 0 {
        flags.push(format!("-{}", "v".repeat(usize::from(global.verbose))).into());
    }
    flags
}
