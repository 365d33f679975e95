//! Reads a thin file on VMFS in-process and through the mounts of vmfs-fuse and vmfs6-fuse, in the same run.
//!
//! `cargo run --release -p vcb-benches --bin vmfs -- [MiB]`
//!
//! The image is warm in the page cache; each side is measured in turn and the best of three is taken.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vcb_block::{BlockRef, FileSource, plan};
use vcb_fixtures::vmfs;
use vcb_fs::Filesystem;
use vcb_fs::vmfs::{Options, Vmfs};

const PIECE: usize = 1 << 20;
const ROUNDS: usize = 3;

fn best(mut read: impl FnMut() -> Result<u64, Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let mut best = 0f64;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let bytes = read()?;
        best = best.max(bytes as f64 / 1e6 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn ours(image: &Path) -> Result<f64, Box<dyn Error>> {
    let device: BlockRef = Arc::new(FileSource::open(image)?);
    let fs = Vmfs::open(vec![device], &Options::default())?;
    let file = fs.open(fs.lookup(fs.root(), b"thin-flat.vmdk")?, None)?;
    let mut buf = vec![0; PIECE];
    best(|| {
        for at in (0..file.len()).step_by(PIECE) {
            plan::read(&file, &mut buf, at)?;
        }
        fs.verify()?;
        Ok(file.len())
    })
}

fn peer(tool: &str, image: &Path, mount: &Path) -> Result<f64, Box<dyn Error>> {
    std::fs::create_dir_all(mount)?;
    if !Command::new(tool).arg(image).arg(mount).status()?.success() {
        return Err(format!("{tool} does not mount").into());
    }
    let path = mount.join("thin-flat.vmdk");
    let started = Instant::now();
    while !path.exists() && started.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut buf = vec![0; PIECE];
    let result = best(|| {
        let mut file = File::open(&path)?;
        let mut total = 0;
        loop {
            match file.read(&mut buf)? {
                0 => return Ok(total),
                n => total += n as u64,
            }
        }
    });
    Command::new("fusermount").arg("-u").arg(mount).status()?;
    result
}

fn main() -> Result<(), Box<dyn Error>> {
    let mib: u64 = std::env::args().nth(1).map_or(Ok(128), |arg| arg.parse())?;
    let dir = std::env::temp_dir().join(format!("vcb-bench-vmfs-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    for (version, tool) in [(5, "vmfs-fuse"), (6, "vmfs6-fuse")] {
        // Every fourth block a hole, as thin disks become.
        let runs: Vec<String> = (0..mib)
            .filter(|n| n % 4 != 3)
            .map(|n| format!(r#"{{"at": "{n}MiB", "fill": {}, "size": 1048576}}"#, n % 255 + 1))
            .collect();
        let manifest = format!(
            r#"{{"version": {version}, "label": "bench", "extent_mib": 1024, "entries": [
                {{"path": "/thin-flat.vmdk", "size": "{mib}MiB", "runs": [{}]}}]}}"#,
            runs.join(",")
        );
        let Some(volume) = vmfs::make_text(&manifest, &dir) else { break };
        let image = &volume.devices[0];
        let ours = ours(image)?;
        println!("VMFS-{version}, {mib} MiB thin: in-process {ours:.0} MB/s");
        match peer(tool, image, &dir.join("mnt")) {
            Ok(theirs) => println!("  {tool} through its mount {theirs:.0} MB/s: {:.1} times", ours / theirs),
            Err(err) => println!("  {tool}: {err}"),
        }
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
