//! The command line, as data. Help, manual and completions are made from it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use vcb_mountd::Exit;
use vcb_mountd::config;
use vcb_mountd::plan::{Choice, ReadOptions};
use vcb_mountd::view::Exclude;

use crate::sys;

/// Backup proxy for VMware: mounts a VM's frozen disks as files or as images.
#[derive(Parser)]
#[command(name = "vcbmount", version, long_version = sys::LONG_VERSION, max_term_width = 100)]
#[command(after_help = exit_codes(), after_long_help = exit_codes())]
#[command(disable_help_subcommand = false, arg_required_else_help = true)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What a background process is started with: how to log, and no command.
#[derive(Parser)]
pub struct Background {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Flags of every command.
#[derive(Args)]
#[command(next_help_heading = "Common options")]
pub struct Global {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", help = sys::CONFIG_HELP)]
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
    /// Mounts a VM and prints the path, one line, once it can be read
    Mount {
        #[command(flatten)]
        what: MountArgs,
        /// Where
        #[arg(long, value_name = sys::AT, help = sys::AT_HELP)]
        at: Option<PathBuf>,
    },
    /// Unmounts what 'mount' has mounted; nothing to unmount is no failure
    Umount {
        /// The mount point, or the session's id
        #[arg(value_name = sys::AT_OR_SESSION)]
        target: String,
    },
    /// Mounts a VM, runs a command on it, and unmounts whatever happens
    #[command(long_about = sys::RUN_HELP)]
    Run {
        #[command(flatten)]
        what: MountArgs,
        /// VMs at the same time, when SPEC means several; 3 is the exit code when some of them failed
        #[arg(long, value_name = "N", default_value_t = 1)]
        jobs: usize,
        /// The command and its arguments, after --
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Prints which areas of a mounted VM's disks have changed since an earlier backup, as JSON
    Changed {
        /// The mount point, or the session's id
        #[arg(value_name = sys::AT_OR_SESSION)]
        session: String,
        /// The change id that the earlier backup recorded, or '*' for all that was ever written
        #[arg(long, value_name = "ID")]
        since: String,
        /// Only the disk attached here, such as scsi0:0
        #[arg(long, value_name = "NODE")]
        disk: Option<String>,
    },
    /// Shows a server's certificate, and trusts it from now on when you say so
    ///
    /// Compare the fingerprint with the one on the server's own console first. It is kept in trusted.toml in the
    /// state folder, and used when the configuration says nothing about the server's certificate.
    Trust(TrustArgs),
    /// Shows what is mounted, or was left behind
    Sessions,
    /// Puts right what crashes have left behind: our own mounts, folders and records, nobody else's
    Cleanup {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Lists VMs; each printed line is a SPEC that other commands take
    ///
    /// Without [vcenter] the configured datastores are searched for .vmx files.
    List {
        /// Which VMs: name:, uuid:, moref:, ipaddr:, any:, powerstate:on|off or path:
        #[arg(default_value = "any:")]
        spec: String,
    },
    /// Shows what a disk or VM consists of: chain, extents, volumes, and what would be unreadable
    Info {
        /// A VM (SPEC), its folder or .vmx, or a .vmdk
        #[arg(value_name = "DISK")]
        disk: String,
        /// Do not look at every file of the volumes, and so not count those that cannot be read
        #[arg(long)]
        quick: bool,
        #[command(flatten)]
        reading: Reading,
    },
    /// Lists a folder of a volume or of a datastore
    Ls {
        /// A VM (SPEC), its folder or .vmx, a .vmdk, or '[datastore] folder'
        #[arg(value_name = "DISK")]
        disk: String,
        /// N:/path, where N is the number of the volume as 'info' shows it; without it the volumes are listed
        path: Option<OsString>,
        /// List folders below, too
        #[arg(short = 'R', long)]
        recursive: bool,
        #[command(flatten)]
        reading: Reading,
    },
    /// Writes a file to stdout
    Cat {
        /// A VM (SPEC), its folder or .vmx, a .vmdk, or '[datastore] folder/file'
        #[arg(value_name = "DISK")]
        disk: String,
        /// N:/path, where N is the number of the volume
        path: Option<OsString>,
        /// A named stream instead of the content
        #[arg(long, value_name = "NAME")]
        stream: Option<OsString>,
        #[command(flatten)]
        reading: Reading,
    },
    /// Copies a file or folder to this host
    Cp {
        /// DISK N:/path TARGET, or '[datastore] folder/file' TARGET
        #[arg(num_args = 2..=3, required = true, value_names = ["DISK", "PATH", "TARGET"])]
        args: Vec<OsString>,
        /// Copy folders with all that is in them
        #[arg(short, long)]
        recursive: bool,
        /// A named stream instead of the content
        #[arg(long, value_name = "NAME", conflicts_with = "recursive")]
        stream: Option<OsString>,
        /// Replace files that exist
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        reading: Reading,
    },
    /// Copies a whole disk into one file, leaving out zeros
    Export {
        /// A VM (SPEC) or a disk
        #[arg(value_name = "DISK", required_unless_present = "vm")]
        disk: Option<String>,
        /// As DISK
        #[arg(long, value_name = "SPEC", conflicts_with = "disk")]
        vm: Option<String>,
        /// The file to write; it appears when it is whole
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// What to write
        #[arg(long, default_value = "raw")]
        format: ExportFormat,
        /// Replace FILE when it exists
        #[arg(short, long)]
        force: bool,
        /// Threads that read and compress
        #[arg(long, value_name = "N")]
        threads: Option<usize>,
        #[command(flatten)]
        reading: Reading,
    },
    /// Verifies the structure of a disk's chain; findings name file and offset
    ///
    /// Exits with 4 when bytes are lost, wrong or refused; warnings alone exit with 0.
    Check {
        /// A VM (SPEC), its folder or .vmx, a .vmdk, or an .ova
        #[arg(value_name = "DISK")]
        disk: String,
        #[command(flatten)]
        reading: Reading,
    },
    /// Looks for what is wrong
    #[command(about = sys::DOCTOR_HELP)]
    Doctor,
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

/// Which state of a VM is read, and how.
#[derive(Args)]
#[command(next_help_heading = "Reading")]
pub struct Reading {
    /// Read this snapshot (name or number) instead of the current state
    #[arg(long, visible_alias = "snapshot", value_name = "SNAPSHOT")]
    pub read_existing: Option<String>,
    /// Read the current state although the VM appears to be running; what is read may be inconsistent
    #[arg(long)]
    pub live: bool,
    /// Only the disk attached here, such as scsi0:0; may be repeated
    #[arg(long = "disk", value_name = "NODE")]
    pub nodes: Vec<String>,
    /// Read disks that were not closed, or whose files are longer than their descriptor says
    #[arg(long)]
    pub allow_dirty: bool,
    /// Read chains in which a parent changed after its child was made; the bytes mix two states
    #[arg(long)]
    pub ignore_cid: bool,
    /// Read NTFS volumes that were not closed as they are, without applying their log in memory
    #[arg(long)]
    pub no_replay: bool,
    /// Show NTFS's own files, $MFT and the rest
    #[arg(long)]
    pub metafiles: bool,
    /// Memory for disk metadata, in MiB [default: mount.cache_mib, 32]
    #[arg(long, value_name = "MIB")]
    pub cache: Option<u64>,
}

impl Reading {
    /// As the choice that plans take, over what the configuration says.
    pub fn choice(&self, config: &config::Config) -> Choice {
        let mut options = ReadOptions::from_config(config);
        options.allow_dirty = self.allow_dirty;
        options.ignore_cid = self.ignore_cid;
        options.metafiles |= self.metafiles;
        options.replay &= !self.no_replay;
        if let Some(mib) = self.cache {
            options.cache_bytes = mib.saturating_mul(1 << 20);
        }
        Choice { snapshot: self.read_existing.clone(), live: self.live, nodes: self.nodes.clone(), options }
    }
}

/// What is mounted, and how it is shown.
#[derive(Args)]
#[command(next_help_heading = "Mounting")]
pub struct MountArgs {
    /// The VM: name:, uuid:, moref:, ipaddr:, any:, or path: of a .vmx, .vmdk, .ova or VM folder
    #[arg(long, value_name = "SPEC")]
    pub vm: String,
    /// What to show: the guest's files, or the VM's folder with whole images [default: mount.mode, file]
    #[arg(long)]
    pub mode: Option<Mode>,
    /// What to do about a mount of ours that is there already [default: mount.preexisting, fail]
    #[arg(long, value_name = "POLICY")]
    pub preexisting: Option<Preexisting>,
    /// Owner of every file shown [default: you]
    #[arg(long, hide = !sys::POSIX)]
    pub uid: Option<u32>,
    /// Group of every file shown [default: yours]
    #[arg(long, hide = !sys::POSIX)]
    pub gid: Option<u32>,
    /// Permission bits of files, in octal [default: 0644, less the write bits for READONLY]
    #[arg(long, value_name = "MODE", value_parser = config::octal_mode, hide = !sys::POSIX)]
    pub file_mode: Option<u16>,
    /// Permission bits of folders, in octal [default: 0755]
    #[arg(long, value_name = "MODE", value_parser = config::octal_mode, hide = !sys::POSIX)]
    pub dir_mode: Option<u16>,
    /// Let other users read the mount
    #[arg(long, hide = !sys::POSIX)]
    pub allow_other: bool,
    /// List the security descriptor among the extended attributes
    #[arg(long, hide = !sys::POSIX)]
    pub list_acl: bool,
    /// How named streams are shown
    #[arg(long, default_value = "xattr")]
    pub streams: Streams,
    /// Leave out what a backup can do without: pagefile, hiberfil, swapfile, vss, recycle; a list with commas, may be
    /// repeated
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub exclude: Vec<Exclude>,
    /// How descriptors of a fullvm mount call their images
    #[arg(long, default_value = "vmfs")]
    pub image: Image,
    #[command(flatten)]
    pub reading: Reading,
}

/// What a mount shows.
#[derive(Clone, Copy, ValueEnum)]
pub enum Mode {
    /// letters/C/… and digits/1/…: the guest's own files
    File,
    /// The VM's folder: .vmx, descriptors and whole disk images
    Fullvm,
}

impl From<Mode> for config::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::File => config::Mode::File,
            Mode::Fullvm => config::Mode::Fullvm,
        }
    }
}

/// What to do about something of ours that is there already.
#[derive(Clone, Copy, ValueEnum)]
pub enum Preexisting {
    /// Stop
    Fail,
    /// Remove it and go on
    Delete,
    /// Use it when it shows the same
    Reuse,
}

impl From<Preexisting> for config::Preexisting {
    fn from(policy: Preexisting) -> Self {
        match policy {
            Preexisting::Fail => config::Preexisting::Fail,
            Preexisting::Delete => config::Preexisting::Delete,
            Preexisting::Reuse => config::Preexisting::Reuse,
        }
    }
}

/// How named streams are shown.
#[derive(Clone, Copy, ValueEnum)]
pub enum Streams {
    /// As extended attributes user.NAME; on Windows as streams, without more
    Xattr,
    /// As files FILE:NAME beside their file
    Files,
}

/// How descriptors call their images.
#[derive(Clone, Copy, ValueEnum)]
pub enum Image {
    /// createType vmfs, as on an ESXi host
    Vmfs,
    /// createType monolithicFlat, as of Workstation
    Flat,
}

/// What an export is written as.
#[derive(Clone, Copy, ValueEnum)]
pub enum ExportFormat {
    /// The disk's bytes, with holes for zeros
    Raw,
    /// A VMDK in one file (monolithicSparse)
    Vmdk,
    /// A compressed VMDK (streamOptimized), as in an OVA
    StreamVmdk,
}

/// Which server is to be trusted.
#[derive(Args)]
pub struct TrustArgs {
    /// The server, with :port when it is not 443
    pub host: String,
    /// Trust it without asking
    #[arg(long)]
    pub yes: bool,
    /// Trust it if its certificate has this SHA-256 fingerprint, and fail otherwise
    #[arg(long, value_name = "FINGERPRINT", conflicts_with = "yes")]
    pub expect: Option<String>,
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
    text + sys::NOTICE
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        super::Cli::command().debug_assert();
    }
}
