//! The command line, as data. Help, manual and completions are made from it.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use vcb_mountd::Exit;
use vcb_mountd::config;

/// Backup proxy for VMware: mounts a VM's frozen disks as files or as images.
#[derive(Parser)]
#[command(name = "vcbmount", version, max_term_width = 100, after_help = exit_codes(), after_long_help = exit_codes())]
#[command(disable_help_subcommand = false, arg_required_else_help = true)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args)]
#[command(next_help_heading = "Common options")]
pub struct Global {
    /// Configuration file, laid over /etc/vcbmount/config.toml and ~/.config/vcbmount/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log more: -v each step, -vv how, -vvv every request
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Print no warnings and no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Append the log to FILE instead of printing it on stderr
    #[arg(long, global = true, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Form of log lines
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Print JSON, failures included (docs/json.md describes it)
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress; it is shown on stderr, and only on a terminal
    #[arg(long, global = true)]
    pub no_progress: bool,
}

/// Form of log lines.
#[derive(Clone, Copy, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

impl From<LogFormat> for config::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => config::LogFormat::Text,
            LogFormat::Json => config::LogFormat::Json,
        }
    }
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Reads configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Prints a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Prints the manual page
    Man,
}

/// What to do with configuration files.
#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Turns VCB's config.js or backuptools.conf into a configuration, on stdout
    ///
    /// Assignments are read, nothing is executed. A password in it is not printed: --password-file says where to
    /// put it.
    Import {
        /// The file to read
        file: PathBuf,
        /// Write the password found into FILE, readable by its owner alone, and refer to it
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Prints the configuration in effect, all layers merged
    Show,
}

/// The paragraph on exit codes of `--help` and of the manual.
pub fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n");
    for exit in Exit::ALL {
        text.push_str(&format!("  {:>3}  {}\n", exit.number(), exit.meaning()));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        super::Cli::command().debug_assert();
    }
}
