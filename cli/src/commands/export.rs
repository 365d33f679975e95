//! `export`: a disk into one file.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use vcb_mountd::export::{Export, Format};
use vcb_mountd::{Code, Exit, Failure, Outcome};

use super::target;
use crate::args::{ExportFormat, Reading};
use crate::context::Context;
use crate::output::{Out, human_size};
use crate::sys;

/// Threads when the user does not say. Reads overlap each other, also on few processors; more than the last no storage needs.
const THREADS: std::ops::RangeInclusive<usize> = 4..=8;

/// How to export.
pub struct How {
    pub to: PathBuf,
    pub format: ExportFormat,
    pub force: bool,
    pub threads: Option<usize>,
}

/// Copies the disk that `spec` means.
pub fn run(spec: &str, how: &How, reading: &Reading, context: &Context) -> Outcome<Exit> {
    let plan = target::plan(spec, reading, context)?;
    if plan.disks.len() > 1 {
        let nodes: Vec<&str> = plan.disks.iter().map(|disk| disk.node.as_str()).collect();
        return Err(Failure::new(Code::Ambiguous, format!("{} has {} disks", plan.vm.name, nodes.len()))
            .because(format!("they are at {}", nodes.join(", ")))
            .next_step("Choose one with --disk NODE."));
    }
    let disks = plan.open_disks()?;
    let Some(planned) = disks.first() else {
        return Err(Failure::new(Code::VmNotFound, format!("{} has no disks", plan.vm.name)));
    };
    let disk = planned.disk.block();
    let stop = sys::stop_on_signals()?;
    let bar = progress_bar(disk.len(), context);
    let mut progress = |done| bar.set_position(done);
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut export = Export {
        format: match how.format {
            ExportFormat::Raw => Format::Raw,
            ExportFormat::Vmdk => Format::SparseVmdk,
            ExportFormat::StreamVmdk => Format::StreamVmdk,
        },
        adapter: planned.disk.ddb("adapterType").unwrap_or("lsilogic"),
        threads: how.threads.unwrap_or(processors.clamp(*THREADS.start(), *THREADS.end())),
        overwrite: how.force,
        progress: &mut progress,
        verify: &|| planned.storage.verify(),
        stop: &stop,
    };
    let copied = export.run(disk, &how.to);
    bar.finish_and_clear();
    let copied = copied?;
    let mut out = Out::new();
    if context.json {
        out.line(json!({
            "disk": planned.plan.file,
            "to": how.to.display().to_string(),
            "size": copied.len,
            "data": copied.data,
            "written": copied.written,
        }))?;
    } else if !context.quiet {
        out.line(format_args!(
            "{}: {} of which {} data",
            how.to.display(),
            human_size(copied.len),
            human_size(copied.data)
        ))?;
    }
    out.finish()
}

fn progress_bar(len: u64, context: &Context) -> ProgressBar {
    let target = if context.progress { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(len), target);
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
