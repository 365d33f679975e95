//! VMFS beside vmfs-fuse and vmfs6-fuse: a thin file in-process and through mounts, holes, and opening a volume
//! with many files. Prints a table in Markdown.
//!
//! `cargo build --release -p vcbmount && cargo run --release -p vcb-benches --bin vmfs -- [MIB] [FOLDER]`
//!
//! The image lies in FOLDER (default: `/dev/shm`, so that memory and not a disk is the storage). All sides
//! are measured in turn, each mount anew in every round so that its cache is cold; medians count.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vcb_block::{BlockRef, DeviceSource, plan};
use vcb_fixtures::vmfs;
use vcb_fs::Filesystem;
use vcb_fs::vmfs::{Options, Vmfs};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PIECE: usize = 1 << 20;
const ROUNDS: usize = 7;
/// Bytes of holes that are read.
const HOLES: u64 = 4 << 30;

fn rate(bytes: u64, start: Instant) -> f64 {
    bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn open(image: &Path) -> Outcome<Arc<Vmfs>> {
    let device: BlockRef = Arc::new(DeviceSource::open(image)?);
    Ok(Vmfs::open(vec![device], &Options::default())?)
}

fn find(fs: &Vmfs, path: &str) -> Outcome<BlockRef> {
    let id = path.split('/').try_fold(fs.root(), |folder, name| fs.lookup(folder, name.as_bytes()))?;
    Ok(fs.open(id, None)?)
}

/// The rate of one sequential read in this process.
fn in_process(image: &Path) -> Outcome<f64> {
    let fs = open(image)?;
    let file = find(&fs, "vm/thin-flat.vmdk")?;
    let mut buf = vec![0; PIECE];
    let start = Instant::now();
    for at in (0..file.len()).step_by(PIECE) {
        plan::read(&file, &mut buf, at)?;
    }
    fs.verify()?;
    Ok(rate(file.len(), start))
}

/// The rate of one sequential read of a file in a mount.
fn sequential(path: &Path) -> Outcome<f64> {
    let mut file = File::open(path)?;
    let mut buf = vec![0; PIECE];
    let (mut total, start) = (0, Instant::now());
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(rate(total, start)),
            n => total += n as u64,
        }
    }
}

fn wait_for(path: &Path) {
    let started = Instant::now();
    while !path.exists() && started.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The same through a mount of the peer `tool`.
fn peer(tool: &str, image: &Path, dir: &Path) -> Outcome<f64> {
    let at = dir.join("peer");
    std::fs::create_dir_all(&at)?;
    if !Command::new(tool).arg(image).arg(&at).status()?.success() {
        return Err(format!("{tool} does not mount").into());
    }
    let file = at.join("vm/thin-flat.vmdk");
    wait_for(&file);
    let result = sequential(&file);
    Command::new("fusermount").arg("-u").arg(&at).status()?;
    result
}

/// The same through our own mount of the VM's folder.
fn own(image: &Path, dir: &Path) -> Outcome<f64> {
    let program = std::env::current_exe()?.with_file_name("vcbmount");
    if !program.exists() {
        return Err(format!("there is no {}", program.display()).into());
    }
    let config = dir.join("config.toml");
    std::fs::write(&config, format!("[[datastore]]\nname = \"bench\"\nlun = [{image:?}]\n"))?;
    let at = dir.join("own");
    let run = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("--config").arg(&config).args(args).arg(&at).env("VCBMOUNT_STATE", dir.join("state"));
        command.stdout(Stdio::null()).status()
    };
    if !run(&["mount", "--vm", "path:[bench] vm/thin.vmdk", "--mode", "fullvm", "--at"])?.success() {
        return Err("vcbmount does not mount".into());
    }
    let entries = std::fs::read_dir(&at)?.map(|entry| entry.map(|entry| entry.path()));
    let entries = entries.collect::<Result<Vec<PathBuf>, _>>()?;
    let flat = entries.into_iter().find(|path| path.to_string_lossy().ends_with("-flat.vmdk"));
    let result = flat.ok_or_else(|| "no image in the mount".into()).and_then(|flat| sequential(&flat));
    run(&["umount"])?;
    result
}

/// Processor time of this thread.
fn cpu() -> Outcome<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse()?))
}

/// Rates of reading holes and of clearing as much memory.
fn holes(image: &Path) -> Outcome<(f64, f64)> {
    let fs = open(image)?;
    let file = find(&fs, "vm/hole-flat.vmdk")?;
    let mut buf = vec![1; PIECE];
    let (mut ours, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for at in (0..HOLES).step_by(PIECE) {
            plan::read(&file, &mut buf, at)?;
            std::hint::black_box(&mut buf);
        }
        ours.push(rate(HOLES, start));
        let start = Instant::now();
        for _ in (0..HOLES).step_by(PIECE) {
            buf.fill(0);
            std::hint::black_box(&mut buf);
        }
        memory.push(rate(HOLES, start));
    }
    Ok((median(ours), median(memory)))
}

fn thin(version: u32, tool: &str, mib: u64, dir: &Path) -> Outcome<()> {
    // Every fourth block a hole, as thin disks become.
    let runs: Vec<String> = (0..mib)
        .filter(|n| n % 4 != 3)
        .map(|n| format!(r#"{{"at": "{n}MiB", "fill": {}, "size": 1048576}}"#, n % 255 + 1))
        .collect();
    let descriptor = format!(
        "# Disk DescriptorFile\\nversion=1\\nCID=12345678\\nparentCID=ffffffff\\ncreateType=\\\"vmfs\\\"\\n\
         RW {} VMFS \\\"thin-flat.vmdk\\\"\\n",
        mib * 2048
    );
    let manifest = format!(
        r#"{{"version": {version}, "label": "bench", "extent_mib": {}, "entries": [{{"path": "/vm", "type": "dir"}},
            {{"path": "/vm/thin.vmdk", "text": "{descriptor}"}},
            {{"path": "/vm/hole-flat.vmdk", "size": "64GiB", "runs": [{{"at": "63GiB", "text": "end"}}]}},
            {{"path": "/vm/thin-flat.vmdk", "size": "{mib}MiB", "runs": [{}]}}]}}"#,
        (mib * 2).max(512).next_multiple_of(256),
        runs.join(",")
    );
    let volume = vmfs::make_text(&manifest, dir).ok_or("no volume can be written")?;
    let image = &volume.devices[0];
    let (mut alone, mut mounted, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(in_process(image)?);
        mounted.push(own(image, dir)?);
        theirs.push(peer(tool, image, dir)?);
    }
    let (alone, mounted, theirs) = (median(alone), median(mounted), median(theirs));
    println!(
        "| VMFS-{version}, {mib} MiB thin | {alone:.0} | {mounted:.0} | {tool} {theirs:.0} | {:.1} | {:.1} |",
        alone / theirs,
        mounted / theirs
    );
    let (holes, memory) = holes(image)?;
    println!("| VMFS-{version}, holes | {holes:.0} | | memory {memory:.0} | {:.2} | |", holes / memory);
    Ok(std::fs::remove_file(image)?)
}

fn many_files(version: u32, dir: &Path) -> Outcome<()> {
    let manifest = format!(
        r#"{{"version": {version}, "label": "many", "extent_mib": 512, "capacity": {{"fd": 10500}}, "entries": [
            {{"path": "/many", "type": "dir"}},
            {{"path": "/many/file-{{:05d}}", "repeat": 10000, "text": "content {{}}\n"}}]}}"#
    );
    let volume = vmfs::make_text(&manifest, dir).ok_or("no volume can be written")?;
    let mut opened = Vec::new();
    for _ in 0..ROUNDS {
        let before = cpu()?;
        let fs = open(&volume.devices[0])?;
        fs.lookup(fs.lookup(fs.root(), b"many")?, b"file-09999")?;
        opened.push((cpu()? - before).as_secs_f64() * 1e3);
    }
    println!("VMFS-{version}, 10,000 files in a folder: opened and the last found in {:.1} ms of CPU.", median(opened));
    Ok(())
}

fn main() -> Outcome<()> {
    let mib: u64 = std::env::args().nth(1).map_or(Ok(512), |arg| arg.parse())?;
    let memory = PathBuf::from("/dev/shm");
    let usual = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = std::env::args().nth(2).map_or(usual, PathBuf::from);
    let dir = folder.join(format!("vcb-bench-vmfs-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let measured = measure(mib, &dir);
    std::fs::remove_dir_all(&dir)?;
    measured
}

fn measure(mib: u64, dir: &Path) -> Outcome<()> {
    println!("| MB/s | in-process | our mount | beside | in-process ratio | mount ratio |");
    println!("|---|---:|---:|---:|---:|---:|");
    for (version, tool) in [(5, "vmfs-fuse"), (6, "vmfs6-fuse")] {
        if let Err(err) = thin(version, tool, mib, dir) {
            println!("| VMFS-{version} | {err} | | | | |");
        }
    }
    println!();
    for version in [5, 6] {
        many_files(version, dir)?;
    }
    Ok(())
}
