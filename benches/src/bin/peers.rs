//! Compares with QEMU on the same files in the same run, and keeps the table in `benches/README.md`.
//!
//! `cargo run --release -p vcb-benches --bin peers -- [--size MiB] [--rounds N] [--only NAME] [--dir DIR] [--write]`
//!
//! Ratios are what counts: each pair is measured in turn, several times, and the best of each is taken, so
//! that other work on the machine touches both alike. Files are warm in the page cache; one thread reads. Streams are
//! read with their read-ahead, which uses other cores, and without.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use vcb_benches::disks::{Format, open, open_alone, plain, write_chain};
use vcb_block::{BlockRef, plan};

const PIECE: usize = 1 << 20;
const PAGE: usize = 4096;
/// Odd in units of 4 KiB: a walk that visits every page of the disk before it repeats.
const STRIDE: u64 = 4096 * 11_003;
const RANDOM_READS: u64 = 20_000;

struct Options {
    size: u64,
    rounds: u32,
    /// Part of the names of the disks to measure.
    only: String,
    dir: Option<PathBuf>,
    write: bool,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options { size: 1024, rounds: 3, only: String::new(), dir: None, write: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--size" => options.size = value()?.parse()?,
            "--rounds" => options.rounds = value()?.parse()?,
            "--only" => options.only = value()?,
            "--dir" => options.dir = Some(value()?.into()),
            "--write" => options.write = true,
            _ => return Err(format!("what is {arg}?").into()),
        }
    }
    Ok(options)
}

fn sequential(block: &BlockRef) -> Result<f64, Box<dyn Error>> {
    let mut buf = vec![0; PIECE];
    let start = Instant::now();
    for at in (0..block.len()).step_by(PIECE) {
        plan::read(block, &mut buf, at)?;
    }
    Ok(block.len() as f64 / 1048576.0 / start.elapsed().as_secs_f64())
}

fn random(block: &BlockRef) -> Result<f64, Box<dyn Error>> {
    let mut buf = vec![0; PAGE];
    let mut at = 0;
    let start = Instant::now();
    for _ in 0..RANDOM_READS {
        plan::read(block, &mut buf, at)?;
        at = (at + STRIDE) % block.len();
    }
    Ok(RANDOM_READS as f64 / start.elapsed().as_secs_f64())
}

/// Requests per second of `qemu-img bench` at depth 1.
fn qemu(dir: &Path, leaf: &str, format: &str, size: usize, step: u64, count: u64) -> Result<f64, Box<dyn Error>> {
    let (size, step, count) = (size.to_string(), step.to_string(), count.to_string());
    let args = ["bench", "-U", "-f", format, "-d", "1", "-s", &size, "-S", &step, "-c", &count, leaf];
    let out = Command::new("qemu-img").args(args).current_dir(dir).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let seconds = text.split("Run completed in ").nth(1).and_then(|rest| rest.split(' ').next());
    let seconds: f64 = seconds.ok_or_else(|| String::from_utf8_lossy(&out.stderr).into_owned())?.parse()?;
    Ok(count.parse::<f64>()? / seconds)
}

/// One line of the table.
struct Line {
    what: String,
    unit: &'static str,
    ours: f64,
    peer: &'static str,
    theirs: f64,
    wanted: f64,
}

/// The best of `rounds` measurements of both, taken in turn.
fn duel(
    rounds: u32,
    mut ours: impl FnMut() -> Result<f64, Box<dyn Error>>,
    mut theirs: impl FnMut() -> Result<f64, Box<dyn Error>>,
) -> Result<(f64, f64), Box<dyn Error>> {
    let mut best = (0.0f64, 0.0f64);
    for _ in 0..rounds {
        best.0 = best.0.max(ours()?);
        best.1 = best.1.max(theirs()?);
    }
    Ok(best)
}

fn measure(dir: &Path, options: &Options) -> Result<Vec<Line>, Box<dyn Error>> {
    let bytes = options.size << 20;
    let mut lines = Vec::new();
    for format in Format::ALL.into_iter().filter(|format| format.name().contains(&options.only)) {
        format.write(dir, bytes)?;
        let (leaf, name) = (format.leaf(), format.name());
        let block = open(dir, &leaf)?;
        let wanted = match format {
            Format::Flat => 0.8,
            Format::Sparse => 1.0,
            Format::Stream => 1.5,
            Format::Cowd => 20.0,
            Format::SeSparse | Format::SeSparseShuffled => 6.0,
        };
        let (peer, (ours, theirs)) = if format == Format::Flat {
            let file = plain(dir, &format.data_file())?;
            ("pread of the file", duel(options.rounds, || sequential(&block), || sequential(&file))?)
        } else {
            let peer = || qemu(dir, &leaf, "vmdk", PIECE, PIECE as u64, options.size);
            ("qemu-img bench", duel(options.rounds, || sequential(&block), peer)?)
        };
        lines.push(Line { what: format!("{name}, sequential 1 MiB"), unit: "MiB/s", ours, peer, theirs, wanted });
        if format == Format::Stream {
            let alone = open_alone(dir, &leaf)?;
            let peer = || qemu(dir, &leaf, "vmdk", PIECE, PIECE as u64, options.size);
            let (ours, theirs) = duel(options.rounds, || sequential(&alone), peer)?;
            let what = format!("{name}, sequential 1 MiB, no read-ahead");
            lines.push(Line { what, unit: "MiB/s", ours, peer: "qemu-img bench", theirs, wanted });
        }
        let peer = || qemu(dir, &leaf, "vmdk", PAGE, STRIDE, RANDOM_READS);
        let (ours, theirs) = duel(options.rounds, || random(&block), peer)?;
        let what = format!("{name}, random 4 KiB");
        lines.push(Line { what, unit: "reads/s", ours, peer: "qemu-img bench", theirs, wanted: 2.0 });
        std::fs::remove_file(dir.join(format.data_file()))?;
    }
    if !"chain".contains(&options.only) {
        return Ok(lines);
    }
    let [one, ten] = [write_chain(dir, bytes, 1)?, write_chain(dir, bytes, 10)?];
    let (one, ten) = (open(dir, &one)?, open(dir, &ten)?);
    let (ours, theirs) = duel(options.rounds, || sequential(&ten), || sequential(&one))?;
    let what = "ten SEsparse deltas, sequential 1 MiB".to_owned();
    lines.push(Line { what, unit: "MiB/s", ours, peer: "the same data in one delta", theirs, wanted: 0.7 });
    Ok(lines)
}

fn table(lines: &[Line]) -> String {
    let mut text = "| what | vcbmount | peer | ratio | wanted |\n|---|---:|---|---:|---:|\n".to_owned();
    for Line { what, unit, ours, peer, theirs, wanted } in lines {
        let ratio = ours / theirs;
        let mark = if ratio >= *wanted { "" } else { " ✗" };
        let _ = writeln!(text, "| {what} | {ours:.0} {unit} | {peer}: {theirs:.0} | {ratio:.2}{mark} | ≥ {wanted} |");
    }
    text
}

/// Replaces what stands between the two marks of `benches/README.md`.
fn keep(table: &str) -> Result<(), Box<dyn Error>> {
    const MARKS: [&str; 2] = ["<!-- vmdk table -->\n", "<!-- end of vmdk table -->"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(&path)?;
    let (head, rest) = text.split_once(MARKS[0]).ok_or("no mark in benches/README.md")?;
    let (_, tail) = rest.split_once(MARKS[1]).ok_or("no end mark in benches/README.md")?;
    std::fs::write(path, [head, MARKS[0], table, MARKS[1], tail].concat())?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let dir = match &options.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("vcb-peers-{}", std::process::id())),
    };
    std::fs::create_dir_all(&dir)?;
    let lines = measure(&dir, &options);
    std::fs::remove_dir_all(&dir)?;
    let table = table(&lines?);
    print!("{table}");
    if options.write {
        keep(&table)?;
    }
    Ok(())
}
