//! Sends `tracing` events to stderr or a file, as text or JSON lines.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::sync::Mutex;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use vcb_mountd::config::{LogConfig, LogFormat, LogLevel};
use vcb_mountd::{Code, Failure, Outcome};

use crate::args::Global;

/// Installs the logger for one of VCB's levels, 0 to 6, of which 3 is the usual one.
pub fn start_at(level: u8) {
    let level = match level {
        0..=2 => LevelFilter::ERROR,
        3 => LevelFilter::WARN,
        4 => LevelFilter::INFO,
        5 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let _ = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).try_init();
}

/// The flags that stand for one of VCB's levels.
pub fn flags_at(level: u8) -> Vec<OsString> {
    if level > 3 { vec![format!("-{}", "v".repeat(usize::from(level - 3))).into()] } else { Vec::new() }
}

/// Installs the process's logger. Flags win over the configuration.
///
/// # Errors
/// When the log file cannot be opened.
pub fn start(global: &Global, config: &LogConfig) -> Outcome<()> {
    let level = match (global.quiet, global.verbose, config.level) {
        (true, ..) => LevelFilter::ERROR,
        (_, 1, _) => LevelFilter::INFO,
        (_, 2, _) => LevelFilter::DEBUG,
        (_, 3.., _) => LevelFilter::TRACE,
        (.., LogLevel::Error) => LevelFilter::ERROR,
        (.., LogLevel::Warn) => LevelFilter::WARN,
        (.., LogLevel::Info) => LevelFilter::INFO,
        (.., LogLevel::Debug) => LevelFilter::DEBUG,
        (.., LogLevel::Trace) => LevelFilter::TRACE,
    };
    let file = global.log_file.as_ref().or(config.file.as_ref());
    let writer = match file {
        None => BoxMakeWriter::new(std::io::stderr),
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path).map_err(|err| {
                Failure::new(Code::Config, format!("cannot write the log file {}", path.display())).because(err)
            })?;
            BoxMakeWriter::new(Mutex::new(file))
        }
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(writer).with_ansi(false);
    // A second logger in one process is a mistake of ours that must not cost a backup.
    let _ = match global.log_format.map_or(config.format, Into::into) {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}
