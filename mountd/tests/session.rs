//! The life of sessions on any system, with a front end that mounts nothing: background processes, their end
//! when they are asked and when they are not, and what is left.
//!
//! A session's background processes are this program again, so it has a `main` of its own.

#![allow(clippy::unwrap_used)]

mod place;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use vcb_mountd::config::Preexisting;
use vcb_mountd::front::{FrontEnd, FrontOptions, Mounted, Report, Unmounter};
use vcb_mountd::plan::MountPlan;
use vcb_mountd::session::{self, Health, Program, StateDir};
use vcb_mountd::view::View;
use vcb_mountd::vm::OpenVm;
use vcb_mountd::{Code, Failure, Outcome};

use place::{Place, request};

/// Serves until it is told to end. While there is a file `busy` beside the mount point, files are open.
struct Fake;

struct FakeMounted {
    busy: PathBuf,
    stop: Sender<()>,
    stopped: Receiver<()>,
}

impl FrontEnd for Fake {
    fn mount(
        &self,
        _view: Arc<dyn View>,
        at: &Path,
        _options: &FrontOptions,
        _report: Arc<Report>,
    ) -> vcb_block::Result<Box<dyn Mounted>> {
        let (stop, stopped) = channel();
        Ok(Box::new(FakeMounted { busy: at.with_file_name("busy"), stop, stopped }))
    }
}

impl Mounted for FakeMounted {
    fn unmounter(&self) -> Unmounter {
        let (busy, stop) = (self.busy.clone(), self.stop.clone());
        Box::new(move |lazily| {
            if !lazily && busy.exists() {
                return Err(std::io::ErrorKind::ResourceBusy.into());
            }
            let _ = stop.send(());
            Ok(())
        })
    }

    fn serve(self: Box<Self>) -> vcb_block::Result<()> {
        let _ = self.stopped.recv();
        Ok(())
    }
}

fn open(plan: &MountPlan) -> Outcome<OpenVm> {
    match plan.vm.name.as_str() {
        "broken" => Err(Failure::new(Code::Corrupt, "it is broken").because("for the test")),
        "dies" => std::process::exit(7),
        name => Ok(OpenVm { name: name.to_owned(), files: Vec::new(), disks: Vec::new(), storage: None }),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let program = Program::current(Vec::new()).unwrap();
    match args.first().map(String::as_str) {
        // Mounts and ends, as the command `mount` does.
        Some("__mount") => {
            let state = StateDir::at(&args[1]).unwrap();
            let started = session::start(&state, &request("vm", Path::new(&args[2])), Preexisting::Fail, &program);
            println!("{}", started.unwrap().at.display());
            return ExitCode::SUCCESS;
        }
        Some(command) => {
            if let Some(code) = session::hidden(&program, command, &open, &Fake) {
                return code;
            }
        }
        None => {}
    }
    let tests: [(&str, fn()); 5] = [
        ("a_session_lives_until_it_is_unmounted", unmounted),
        ("what_fails_in_the_background_is_told_and_leaves_nothing", failures),
        ("a_killed_server_is_found_dead_and_cleaned_up", killed),
        ("the_output_of_who_mounts_ends_while_the_mount_lives", output_ends),
        ("open_files_hold_the_end_up_and_do_not_stop_it", busy),
    ];
    place::run(&args, &tests)
}

impl Place {
    fn health(&self) -> Vec<Health> {
        session::list(&self.state).unwrap().iter().map(|session| session.health).collect()
    }
}

fn unmounted() {
    let place = Place::new();
    let started = place.start("vm").unwrap();
    assert_eq!(place.health(), [Health::Mounted]);
    assert_eq!(place.start("vm").unwrap_err().code(), Code::MountPointBusy);
    let ended = session::umount(&place.state, place.at().to_str().unwrap()).unwrap();
    assert_eq!((ended.id, ended.crashed), (Some(started.id), false));
    place.clean();
    session::umount(&place.state, place.at().to_str().unwrap()).unwrap();
    let again = place.start("vm").unwrap();
    assert!(!session::umount(&place.state, &again.id).unwrap().crashed);
    place.clean();
    assert_eq!(session::umount(&place.state, &again.id).unwrap_err().code(), Code::SessionNotFound);
}

fn failures() {
    let place = Place::new();
    let failure = place.start("broken").unwrap_err();
    assert_eq!((failure.code(), failure.what()), (Code::Corrupt, "it is broken"));
    place.clean();
    assert_eq!(place.start("dies").unwrap_err().code(), Code::ServerDied);
    place.clean();
}

fn killed() {
    let place = Place::new();
    place.start("vm").unwrap();
    let pid = session::list(&place.state).unwrap()[0].record.server.pid.to_string();
    let killed = match cfg!(windows) {
        true => Command::new("taskkill").args(["/F", "/PID", &pid]).output(),
        false => Command::new("kill").args(["-9", &pid]).output(),
    };
    assert!(killed.unwrap().status.success());
    let started = Instant::now();
    while place.health() != [Health::Dead] {
        assert!(started.elapsed() < Duration::from_secs(10), "it lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(session::cleanup(&place.state, true).unwrap().len(), 1);
    assert_eq!(place.health(), [Health::Dead], "a dry run changes nothing");
    assert_eq!(session::cleanup(&place.state, false).unwrap().len(), 1);
    place.clean();
}

fn output_ends() {
    let place = Place::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("__mount").arg(place.state.root()).arg(place.at());
    let started = Instant::now();
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).trim().ends_with("vm"));
    assert!(started.elapsed() < Duration::from_secs(60));
    assert_eq!(place.health(), [Health::Mounted]);
    assert!(!session::umount(&place.state, place.at().to_str().unwrap()).unwrap().crashed);
    place.clean();
}

fn busy() {
    let place = Place::new();
    place.start("vm").unwrap();
    fs::write(place.at().with_file_name("busy"), "").unwrap();
    let started = Instant::now();
    assert!(!session::umount(&place.state, place.at().to_str().unwrap()).unwrap().crashed);
    assert!(started.elapsed() > Duration::from_secs(5), "open files were not waited for");
    fs::remove_file(place.at().with_file_name("busy")).unwrap();
}
