//! VCB's own commands, as links to this binary: `vcbMounter`, `vcbVmName`, `vcbSnapshot`, `vcbSnapAll`,
//! `vcbUtil`, `mountvm`, `vcbCleanup`, `pre-command`, `post-command`.
//!
//! They take VCB's option letters, with their values glued to them (`-sAny:`) or apart, and end with 0 or 1,
//! as VCB's did. `-h`, `-u` and `-p` win over `[vcenter]`. docs/vcb.md lists them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use vcb_mountd::config::{Config, Mode, Transport, VCenter};
use vcb_mountd::front::FrontOptions;
use vcb_mountd::orchestrate::{Mount, Proxy, Wanted, trust};
use vcb_mountd::plan::{Choice, ReadOptions};
use vcb_mountd::session::{Program, Show, StateDir};
use vcb_mountd::spec::{Place, Spec};
use vcb_mountd::{Code, Exit, Failure, Outcome};

use crate::logging;
use crate::output::{Out, print_failure};
use crate::sys;

/// VCB's names, as they are compared: without case, folder and `.exe`, `.bat` or `.wsf`.
const NAMES: [&str; 9] = [
    "vcbmounter",
    "vcbvmname",
    "vcbsnapshot",
    "vcbsnapall",
    "vcbutil",
    "mountvm",
    "vcbcleanup",
    "pre-command",
    "post-command",
];

/// Which of VCB's commands `argv[0]` is.
pub fn name(program: &Path) -> Option<&'static str> {
    let name = program.file_name()?.to_str()?.to_ascii_lowercase();
    let name = [".exe", ".bat", ".wsf", ".sh"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    NAMES.into_iter().find(|known| *known == name)
}

/// Runs one of VCB's commands and gives its exit code.
pub fn main(name: &'static str, args: impl Iterator<Item = OsString>) -> u8 {
    let outcome = Options::parse(name, args).and_then(|options| {
        logging::start_at(options.level);
        run(name, &options)
    });
    match outcome {
        Ok(()) => Exit::Done.number(),
        Err(failure) => {
            print_failure(&failure, false);
            Exit::Failed.number()
        }
    }
}

/// VCB's options, with their letters.
#[derive(Default)]
struct Options {
    values: Vec<(char, String)>,
    words: Vec<String>,
    /// `-L`: 0 to 6.
    level: u8,
    /// What background processes are told about logging.
    background: Vec<OsString>,
}

impl Options {
    /// `-x value`, `-xvalue`, and words.
    fn parse(name: &str, args: impl Iterator<Item = OsString>) -> Outcome<Options> {
        let usage = |what: String| Failure::new(Code::Usage, what).next_step("docs/vcb.md lists the options.");
        // Letters that take a value; `-y`, `-v` and mountvm's `-cycleId` take none.
        let with_value = match name {
            "vcbmounter" | "vcbsnapall" => "huparRtmMFULx",
            "vcbvmname" => "hupsL",
            "vcbsnapshot" => "hupcfdlqL",
            "vcbutil" => "hupcL",
            "mountvm" => "duL",
            _ => "L",
        };
        let mut options = Options { level: 3, ..Options::default() };
        let mut words = args
            .into_iter()
            .map(|arg| arg.into_string().map_err(|arg| usage(format!("the argument {} is not text", arg.display()))));
        while let Some(word) = words.next() {
            let word = word?;
            let Some(rest) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
                options.words.push(word);
                continue;
            };
            if matches!(rest, "cycleId" | "-help" | "y" | "v") {
                continue;
            }
            let mut letters = rest.chars();
            let letter = letters.next().unwrap_or_default();
            if !with_value.contains(letter) {
                return Err(usage(format!("{name} has no option -{letter}")));
            }
            let glued = letters.as_str();
            let value = match glued.is_empty() {
                false => glued.to_owned(),
                true => words.next().ok_or_else(|| usage(format!("nothing follows -{letter}")))??,
            };
            if letter == 'L' {
                options.level = value
                    .parse()
                    .ok()
                    .filter(|level| *level <= 6)
                    .ok_or_else(|| usage(format!("-L takes a level from 0 to 6, not '{value}'")))?;
            } else {
                options.values.push((letter, value));
            }
        }
        options.background = logging::flags_at(options.level);
        Ok(options)
    }

    fn get(&self, letter: char) -> Option<&str> {
        self.values.iter().rfind(|(known, _)| *known == letter).map(|(_, value)| value.as_str())
    }

    fn need(&self, letter: char, what: &str) -> Outcome<&str> {
        self.get(letter).ok_or_else(|| Failure::new(Code::Usage, format!("-{letter} {what} is missing")))
    }

    fn word(&self, index: usize, what: &str) -> Outcome<&str> {
        let missing = || Failure::new(Code::Usage, format!("{what} is missing"));
        self.words.get(index).map(String::as_str).ok_or_else(missing)
    }
}

fn run(name: &str, options: &Options) -> Outcome<()> {
    let mut config = Config::load(None)?;
    let password = overrides(&mut config, options)?;
    let state = StateDir::usual()?;
    trust::apply(&mut config, state.root())?;
    let program = Program::current(options.background.clone())?;
    let cancel = sys::stop_on_signals()?.into();
    let prompt = move |_: &str| password.clone();
    let config = &config;
    let proxy = Proxy::new(config, state, program, &prompt, cancel);
    let parse = |text: &str| Spec::parse(text, config.mount.lookup);
    let mut out = Out::new();
    let (mut mounts, mut failed) = (Vec::new(), None);
    match name {
        "vcbmounter" => match options.get('U') {
            Some(target) => drop(proxy.umount(target)?),
            None => {
                let spec = parse(options.need('a', "SPEC")?)?;
                let at = PathBuf::from(options.need('r', "DIR")?);
                let mode = mode(options.get('t').unwrap_or("fullvm"))?;
                let mount = proxy.mount(&wanted(spec, Some(at), mode, config))?;
                out.line(mount.started.at.display())?;
                mounts.push(mount);
            }
        },
        "vcbsnapall" => {
            let root = PathBuf::from(options.need('r', "DIR")?);
            let mode = mode(options.get('t').unwrap_or("fullvm"))?;
            let vms = proxy.list(&parse(options.need('a', "SPEC")?)?)?.vms;
            for vm in vms {
                let spec = vm.moref.clone().map_or_else(|| Spec::Path(vm.place.clone()), Spec::Moref);
                let at = root.join(vm.name.replace(['/', '\0'], "_"));
                match proxy.mount(&wanted(spec, Some(at), mode, config)) {
                    Ok(mount) => {
                        out.line(mount.started.at.display())?;
                        mounts.push(mount);
                    }
                    Err(failure) => {
                        print_failure(&failure, false);
                        failed = Some(failure);
                    }
                }
            }
        }
        "vcbvmname" => {
            let search = proxy.list(&parse(options.need('s', "SPEC")?)?)?;
            if search.vms.is_empty() {
                return Err(Failure::new(Code::VmNotFound, "no VM matches"));
            }
            for vm in &search.vms {
                for spec in vm.specs().iter().filter(|spec| !matches!(spec, Spec::Path(_))) {
                    out.line(spec)?;
                }
            }
        }
        "vcbsnapshot" => snapshot(&proxy, options, &parse, &mut out)?,
        "vcbutil" => match options.need('c', "ping|resourcepools|vmfolders")? {
            "ping" => out.line(proxy.ping()?)?,
            "resourcepools" => lines(&mut out, &proxy.resource_pools()?)?,
            "vmfolders" => lines(&mut out, &proxy.vm_folders()?)?,
            other => return Err(Failure::new(Code::Usage, format!("vcbUtil -c {other} is not supported"))),
        },
        "mountvm" => match options.get('u') {
            Some(target) => drop(proxy.umount(target)?),
            None => {
                let spec = Spec::Path(options.need('d', "DISK")?.parse::<Place>()?);
                let at = PathBuf::from(options.word(0, "the mount point")?);
                mounts.push(proxy.mount(&wanted(spec, Some(at), Mode::File, config))?);
            }
        },
        "vcbcleanup" => {
            proxy.cleanup(false)?;
        }
        "pre-command" => {
            let (vm, mode, at) = job(options, config)?;
            let mount = proxy.mount(&wanted(parse(&vm)?, Some(at), mode, config))?;
            out.line(mount.started.at.display())?;
            mounts.push(mount);
        }
        _ => {
            let (_, _, at) = job(options, config)?;
            proxy.umount(&at.to_string_lossy())?;
        }
    }
    // In this order: the session ends, the paths are printed, the mounts stay.
    drop(proxy);
    out.finish()?;
    mounts.into_iter().try_for_each(Mount::keep)?;
    match failed {
        Some(failure) => Err(Failure::new(Code::Partial, "not every VM was mounted").because(failure)),
        None => Ok(()),
    }
}

fn lines(out: &mut Out, lines: &[String]) -> Outcome<()> {
    lines.iter().try_for_each(|line| out.line(line))
}

/// `vcbSnapshot -c SPEC NAME [DESCRIPTION]`, `-f SPEC NAME`, `-d SPEC SsId:ID`, `-l SPEC`.
fn snapshot(proxy: &Proxy<'_>, options: &Options, parse: &dyn Fn(&str) -> Outcome<Spec>, out: &mut Out) -> Outcome<()> {
    if let Some(spec) = options.get('c') {
        let description = options.words.get(1).map(String::as_str).unwrap_or_default();
        let id = proxy.make_snapshot(&parse(spec)?, options.word(0, "the snapshot's name")?, description)?;
        return out.line(format_args!("SsId:{id}"));
    }
    if let Some(spec) = options.get('d') {
        let id = options.word(0, "SsId:ID")?;
        return proxy.remove_snapshot(&parse(spec)?, id.strip_prefix("SsId:").unwrap_or(id));
    }
    if let Some(spec) = options.get('f') {
        let name = options.word(0, "the snapshot's name")?;
        let found = proxy.snapshots(&parse(spec)?)?.into_iter().find(|snapshot| snapshot.name == name);
        let missing = || Failure::new(Code::SnapshotNotFound, format!("there is no snapshot '{name}'"));
        return out.line(format_args!("SsId:{}", found.ok_or_else(missing)?.moref.value));
    }
    let spec = options.get('l').or(options.get('q'));
    let spec = spec.ok_or_else(|| Failure::new(Code::Usage, "one of -c, -f, -d and -l is missing"))?;
    for snapshot in proxy.snapshots(&parse(spec)?)? {
        out.line(format_args!("SsId:{}\nname:{}\ncreated:{}", snapshot.moref.value, snapshot.name, snapshot.created))?;
    }
    Ok(())
}

/// `-h`, `-u`, `-p` and `-m` over the configuration. Gives the password of `-p`.
fn overrides(config: &mut Config, options: &Options) -> Outcome<Option<String>> {
    if let Some(host) = options.get('h') {
        match &mut config.vcenter {
            Some(vcenter) => vcenter.host = host.to_owned(),
            None => config.vcenter = Some(VCenter::at(host)),
        }
    }
    if let (Some(vcenter), Some(user)) = (&mut config.vcenter, options.get('u')) {
        vcenter.username = user.to_owned();
    }
    if let (Some(vcenter), Some(mode)) = (&mut config.vcenter, options.get('m')) {
        vcenter.transports = match mode {
            "san" => vec![Transport::San, Transport::File],
            "nbd" | "nbdssl" => vec![Transport::Https],
            "hotadd" | "cos" => vcenter.transports.clone(),
            _ => return Err(Failure::new(Code::Usage, format!("-m {mode} is no known mode"))),
        };
    }
    let password = options.get('p').map(str::to_owned);
    if let (Some(vcenter), Some(_)) = (&mut config.vcenter, &password) {
        tracing::warn!("a password in the arguments can be seen by everybody on this host: use password_file");
        vcenter.password_file = None;
    }
    Ok(password)
}

fn mode(text: &str) -> Outcome<Mode> {
    match text {
        "file" => Ok(Mode::File),
        "fullvm" | "unknown" => Ok(Mode::Fullvm),
        _ => Err(Failure::new(Code::Usage, format!("the type is 'file' or 'fullvm', not '{text}'"))),
    }
}

/// The arguments of `pre-command` and `post-command`: `[FRAMEWORK] VM [TYPE]`. The folder of the framework is
/// taken and not used.
fn job(options: &Options, config: &Config) -> Outcome<(String, Mode, PathBuf)> {
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    let words = match words.as_slice() {
        [_, vm, kind] => [*vm, *kind],
        [vm, kind] if mode(kind).is_ok() => [*vm, *kind],
        [_, vm] => [*vm, "file"],
        [vm] => [*vm, "file"],
        _ => return Err(Failure::new(Code::Usage, "the arguments are [FRAMEWORK] VM [file|fullvm]")),
    };
    let root = config.mount.root.clone().ok_or_else(|| {
        Failure::new(Code::Config, "the folder for backups is not configured")
            .next_step("Set root in [mount]; VCB called it BACKUPROOT.")
    })?;
    let [vm, kind] = words;
    let folder = format!("{vm}-{kind}").replace(['/', '\0'], "_");
    Ok((vm.to_owned(), mode(kind)?, root.join(folder)))
}

fn wanted(spec: Spec, at: Option<PathBuf>, mode: Mode, config: &Config) -> Wanted {
    let show = match mode {
        Mode::File => Show::File(Default::default()),
        Mode::Fullvm => Show::Fullvm(Default::default()),
    };
    let choice = Choice { options: ReadOptions::from_config(config), ..Choice::default() };
    let front = FrontOptions {
        uid: config.mount.uid,
        gid: config.mount.gid,
        allow_other: config.mount.allow_other,
        ..FrontOptions::default()
    };
    Wanted { spec, choice, show, at, front, preexisting: config.mount.preexisting }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, args: &[&str]) -> Options {
        Options::parse(name, args.iter().map(OsString::from)).unwrap()
    }

    #[test]
    fn the_names_are_known_however_they_are_written() {
        for path in ["/usr/sbin/vcbMounter", "vcbmounter.exe", "./VCBMOUNTER.EXE"] {
            assert_eq!(name(Path::new(path)), Some("vcbmounter"), "{path}");
        }
        assert_eq!(name(Path::new("generic/pre-command.wsf")), Some("pre-command"));
        assert_eq!(name(Path::new("vcbmount")), None);
    }

    #[test]
    fn values_are_glued_or_apart() {
        let options = parse("vcbmounter", &["-hvc:8443", "-u", "a", "-a", "name:web 01", "-r", "/m", "-tfile", "-L0"]);
        assert_eq!((options.get('h'), options.get('a')), (Some("vc:8443"), Some("name:web 01")));
        assert_eq!((options.get('t'), options.level), (Some("file"), 0));
        let options = parse("vcbvmname", &["-sAny:"]);
        assert_eq!(options.get('s'), Some("Any:"));
        let options = parse("vcbsnapshot", &["-c", "name:a", "snap", "a text"]);
        assert_eq!(options.words, ["snap", "a text"]);
        let options = parse("mountvm", &["-d", "/x/a.vmdk", "-cycleId", "/m"]);
        assert_eq!((options.get('d'), options.word(0, "").unwrap()), (Some("/x/a.vmdk"), "/m"));
        assert!(Options::parse("vcbmounter", ["-Z".into()].into_iter()).is_err());
        assert!(Options::parse("vcbmounter", ["-L7".into()].into_iter()).is_err());
    }

    #[test]
    fn jobs_name_their_vm_with_or_without_the_framework() {
        let mut config = Config::default();
        config.mount.root = Some("/b".into());
        let job = |words: &[&str]| {
            let options = Options { words: words.iter().map(|&word| word.to_owned()).collect(), ..Options::default() };
            let (vm, mode, at) = job(&options, &config).unwrap();
            (vm, mode, at.display().to_string().replace(std::path::MAIN_SEPARATOR, "/"))
        };
        assert_eq!(job(&["web"]), ("web".into(), Mode::File, "/b/web-file".into()));
        assert_eq!(job(&["web", "fullvm"]), ("web".into(), Mode::Fullvm, "/b/web-fullvm".into()));
        assert_eq!(job(&["C:\\VCB", "web", "file"]), ("web".into(), Mode::File, "/b/web-file".into()));
    }
}
