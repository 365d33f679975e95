//! Every file and every named stream of many volumes, by two other readers: ntfs-3g, and libfsntfs or the Sleuth
//! Kit. Where one of them is known to be wrong the test says which and why, and what was written decides.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod ntfs_common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use ntfs_common::fill::{Written, fill};
use ntfs_common::made::{Made, Recipe, SCRIPTS};
use ntfs_common::peers::{Answers, ask, hex, ours};
use ntfs_common::{digest, entries, listing, open, unpack};
use vcb_fs::{FileId, Filesystem};

/// Where a reader is known to be wrong or unable.
type Excuse<'a> = &'a dyn Fn(&str, &str, Option<&str>) -> bool;

/// `theirs` has the same answer to everything that `ours` has, but for what `excuse` (called with the question, our
/// answer and theirs) lets pass, and says nothing about anything else. Gives the number of excuses.
fn same(reader: &str, ours: &Answers, theirs: &Answers, excuse: Excuse<'_>) -> usize {
    let mut excused = 0;
    let mut wrong = Vec::new();
    for (key, value) in ours {
        let found = theirs.get(key).map(String::as_str);
        if found == Some(value) {
            continue;
        }
        match excuse(key, value, found) {
            true => excused += 1,
            false => wrong.push(format!("{key}: {value} here, {found:?} there")),
        }
    }
    wrong
        .extend(theirs.iter().filter(|(key, _)| !ours.contains_key(*key)).map(|(key, _)| format!("{key}: only there")));
    assert!(wrong.is_empty(), "{reader}: {} differ: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
    excused
}

fn never(_: &str, _: &str, _: Option<&str>) -> bool {
    false
}

/// Only names are not asked of readers that work by record number.
fn paths(key: &str, _: &str, _: Option<&str>) -> bool {
    key.starts_with('p')
}

/// All three readers on a volume made by ntfs-3g.
fn judge(made: &Made, cluster: u32, what: &str) {
    let fs = open(&made.block());
    assert_eq!(fs.geometry().cluster, cluster);
    let ours = ours(&*fs);
    assert!(ours.len() > 100, "{what}: {}", ours.len());
    let mounted = made.again(|root| {
        let odd = shown_otherwise(&ours);
        let excuse = |key: &str, _: &str, found: Option<&str>| found.is_none() && odd.contains(key);
        let excused = same("ntfs-3g", &ours, &ask("ntfs-3g", root, &ours).unwrap(), &excuse);
        assert!(excused <= 8, "{what}: {excused}");
    });
    if mounted.is_none() {
        return;
    }
    // libfsntfs is asked by record number, because it lists no folder of clusters of 8 KiB and more that has an index
    // block, and replaces unpaired surrogates in names.
    let Some(theirs) = ask("libfsntfs", &made.image(), &ours) else { return };
    same("libfsntfs", &ours, &theirs, &paths);
    // A process for each file: as many as a quick test can afford. It does not open clusters of 2 MiB.
    if cluster < 2 << 20 {
        let some: Answers = ours.iter().filter(|(key, _)| !key.starts_with('p')).take(150).map(owned).collect();
        let Some(theirs) = ask("sleuthkit", &made.image(), &some) else { return };
        same("sleuthkit", &some, &theirs, &never);
    }
}

/// What ntfs-3g does not show as a file. Links and devices of Interix, which it makes itself, and a tag that it does
/// not know, are links and devices there (docs/decisions/0303-what-is-a-link.md); a name with a colon, which only
/// it makes, is taken for one with a stream.
fn shown_otherwise(ours: &Answers) -> BTreeSet<String> {
    let name = |key: &str| key.strip_prefix("p\t").map(str::to_owned);
    let (folder, colon) = (hex(b"sym/"), hex(b"a:b"));
    let odd = ours.iter().filter_map(|(key, record)| Some((name(key)?, record)));
    let odd = odd.filter(|(path, _)| path.starts_with(&folder) || path.ends_with(&colon));
    odd.flat_map(|(path, record)| {
        let hidden = path.ends_with(&colon).then(|| format!("p\t{path}"));
        [Some(format!("f\t{record}")), hidden]
    })
    .flatten()
    .collect()
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

fn mixed(megabytes: u64, cluster: u32) {
    let mut lines = Default::default();
    let made = Made::new(&Recipe { megabytes, sector: 512, cluster }, |root| {
        let mut written = Written::new(root);
        fill(&mut written, cluster as usize);
        lines = written.lines;
    });
    let Some(made) = made else { return };
    let found: BTreeSet<String> = listing(&*open(&made.block())).into_iter().collect();
    assert!(found == lines, "not what was written");
    judge(&made, cluster, "mixed");
}

#[test]
fn mixed_files_in_clusters_of_512_bytes() {
    mixed(64, 512);
}

#[test]
fn mixed_files_in_clusters_of_4_kib() {
    mixed(64, 4096);
}

#[test]
fn mixed_files_in_clusters_of_64_kib() {
    mixed(256, 65536);
}

#[test]
fn mixed_files_in_clusters_of_2_mib() {
    mixed(1024, 2 << 20);
}

/// Compact-OS files: ntfs-3g shows them as links and the Sleuth Kit reads zeros, so that the plain content beside
/// them decides, with libfsntfs as second reader.
fn overlays(megabytes: u64, cluster: u32) {
    let fill = |root: &Path| {
        let made = Command::new("python3").arg(format!("{SCRIPTS}/mkwof.py")).arg(root).output().unwrap();
        if !made.status.success() {
            vcb_fixtures::skip(&format!("mkwof.py: {}", String::from_utf8_lossy(&made.stderr)));
        }
    };
    let Some(made) = Made::new(&Recipe { megabytes, sector: 512, cluster }, fill) else { return };
    let fs = open(&made.block());
    let find = |dir: FileId, name: &[u8]| fs.lookup(dir, name);
    let Ok(plain) = find(fs.root(), b"ref") else { return };
    let samples = entries(&*fs, plain, 100).unwrap();
    assert_eq!(samples.len(), 7);
    for folder in ["xpress4k", "xpress8k", "xpress16k", "lzx"] {
        let dir = find(fs.root(), folder.as_bytes()).unwrap();
        for sample in &samples {
            let id = find(dir, &sample.name).unwrap();
            let expected = fs.open(sample.id, None).unwrap();
            let found = fs.open(id, None).unwrap();
            assert_eq!(found.len(), expected.len());
            assert_eq!(digest(&found).unwrap(), digest(&expected).unwrap(), "{folder} {}", sample.name.escape_ascii());
        }
    }
    let ours = ours(&*fs);
    let files: Answers = ours.iter().filter(|(key, _)| key.starts_with('f')).map(owned).collect();
    assert_eq!(files.len(), 35);
    let Some(mut theirs) = ask("libfsntfs", &made.image(), &files) else { return };
    // It shows the stream that holds the compressed chunks, which Windows hides.
    theirs.retain(|key, _| key.starts_with('f'));
    // It fails on one LZX file, the program code; libwim reads it back as it was.
    let excused = same("libfsntfs", &files, &theirs, &|_, _, found| found.is_none_or(|found| found.starts_with('e')));
    assert!(excused <= 1, "{excused} files that libfsntfs does not read");
}

#[test]
fn compact_os_files_in_clusters_of_512_bytes() {
    overlays(40, 512);
}

#[test]
fn compact_os_files_in_clusters_of_4_kib() {
    overlays(40, 4096);
}

#[test]
fn compact_os_files_in_clusters_of_64_kib() {
    overlays(160, 65536);
}

#[test]
fn compact_os_files_in_clusters_of_2_mib() {
    overlays(1024, 2 << 20);
}

fn torture() -> bool {
    std::env::var_os("VCB_TORTURE").is_some()
}

/// The volumes of the scripts: small ones, and the full ones in the long tier. In clusters of 2 MiB the full ones
/// would be tens of gigabytes. Making even the small ones takes ntfs-3g a minute but in clusters of 4 KiB.
fn scripts(cluster: u32) {
    if cluster != 4096 && !torture() {
        eprintln!("skipped: VCB_TORTURE is not set");
        return;
    }
    for script in ["mkntfs.sh", "mkntfs-split.sh", "mkntfs-fragmft.sh"] {
        let small = !torture() || cluster > 65536;
        let Some(made) = Made::by_script(script, cluster, small) else { return };
        judge(&made, cluster, script);
    }
}

#[test]
fn scattered_files_in_clusters_of_512_bytes() {
    scripts(512);
}

#[test]
fn scattered_files_in_clusters_of_4_kib() {
    scripts(4096);
}

#[test]
fn scattered_files_in_clusters_of_64_kib() {
    scripts(65536);
}

#[test]
fn scattered_files_in_clusters_of_2_mib() {
    scripts(2 << 20);
}

/// Volumes of the corpus by libfsntfs and the Sleuth Kit; what ntfs-3g reads of them is in `ntfs_corpus.rs`.
fn corpus(image: &str, excuse: Excuse<'_>) {
    let Some(image) = unpack(image) else { return };
    // The readers want a file that begins with the volume.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    ntfs_common::save(&image.block, &path);
    let ours = ours(&*open(&image.block));
    for reader in ["libfsntfs", "sleuthkit"] {
        let asked = ours.iter().filter(|(key, _)| !key.starts_with('p'));
        let asked: Answers = asked.take(if reader == "sleuthkit" { 300 } else { usize::MAX }).map(owned).collect();
        let Some(theirs) = ask(reader, &path, &asked) else { return };
        same(reader, &asked, &theirs, excuse);
    }
}

#[test]
fn corpus_tiny() {
    corpus("SampleTinyNtfsVolume.zip", &never);
}

#[test]
fn corpus_thousands_of_folders() {
    corpus("ntfs.bin.gz", &never);
}

#[test]
fn corpus_deep_index() {
    corpus("ntfs_index.raw.gz", &never);
}

#[test]
fn corpus_attribute_lists() {
    corpus("ntfs3_attrlist.raw.gz", &never);
}

#[test]
fn corpus_velociraptor() {
    corpus("velociraptor-test.ntfs.raw.xz", &never);
}

#[test]
fn corpus_vsstest() {
    corpus("vsstest.qcow2", &never);
}

#[test]
fn corpus_undelete() {
    corpus("7-undel-ntfs.zip", &never);
}

#[test]
fn corpus_cloud() {
    // Both read the holes of a placeholder as zeros; its content is in the cloud, and reading it fails here.
    corpus("ntfs-cloud.bin.gz", &|_, ours, _| ours.starts_with("e\t"));
}
