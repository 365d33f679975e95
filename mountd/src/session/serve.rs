//! Serving a session: the background process.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vcb_block::TroubleKind;

use super::start::Program;
use super::state::{MountLock, Record, Stage, StateDir, source_of, write_unreadable};
use super::watch::{self, Watcher};
use super::{Answer, Request, Show, Storage, mount_point, stop};
use crate::failure::{Code, Failure, Outcome};
use crate::front::{FrontEnd, Mounted, Report, Unmounter};
use crate::orchestrate::{self, fault, fault::point};
use crate::plan::MountPlan;
use crate::sys;
use crate::view::{FileView, FullVmView, View};
use crate::vm::OpenVm;

/// Argument that makes the program a server.
pub(super) const COMMAND: &str = "__serve";
/// How long unmounting is tried politely while files are open, before it is done lazily.
const POLITE: Duration = Duration::from_secs(10);
/// How long readers keep their open files after that.
const GRACE: Duration = Duration::from_secs(5);
/// How often the storage is compared with what was opened.
const VERIFY_EVERY: Duration = Duration::from_secs(60);
/// Largest request that is read from the parent.
const MAX_REQUEST: u64 = 64 << 20;

/// Opens a VM for a plan.
pub type OpenPlan = dyn Fn(&MountPlan) -> Outcome<OpenVm>;

/// Runs `command` when it is one of those by which this program starts itself in the background, and gives
/// its exit code. `program` says how it starts its watcher, `open` how plans are opened, `front` what they are
/// mounted with.
#[must_use]
pub fn hidden(program: &Program, command: &str, open: &OpenPlan, front: &dyn FrontEnd) -> Option<ExitCode> {
    match command {
        COMMAND => Some(serve(program, open, front)),
        watch::COMMAND => {
            watch::watch(std::io::stdin().lock());
            Some(ExitCode::SUCCESS)
        }
        _ => None,
    }
}

fn serve(program: &Program, open: &OpenPlan, front: &dyn FrontEnd) -> ExitCode {
    fault::serving();
    sys::leave_terminal();
    let stopping = Arc::new(Stopping::default());
    sys::on_stop_signal({
        let stopping = Arc::clone(&stopping);
        move || stopping.stop()
    });
    match set_up(program, open, front, &stopping) {
        Ok(server) => {
            server.run(&stopping);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            tracing::error!(?failure, "not mounted");
            let (place, reason) = failure.place_and_reason();
            let cause: Vec<String> = [reason, place].into_iter().flatten().collect();
            // Not every code's advice survives the way through a process, so it goes along.
            answer(&Answer::Failed {
                code: failure.code().number(),
                what: failure.what().to_owned(),
                cause: (!cause.is_empty()).then(|| cause.join(" at ")),
                next: failure.next().to_owned(),
            });
            ExitCode::FAILURE
        }
    }
}

/// A mount and all that has to be put away after it.
struct Server {
    vm: OpenVm,
    mounted: Box<dyn Mounted>,
    report: Arc<Report>,
    state: StateDir,
    record: Record,
    watcher: Watcher,
    _lock: MountLock,
}

fn set_up(program: &Program, open: &OpenPlan, front_end: &dyn FrontEnd, stopping: &Arc<Stopping>) -> Outcome<Server> {
    let mut text = Vec::new();
    let unheard = |err| Failure::new(Code::ServerDied, "no instructions came").because(err);
    std::io::stdin().lock().take(MAX_REQUEST).read_to_end(&mut text).map_err(unheard)?;
    let request: Request = serde_json::from_slice(&text).map_err(|err| unheard(err.into()))?;
    if let (Some(server), Some(password)) = (request.plan.server(), &request.password) {
        orchestrate::hand_password(server, password.clone());
    }
    let state = StateDir::usual()?;
    let lock = state.lock(&request.at)?;
    let vm = open(&request.plan)?;
    let view = view_of(&vm, &request.show)?;
    let notes = view.notes();

    let mut record = Record::new(&request.id, request.plan.vm.clone(), request.show.mode(), &request.at);
    record.created = mount_point::prepare(&request.at, &state)?;
    // The record is on disk before there is anything that it would have to tell of.
    let undo = |failure| {
        mount_point::remove(&record.created);
        failure
    };
    point("before session Starting");
    state.save(&record).map_err(undo)?;
    point("after session Starting");
    mount_point::make(&record.created).map_err(undo)?;
    let watcher = Watcher::spawn(program);
    let mut watcher =
        watcher.map_err(|err| undo(Failure::new(Code::Failed, "cannot start the watcher").because(err)))?;
    let report = report_to(&state, &request.id).map_err(undo)?;
    let mut front = request.front.clone();
    front.source = source_of(&request.id);
    front.label.clone_from(&request.plan.vm.name);
    let mounted = front_end.mount(view, &request.at, &front, Arc::clone(&report));
    let mounted = mounted.map_err(|err| {
        let code = if err.kind() == vcb_block::Kind::Denied { Code::Denied } else { Code::Fuse };
        undo(Failure::new(code, format!("cannot mount on {}", request.at.display())).because(err))
    })?;
    point("after mounting");
    watcher.mounted(&record);
    record.stage = Stage::Mounted;
    record.device = mount_point::mounted_at(&request.at)?.map(|entry| entry.device);
    point("before session Mounted");
    state.save(&record)?;
    point("after session Mounted");
    stopping.mounted(record.at.clone(), mounted.unmounter());
    let server = Server { vm, mounted, report, state, record, watcher, _lock: lock };
    let heard = answer(&Answer::Ready { notes });
    point("after answering");
    if !heard {
        // Whoever asked has given up, so nobody will unmount.
        stopping.stop();
    }
    Ok(server)
}

fn view_of(vm: &OpenVm, show: &Show) -> Outcome<Arc<dyn View>> {
    let failed = |err| Failure::reading(format!("cannot show {}", vm.name), err);
    Ok(match show {
        Show::File(options) => Arc::new(FileView::new(vm, options).map_err(failed)?),
        Show::Fullvm(options) => Arc::new(FullVmView::new(vm, options).map_err(failed)?),
    })
}

fn report_to(state: &StateDir, id: &str) -> Outcome<Arc<Report>> {
    let file: File = state.append_unreadable(id)?;
    Ok(Arc::new(Report::with_listener(move |entry| write_unreadable(&file, entry))))
}

/// Tells the parent, and closes the way to it. False when it no longer listens.
fn answer(answer: &Answer) -> bool {
    let mut stdout = std::io::stdout().lock();
    let written = serde_json::to_string(answer).map_err(std::io::Error::from).and_then(|line| {
        stdout.write_all(line.as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    });
    drop(stdout);
    sys::close_stdout();
    written.is_ok()
}

impl Server {
    fn run(self, stopping: &Stopping) {
        let Server { vm, mounted, report, state, record, watcher, _lock } = self;
        let (sender, served) = std::sync::mpsc::channel();
        let serving = std::thread::spawn(move || {
            let result = mounted.serve();
            // The main thread has given up waiting when nobody hears.
            let _ = sender.send(result);
        });
        let mut verified = Instant::now();
        let mut trouble = None;
        // Ends when the mount is gone; after a lazy unmount it may go on as long as files are open.
        let result = loop {
            match served.recv_timeout(Duration::from_millis(200)) {
                Ok(result) => break Some(result),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) if !stopping.given_up() => {}
                Err(_) => break None,
            }
            let now = vm.trouble();
            let voided = now.as_ref().is_some_and(|trouble| trouble.kind == TroubleKind::Voided) && now != trouble;
            if now != trouble {
                state.set_storage(&record.id, now.as_ref().map(Storage::from).as_ref());
                trouble = now;
            }
            if voided || verified.elapsed() >= VERIFY_EVERY {
                verify(&vm, &report);
                verified = Instant::now();
            }
        };
        verify(&vm, &report);
        match result {
            Some(Ok(())) => drop(serving.join()),
            Some(Err(err)) => tracing::error!(error = %err.report(), "serving ended"),
            None => tracing::warn!("ended while files were open"),
        }
        put_away(&state, &record);
        watcher.farewell();
    }
}

/// What was read before is right when the storage is still as it was opened.
fn verify(vm: &OpenVm, report: &Report) {
    if let Err(err) = vm.verify() {
        report.add_whole(&err);
    }
}

fn put_away(state: &StateDir, record: &Record) {
    point("after unmounting");
    mount_point::remove(&record.created);
    point("before forgetting session");
    if let Err(failure) = state.forget(&record.id) {
        tracing::error!(?failure, "the session's files stay");
    }
}

/// Coordinates the end: signals may come before, while and after it is mounted.
#[derive(Default)]
struct Stopping(Mutex<StopState>);

#[derive(Default)]
struct StopState {
    mounted: Option<(PathBuf, Unmounter)>,
    asked: bool,
    given_up: bool,
}

impl Stopping {
    fn with<T>(&self, change: impl FnOnce(&mut StopState) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn given_up(&self) -> bool {
        self.with(|state| state.given_up)
    }

    fn mounted(self: &Arc<Self>, at: PathBuf, unmount: Unmounter) {
        let asked = self.with(|state| {
            state.mounted = Some((at, unmount));
            state.asked
        });
        if asked {
            self.stop();
        }
    }

    /// Unmounts, first politely, then lazily. Before anything is mounted it only notes the wish.
    fn stop(self: &Arc<Self>) {
        let mounted = self.with(|state| {
            state.asked = true;
            state.mounted.take()
        });
        let Some((at, unmount)) = mounted else { return };
        let stopping = Arc::clone(self);
        std::thread::spawn(move || {
            if !stop::wait_until(POLITE, || unmount(false).is_ok()) {
                tracing::warn!(at = %at.display(), "files are open: unmounting lazily");
                if let Err(err) = unmount(true) {
                    tracing::error!(%err, "cannot unmount");
                }
            }
            std::thread::sleep(GRACE);
            stopping.with(|state| state.given_up = true);
        });
    }
}
