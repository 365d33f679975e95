//! What backup software makes of a mount: the whole of a volume goes through each tool and back onto a disk,
//! and a second mount of an unchanged volume gives it nothing to do.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use support::{Guard, World, can_mount, mount, run};
use vcb_fixtures::{Ntfs3g, need_tool, skip};

const MIB: u64 = 1 << 20;
const VOLUME: u64 = 64 * MIB;
/// Files with holes of some MiB, and what they may occupy when the holes are left out.
const SPARSE: [&str; 3] = ["middle.sparse", "tail.sparse", "hole.sparse"];
const SPARSE_ALLOCATED: u64 = 256 << 10;
/// Without the window of -1 it takes times within one second for the same, also those of what it has just made.
const RSYNC: [&str; 3] = ["-aHAX", "--sparse", "--modify-window=-1"];

/// A VM with one disk, all of it an NTFS that mkntfs and ntfs-3g have made, and what ntfs-3g reads from it.
fn vm(world: &World) -> Tree {
    let flat = world.write("web/web-flat.vmdk", "");
    File::options().write(true).open(&flat).unwrap().set_len(VOLUME).unwrap();
    let flat = flat.to_str().unwrap();
    let dir = world.dir.path();
    run("mkntfs", &["-q", "-F", "-p", "0", "-H", "255", "-S", "63", "-s", "512", flat], dir);
    let extent = format!("RW {} VMFS \"web-flat.vmdk\"\n", VOLUME / 512);
    world.write(
        "web/web.vmdk",
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"vmfs\"\n".to_owned()
            + &extent
            + "ddb.adapterType = \"lsilogic\"\n",
    );
    let judge = |access| Ntfs3g::mount(Path::new(flat), &world.path("judge"), access).expect("ntfs-3g mounts");
    fill(judge("rw").at());
    Tree::of(judge("ro").at())
}

fn fill(root: &Path) {
    for folder in ["Docs", "empty", "odd names", "nested/deep"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("Docs/hello.txt"), "hello from the guest\n").unwrap();
    fs::write(root.join("Docs/tiny"), "tiny").unwrap();
    fs::write(root.join("nothing"), "").unwrap();
    let noise: Vec<u8> = (0..3_000_001_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(root.join("Docs/blob.bin"), noise).unwrap();
    fs::hard_link(root.join("Docs/hello.txt"), root.join("hello again.txt")).unwrap();
    fs::hard_link(root.join("Docs/hello.txt"), root.join("nested/deep/third name")).unwrap();
    for (name, len, data) in [("middle.sparse", 12, Some(5)), ("tail.sparse", 6, Some(6)), ("hole.sparse", 4, None)] {
        let file = File::create(root.join(name)).unwrap();
        file.set_len(len * MIB).unwrap();
        if let Some(at) = data {
            file.write_all_at(b"between holes", at * MIB).unwrap();
        }
    }
    // Also names that only a POSIX program can give, two that differ in case alone, and half a surrogate pair.
    let names: [&[u8]; 12] = [
        b" leading",
        b"trailing ",
        b"dot.",
        b"-rf",
        b"quote\"back\\slash",
        b"line\nfeed",
        b"glob*?[a]",
        b"case",
        b"CASE",
        "e\u{301} \u{43a}\u{43e}\u{442} \u{1f600}".as_bytes(),
        b"\xed\xa0\x80 alone",
        &[b'x'; 255],
    ];
    for name in names {
        fs::write(root.join("odd names").join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    for (file, name, value) in [
        ("Docs/hello.txt", "user.Zone.Identifier", "[ZoneTransfer]"),
        ("Docs/hello.txt", "user.second", "0x00ff0a00"),
        ("Docs/tiny", "user.empty", ""),
        ("nested", "user.note", "on a folder"),
    ] {
        run("setfattr", &["-n", name, "-v", value, file], root);
    }
    fs::write(root.join("nested/link"), "").unwrap();
    run("setfattr", &["-n", "system.ntfs_reparse_data", "-v", &symlink(r"..\Docs\hello.txt"), "nested/link"], root);
    // In steps of 100 ns; the folder last, as making files in it changes its time.
    for (name, seconds, nanos) in
        [("Docs/tiny", 951_782_400, 123_456_700), ("nothing", 1, 0), ("Docs", 1_400_000_000, 100)]
    {
        let time = UNIX_EPOCH + Duration::new(seconds, nanos);
        File::open(root.join(name)).unwrap().set_modified(time).unwrap();
    }
}

/// A relative symbolic link as a `REPARSE_DATA_BUFFER` (MS-FSCC 2.1.2.4), in the hexadecimal form of setfattr.
fn symlink(target: &str) -> String {
    let text: Vec<u8> = target.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let len = u16::try_from(text.len()).unwrap();
    // Offset and length of the substitute name and of the print name, which are the same text twice.
    let mut data: Vec<u8> = [0, len, len, len].into_iter().flat_map(u16::to_le_bytes).collect();
    data.extend(1_u32.to_le_bytes());
    data.extend([text.as_slice(), &text].concat());
    let mut all = 0xa000_000c_u32.to_le_bytes().to_vec();
    all.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    all.extend(data);
    all.iter().fold("0x".to_owned(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// What a tool has to carry over, of everything below a folder.
#[derive(Debug, PartialEq, Eq)]
struct Tree(BTreeMap<PathBuf, Item>);

#[derive(Debug, PartialEq, Eq)]
struct Item {
    /// Type and SHA-256, link text, or nothing.
    content: String,
    /// The first path with the same inode.
    same_as: PathBuf,
    modified: (i64, i64),
    /// As getfattr prints them.
    xattrs: Vec<String>,
}

impl Tree {
    fn of(root: &Path) -> Tree {
        let mut paths = vec![PathBuf::from(".")];
        let mut next = 0;
        while let Some(path) = paths.get(next).cloned() {
            next += 1;
            if fs::symlink_metadata(root.join(&path)).unwrap().is_dir() {
                paths
                    .extend(fs::read_dir(root.join(&path)).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
            }
        }
        paths.sort();
        let mut inodes = HashMap::new();
        let item = |path: PathBuf| {
            let full = root.join(&path);
            let meta = fs::symlink_metadata(&full).unwrap();
            let content = if meta.is_dir() {
                "folder".to_owned()
            } else if meta.is_symlink() {
                format!("link to {}", fs::read_link(&full).unwrap().display())
            } else {
                let output = Command::new("sha256sum").stdin(File::open(&full).unwrap()).output().unwrap();
                assert!(output.status.success(), "{}", full.display());
                String::from_utf8(output.stdout).unwrap()
            };
            let same_as = inodes.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
            let modified = (meta.mtime(), meta.mtime_nsec());
            (path, Item { content, same_as, modified, xattrs: xattrs(&full) })
        };
        Tree(paths.into_iter().map(item).collect())
    }

    /// Fails with what differs instead of with two whole trees.
    fn same_as(&self, expected: &Tree, what: &str) {
        for (path, item) in &expected.0 {
            assert_eq!(self.0.get(path), Some(item), "{what}: {}", path.display());
        }
        assert_eq!(self.0.len(), expected.0.len(), "{what}: more than there was");
    }
}

fn xattrs(path: &Path) -> Vec<String> {
    let output = Command::new("getfattr")
        .args(["-h", "--absolute-names", "-d", "-m", r"^user\.", "-e", "hex", "--"])
        .arg(path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let mut all: Vec<String> = text.lines().filter(|line| line.starts_with("user.")).map(str::to_owned).collect();
    all.sort();
    all
}

fn holes_are_holes(root: &Path, what: &str) {
    for name in SPARSE {
        let allocated = fs::metadata(root.join(name)).unwrap().blocks() * 512;
        assert!(allocated <= SPARSE_ALLOCATED, "{what}: {name} occupies {allocated} bytes");
    }
}

/// A mount, and a folder to restore to on a filesystem that takes user attributes.
struct Site {
    world: World,
    expected: Tree,
    out: tempfile::TempDir,
}

impl Site {
    /// `None` where a tool is missing.
    fn new(tools: &[&str]) -> Option<Site> {
        let needed = ["mkntfs", "ntfs-3g", "setfattr", "getfattr"];
        if !can_mount() || !needed.iter().chain(tools).all(|tool| need_tool(tool)) {
            return None;
        }
        let out = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let taken = Command::new("setfattr").args(["-n", "user.test", "-v", "x"]).arg(out.path()).status().unwrap();
        if !taken.success() {
            skip("the target folder is on a filesystem without user attributes");
            return None;
        }
        let world = World::new();
        let expected = vm(&world);
        // Otherwise all comparisons would hold of what was never there.
        let item = |path: &str| &expected.0[&Path::new(".").join(path)];
        assert_eq!(item("nested/link").content, "link to ../Docs/hello.txt");
        assert_eq!(item("hello again.txt").same_as, item("nested/deep/third name").same_as);
        assert_eq!((item("Docs/hello.txt").xattrs.len(), item("nested").xattrs.len()), (2, 1));
        assert_eq!(item("Docs").modified, (1_400_000_000, 100));
        Some(Site { world, expected, out })
    }

    /// Mounts, and gives the folder that has the volume as its folder `1`.
    fn mount(&self) -> (Guard<'_>, PathBuf) {
        let guard = mount(&self.world, &["--vm", "web/web.vmdk", "--mode", "file"], "at");
        let digits = guard.1.join("digits");
        (guard, digits)
    }

    /// Standard output of a tool that runs in `dir` and must succeed without a complaint.
    fn tool(&self, dir: &Path, program: &str, args: &[&str]) -> String {
        let output = Command::new(program)
            .args(args)
            .current_dir(dir)
            .env("HOME", self.world.path("home"))
            .env("RESTIC_REPOSITORY", self.world.path("restic"))
            .env("RESTIC_PASSWORD", "test")
            .env("BORG_REPO", self.world.path("borg"))
            .env("BORG_BASE_DIR", self.world.path("home"))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{program} {args:?}: {}: {errors}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn restored(&self, what: &str) {
        Tree::of(&self.out.path().join("1")).same_as(&self.expected, what);
    }

    fn restored_with_holes(&self, what: &str) {
        self.restored(what);
        holes_are_holes(&self.out.path().join("1"), what);
    }
}

#[test]
fn rsync_copies_all_and_finds_nothing_new_in_a_second_mount() {
    let Some(site) = Site::new(&["rsync"]) else { return };
    let out = site.out.path().to_str().unwrap();
    {
        let (_guard, digits) = site.mount();
        Tree::of(&digits.join("1")).same_as(&site.expected, "the mount itself");
        holes_are_holes(&digits.join("1"), "the mount itself");
        site.tool(&digits, "rsync", &[RSYNC.as_slice(), &["1", out]].concat());
        site.restored_with_holes("rsync");
    }
    let (_guard, digits) = site.mount();
    let changes = site.tool(&digits, "rsync", &[RSYNC.as_slice(), &["--delete", "-n", "-i", "1", out]].concat());
    assert_eq!(changes, "");
}

#[test]
fn tar_restores_all() {
    let Some(site) = Site::new(&["tar"]) else { return };
    let (_guard, digits) = site.mount();
    let archive = site.world.path("archive.tar");
    let archive = archive.to_str().unwrap();
    site.tool(&digits, "tar", &["--xattrs", "--sparse", "-cf", archive, "1"]);
    // Holes that were not found would be in the archive as zeros.
    assert!(fs::metadata(archive).unwrap().len() < 4 * MIB);
    site.tool(site.out.path(), "tar", &["--xattrs", "-xpf", archive]);
    site.restored_with_holes("tar");
}

#[test]
fn restic_restores_all_and_finds_nothing_new_in_a_second_mount() {
    let Some(site) = Site::new(&["restic"]) else { return };
    let backup = || {
        let (_guard, digits) = site.mount();
        let text = site.tool(&digits, "restic", &["backup", "--json", "--host", "web", "1"]);
        let summary = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        summary.into_iter().find(|line| line["message_type"] == "summary").unwrap()
    };
    site.tool(site.world.dir.path(), "restic", &["init"]);
    // It does not count links.
    let is_file = |item: &&Item| item.content != "folder" && !item.content.starts_with("link to ");
    let files = site.expected.0.values().filter(is_file).count() as u64;
    assert_eq!(backup()["files_new"], files);
    let out = site.out.path().to_str().unwrap();
    site.tool(site.world.dir.path(), "restic", &["restore", "latest", "--target", out]);
    // Not that holes stay holes: restic writes them only since 0.15, and only when asked to.
    site.restored("restic");

    let second = backup();
    for (key, value) in [("files_new", 0), ("files_changed", 0), ("files_unmodified", files), ("data_blobs", 0)] {
        assert_eq!(second[key], value, "{key}: {second}");
    }
}

#[test]
fn borg_restores_all() {
    let Some(site) = Site::new(&["borg"]) else { return };
    site.tool(site.world.dir.path(), "borg", &["init", "--encryption=none"]);
    {
        let (_guard, digits) = site.mount();
        // Holes are kept to the chunk, and chunks cut by content are up to 8 MiB long.
        site.tool(&digits, "borg", &["create", "--sparse", "--chunker-params", "fixed,65536", "::first", "1"]);
    }
    site.tool(site.out.path(), "borg", &["extract", "--sparse", "::first"]);
    site.restored_with_holes("borg");
}
