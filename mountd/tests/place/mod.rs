//! Where the session tests mount, and how they run: without the usual harness, because their program is also
//! the one that serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use vcb_mountd::Outcome;
use vcb_mountd::config::Preexisting;
use vcb_mountd::front::FrontOptions;
use vcb_mountd::plan::{MountPlan, ReadOptions, Source, VmIdentity};
use vcb_mountd::session::{self, Program, Request, Show, Started, StateDir};
use vcb_mountd::view::FileOptions;

/// Runs those of `tests` that the arguments ask for.
pub fn run(args: &[String], tests: &[(&str, fn())]) -> ExitCode {
    let wanted = args.iter().find(|arg| !arg.starts_with('-'));
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests.iter().filter(|(name, _)| wanted.is_none_or(|wanted| name.contains(wanted))) {
        let started = Instant::now();
        let fine = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {} ({:?})", if fine { "ok" } else { "FAILED" }, started.elapsed());
        *if fine { &mut passed } else { &mut failed } += 1;
    }
    println!("test result: {}. {passed} passed; {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    ExitCode::from(failed)
}

/// A state folder and a mount point that is not there yet.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub state: StateDir,
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path().join("state")).unwrap();
        Place { dir, state }
    }

    pub fn at(&self) -> PathBuf {
        self.dir.path().join("mnt").join("vm")
    }

    /// Mounts the VM that the test's program knows by `name`.
    pub fn start(&self, name: &str) -> Outcome<Started> {
        let program = Program::current(Vec::new()).unwrap();
        session::start(&self.state, &request(name, &self.at()), Preexisting::Fail, &program)
    }

    /// Nothing is left: no mount, no folder, no record, no lock.
    pub fn clean(&self) {
        assert!(!self.dir.path().join("mnt").exists(), "the mount point stays");
        // Where there is such a list.
        if let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") {
            assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "a mount stays");
        }
        for folder in ["sessions", "locks"] {
            let left: Vec<_> = fs::read_dir(self.state.root().join(folder)).unwrap().collect();
            assert!(left.is_empty(), "{folder} has {left:?}");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // After a failed assertion, too.
        let _ = session::umount(&self.state, self.at().to_str().unwrap());
    }
}

/// A session for the VM `name`, which the test's program opens.
pub fn request(name: &str, at: &Path) -> Request {
    Request {
        id: session::new_id(),
        plan: MountPlan {
            vm: VmIdentity { name: name.to_owned(), ..VmIdentity::default() },
            source: Source::Folder(PathBuf::from("/")),
            files: Vec::new(),
            disks: Vec::new(),
            options: ReadOptions::default(),
        },
        show: Show::File(FileOptions::default()),
        at: at.to_owned(),
        front: FrontOptions::default(),
        password: None,
    }
}
