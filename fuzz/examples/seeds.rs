//! Writes small valid inputs into `corpus/TARGET/`, to start fuzzing from.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let scratch = std::env::temp_dir().join(format!("vcb-fuzz-seeds-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let volumes = [3, 5, 6].map(|version| vcb_fixtures::vmfs::seed(version, &scratch));
    std::fs::remove_dir_all(&scratch)?;
    let volumes = volumes.into_iter().flatten().map(|bytes| ("vmfs_volume", bytes));
    let seeds = vcb_fixtures::vmdk::seeds()?.into_iter().chain(vcb_fixtures::ntfs_seeds::seeds()).chain(volumes);
    for (number, (target, bytes)) in seeds.enumerate() {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("seed-{number}")), bytes)?;
    }
    Ok(())
}
