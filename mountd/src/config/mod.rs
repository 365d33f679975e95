//! The configuration: TOML files in layers, each laid over the one before.
//!
//! `/etc/vcbmount/config.toml`, then `$XDG_CONFIG_HOME/vcbmount/config.toml`, then the file of `--config`,
//! then flags. Tables merge key by key, `[[datastore]]` entries by their `name`. A key that is not known is
//! an error, with the nearest known key as a suggestion: a misspelt key that is silently ignored would
//! change what a backup contains.

mod import;
mod keys;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Code, Failure, Outcome};
use crate::sys;

pub use import::import;

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where VMs are found and snapshotted; without it they are found in the datastores themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcenter: Option<VCenter>,
    /// Where disks are read from.
    #[serde(rename = "datastore", skip_serializing_if = "Vec::is_empty")]
    pub datastores: Vec<DatastoreConfig>,
    /// How mounts are made.
    pub mount: MountConfig,
    /// How VMs are frozen.
    pub snapshot: SnapshotConfig,
    /// What runs on the proxy around a backup.
    pub hooks: HooksConfig,
    /// What is logged, and where.
    pub log: LogConfig,
}

/// A vCenter or an ESXi host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VCenter {
    /// Name or address, with `:port` when it is not 443.
    pub host: String,
    /// Account to log in with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// File with the password alone; refused when others than its owner can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// PEM file of the authority that signed the server's certificate, when the system does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the server's certificate in hex, when it is to be trusted for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Ways to the disks, tried in this order.
    #[serde(default = "VCenter::default_transports")]
    pub transports: Vec<Transport>,
    /// Forbid moving the VM's storage while its disks are read. Needs a privilege of its own.
    #[serde(default)]
    pub hold_relocation: bool,
}

impl VCenter {
    /// A server of which only the address is known.
    #[must_use]
    pub fn at(host: impl Into<String>) -> Self {
        VCenter {
            host: host.into(),
            username: String::new(),
            password_file: None,
            ca_file: None,
            fingerprint: None,
            transports: Self::default_transports(),
            hold_relocation: false,
        }
    }

    fn default_transports() -> Vec<Transport> {
        vec![Transport::San, Transport::File]
    }
}

/// A way to the bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// VMFS on a LUN that this host can read.
    San,
    /// A folder of this host, such as a mounted NFS datastore.
    File,
    /// The server's own web access to datastore files.
    Https,
}

/// A place where VMs live. Exactly one of `path` and `lun` is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DatastoreConfig {
    /// Its name, as in `[name] folder/file`.
    pub name: String,
    /// A folder of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Block devices or image files that together hold one VMFS volume; or `uuid:…` or `label:…` alone, to find
    /// them among the block devices of this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lun: Vec<PathBuf>,
    /// Raw devices that mapping files and descriptors on it name, by the id or name they have there, and where
    /// they are on this host.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub raw_devices: BTreeMap<String, PathBuf>,
    /// Read through a server's web access. Plans say this; it is not a key of configuration files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Box<ServerStore>>,
}

/// A datastore behind a server's web access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStore {
    /// The server.
    pub server: VCenter,
    /// Inventory path of the datacenter that the datastore is in.
    pub datacenter: String,
}

/// How mounts are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountConfig {
    /// Folder in which a mount without `--at` gets a folder of its own. Unset: one in the state folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// What a mount shows when `--mode` is not given.
    pub mode: Mode,
    /// How a bare word that is no path is looked up.
    pub lookup: LookupMethod,
    /// What to do with a mount point that holds a mount of ours already.
    pub preexisting: Preexisting,
    /// Owner of every file shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group of every file shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Permission bits of files, in octal text such as `"0640"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<String>,
    /// Permission bits of folders, in octal text such as `"0750"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir_mode: Option<String>,
    /// Let users other than the one who mounts read the mount.
    pub allow_other: bool,
    /// Show NTFS's own files (`$MFT` and the rest).
    pub metafiles: bool,
    /// List the security descriptor among the extended attributes, not only answer to its name.
    pub list_acl: bool,
    /// Apply the log of an NTFS volume that was not closed, in memory.
    pub replay: bool,
    /// Memory for disk metadata per mount, in MiB.
    pub cache_mib: u64,
}

impl Default for MountConfig {
    fn default() -> Self {
        MountConfig {
            root: None,
            mode: Mode::File,
            lookup: LookupMethod::Name,
            preexisting: Preexisting::Fail,
            uid: None,
            gid: None,
            file_mode: None,
            dir_mode: None,
            allow_other: false,
            metafiles: false,
            list_acl: false,
            replay: true,
            cache_mib: 32,
        }
    }
}

/// What a mount shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The guest's own files, by drive letter and by volume number.
    File,
    /// The VM's folder with whole disk images.
    Fullvm,
}

/// How a bare word is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LookupMethod {
    /// As `name:`.
    Name,
    /// As `uuid:`.
    Uuid,
    /// As `moref:`.
    Moref,
    /// As `ipaddr:`.
    Ipaddr,
}

/// What to do with something of ours that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preexisting {
    /// Stop.
    Fail,
    /// Remove it and go on.
    Delete,
    /// Use it.
    Reuse,
}

/// How VMs are frozen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotConfig {
    /// Who makes and removes the snapshot.
    pub policy: SnapshotPolicy,
    /// What to do with an older snapshot of our own.
    pub preexisting: Preexisting,
    /// Whether the guest must be quiesced.
    pub quiesce: Quiesce,
    /// Time limit of the guest's quiescing, in minutes (the API takes 5 to 240).
    pub quiesce_minutes: u32,
    /// Time limit of making or removing a snapshot, in minutes.
    pub task_minutes: u32,
    /// Refuse to snapshot when the datastore has less free than this share of its size, in percent.
    pub min_free_percent: u8,
    /// Snapshots made or removed at the same time on one datastore.
    pub per_datastore: u32,
    /// Snapshots made or removed at the same time on one host.
    pub per_host: u32,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        SnapshotConfig {
            policy: SnapshotPolicy::Automatic,
            preexisting: Preexisting::Fail,
            quiesce: Quiesce::Try,
            quiesce_minutes: 15,
            task_minutes: 30,
            min_free_percent: 5,
            per_datastore: 4,
            per_host: 4,
        }
    }
}

/// Who makes and removes the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotPolicy {
    /// We make it and remove it.
    Automatic,
    /// It is there already and stays.
    Manual,
    /// We make it, somebody else removes it.
    CreateOnly,
    /// It is there already and we remove it.
    DeleteOnly,
}

/// Whether the guest must be quiesced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quiesce {
    /// Fail when it cannot be.
    Required,
    /// Go on with a warning when it cannot be.
    Try,
    /// Do not try.
    No,
}

/// What runs on the proxy around a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HooksConfig {
    /// Folder with `pre-snapshot/`, `post-snapshot/`, `pre-backup/`, `post-backup/` and `failure/`.
    pub dir: PathBuf,
    /// Time limit of one hook, in seconds.
    pub timeout_seconds: u64,
}

impl Default for HooksConfig {
    fn default() -> Self {
        HooksConfig { dir: sys::hooks_folder(), timeout_seconds: 900 }
    }
}

/// What is logged, and where.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// File to append to. Unset: stderr.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Text or JSON lines.
    pub format: LogFormat,
    /// How much.
    pub level: LogLevel,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What made an action fail.
    Error,
    /// And what a user should know although it did not.
    #[default]
    Warn,
    /// And each step once.
    Info,
    /// And how it was done.
    Debug,
    /// And every request.
    Trace,
}

impl Config {
    /// The files that are read, lowest layer first. Only `explicit` must exist.
    #[must_use]
    pub fn files(explicit: Option<&Path>) -> Vec<PathBuf> {
        let mut files = sys::config_files();
        files.extend(explicit.map(Path::to_owned));
        files
    }

    /// Reads all layers.
    ///
    /// # Errors
    /// [`Code::Config`], naming file and line.
    pub fn load(explicit: Option<&Path>) -> Outcome<Config> {
        let mut merged = toml::Table::new();
        for file in Self::files(explicit) {
            let text = match std::fs::read_to_string(&file) {
                Ok(text) => text,
                Err(err) if err.kind() == std::io::ErrorKind::NotFound && explicit != Some(&file) => continue,
                Err(err) => {
                    let what = format!("cannot read the configuration file {}", file.display());
                    let failure = Failure::new(Code::Config, what).because(err);
                    return Err(failure.next_step("Name a file that exists and that you may read."));
                }
            };
            lay_over(&mut merged, parse(&text, &file.display().to_string())?);
        }
        finish(merged)
    }

    /// Reads one text as if it were the only file; `origin` is its name in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_text(text: &str, origin: &str) -> Outcome<Config> {
        finish(parse(text, origin)?)
    }

    /// The datastore called `name`.
    #[must_use]
    pub fn datastore(&self, name: &str) -> Option<&DatastoreConfig> {
        self.datastores.iter().find(|datastore| datastore.name == name)
    }

    /// As TOML text.
    ///
    /// # Errors
    /// [`Code::Config`] when a path in it is not text.
    pub fn to_toml(&self) -> Outcome<String> {
        toml::to_string_pretty(self)
            .map_err(|err| Failure::new(Code::Config, "the configuration cannot be written as TOML").because(err))
    }
}

/// One layer, with every key known and every value of the right kind.
fn parse(text: &str, origin: &str) -> Outcome<toml::Table> {
    let wrong = |why: String| Failure::new(Code::Config, format!("{origin} is wrong")).because(why);
    keys::check(text).map_err(|err| wrong(err.to_string()))?;
    // The merged whole is checked again; checking each layer by itself puts file and line into the message.
    let config: Config = toml::from_str(text).map_err(|err| wrong(err.to_string().trim_end().to_owned()))?;
    validate(&config).map_err(wrong)?;
    toml::from_str(text).map_err(|err| wrong(err.to_string()))
}

fn finish(table: toml::Table) -> Outcome<Config> {
    let wrong = |why: String| Failure::new(Code::Config, "the configuration is wrong").because(why);
    let mut config: Config = table.try_into().map_err(|err: toml::de::Error| wrong(err.to_string()))?;
    validate(&config).map_err(wrong)?;
    for datastore in &mut config.datastores {
        let paths = datastore.path.iter_mut().chain(&mut datastore.lun).chain(datastore.raw_devices.values_mut());
        paths.for_each(expand_home);
    }
    let vcenter = config.vcenter.iter_mut().flat_map(|vcenter| [&mut vcenter.password_file, &mut vcenter.ca_file]);
    vcenter.chain([&mut config.mount.root, &mut config.log.file]).flatten().for_each(expand_home);
    expand_home(&mut config.hooks.dir);
    Ok(config)
}

/// What types alone cannot say.
fn validate(config: &Config) -> Result<(), String> {
    for (index, datastore) in config.datastores.iter().enumerate() {
        let name = &datastore.name;
        if name.is_empty() || name.contains([']', '[', '/', '\0', '\n']) {
            return Err(format!("[[datastore]] number {} has the unusable name {name:?}", index + 1));
        }
        if config.datastores[..index].iter().any(|other| other.name == *name) {
            return Err(format!("two [[datastore]] entries are called {name:?}"));
        }
        if datastore.path.is_some() != datastore.lun.is_empty() {
            return Err(format!("[[datastore]] {name:?} must have either 'path' or 'lun'"));
        }
        let luns = datastore.lun.iter().filter(|lun| !crate::datastore::luns::is_selector(lun));
        for path in datastore.path.iter().chain(luns).chain(datastore.raw_devices.values()) {
            absolute(path, &format!("[[datastore]] {name:?}"))?;
        }
    }
    for (key, path) in [("mount.root", &config.mount.root), ("log.file", &config.log.file)] {
        path.as_deref().map_or(Ok(()), |path| absolute(path, key))?;
    }
    absolute(&config.hooks.dir, "hooks.dir")?;
    if let Some(vcenter) = &config.vcenter {
        for (key, path) in [("vcenter.password_file", &vcenter.password_file), ("vcenter.ca_file", &vcenter.ca_file)] {
            path.as_deref().map_or(Ok(()), |path| absolute(path, key))?;
        }
    }
    for (key, mode) in [("mount.file_mode", &config.mount.file_mode), ("mount.dir_mode", &config.mount.dir_mode)] {
        mode.as_deref().map_or(Ok(()), |mode| octal_mode(mode).map(drop).map_err(|why| format!("{key}: {why}")))?;
    }
    if !(5..=240).contains(&config.snapshot.quiesce_minutes) {
        return Err("snapshot.quiesce_minutes must lie between 5 and 240, the limits of the API".to_owned());
    }
    if config.snapshot.min_free_percent > 100 {
        return Err("snapshot.min_free_percent cannot exceed 100".to_owned());
    }
    Ok(())
}

/// A relative path would mean another file in each working directory.
fn absolute(path: &Path, key: &str) -> Result<(), String> {
    if path.is_absolute() || path.starts_with("~") {
        return Ok(());
    }
    Err(format!("{key}: '{}' is not an absolute path", path.display()))
}

/// Permission bits from octal text.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn octal_mode(text: &str) -> Result<u16, String> {
    match u16::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(format!("'{text}' is not an octal mode up to 0777")),
    }
}

fn expand_home(path: &mut PathBuf) {
    if let Ok(rest) = path.strip_prefix("~")
        && let Some(home) = sys::home()
    {
        *path = home.join(rest);
    }
}

/// Lays `upper` over `lower`.
fn lay_over(lower: &mut toml::Table, upper: toml::Table) {
    for (key, value) in upper {
        match (lower.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            (Some(toml::Value::Array(below)), toml::Value::Array(above)) if key == "datastore" => {
                for datastore in above {
                    below.retain(|known| known.get("name") != datastore.get("name"));
                    below.push(datastore);
                }
            }
            (_, value) => {
                lower.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
