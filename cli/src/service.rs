//! Running as a service: what crashed backups have left is put right when the host starts, and what is still
//! mounted is given back before it stops.

use std::process::ExitCode;
use std::sync::mpsc::channel;

use vcb_mountd::session::{self, StateDir};
use vcb_mountd::{Exit, Outcome, host};

use crate::args::Global;
use crate::commands;
use crate::context::{self, Context};
use crate::{logging, output, sys};

/// Argument that makes the program a service.
pub const COMMAND: &str = "__service";

/// The service's whole life.
pub fn run(mut global: Global) -> ExitCode {
    let started = context::load(global.config.as_deref()).and_then(|config| {
        if global.log_file.is_none() && config.log.file.is_none() {
            global.log_file = sys::service_log();
        }
        logging::start(&global, &config.log)?;
        Ok(Context::new(config, &global))
    });
    let context = match started {
        Ok(context) => context,
        Err(failure) => {
            output::print_failure(&failure, global.json);
            return ExitCode::from(failure.code().exit().number());
        }
    };
    match host::run_service(move || serve(&context)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("vcbmount: this is started by the service manager alone: {err}");
            ExitCode::from(Exit::Usage.number())
        }
    }
}

fn serve(context: &Context) {
    let (sender, stop) = channel();
    host::on_stop_signal(move || {
        // Asked again while it ends.
        let _ = sender.send(());
    });
    tracing::warn!(version = env!("CARGO_PKG_VERSION"), "the service has started");
    match commands::mount::with_proxy(context, |proxy| proxy.cleanup(false)) {
        Ok(tidied) => tracing::warn!(mounts = tidied.mounts.len(), leases = tidied.leases.len(), "cleaned up"),
        Err(failure) => tracing::error!(?failure, "what backups have left cannot be put right"),
    }
    let _ = stop.recv();
    if let Err(failure) = unmount_all(context) {
        tracing::error!(?failure, "what is mounted cannot be given back");
    }
    tracing::warn!("the service has ended");
}

fn unmount_all(context: &Context) -> Outcome<()> {
    let sessions = session::list(&StateDir::usual()?)?;
    commands::mount::with_proxy(context, |proxy| {
        for session in sessions {
            let id = &session.record.id;
            match proxy.umount(id) {
                Ok(_) => tracing::warn!(session = id, at = %session.record.at.display(), "unmounted"),
                Err(failure) => tracing::error!(session = id, ?failure, "not unmounted"),
            }
        }
        Ok(())
    })
}
