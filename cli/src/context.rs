//! What every command is given: the configuration and how to talk to the user.

use std::path::PathBuf;

use vcb_mountd::config::Config;

use crate::args::Global;

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
