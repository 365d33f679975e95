//! What is asked of NTFS volumes on the command line reaches their reader: --no-replay, --metafiles, --streams,
//! --exclude; and `info`, `mount` and their log tell what cannot be read and in what state the log is.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{World, can_mount, mount, run};
use vcb_fixtures::ntfs_log::{LogWriter, Tables};
use vcb_fixtures::{Ntfs3g, need_tool};

const MIB: u64 = 1 << 20;

/// An NTFS volume of 16 MiB filled by `fill`, as `ntfs.img`.
fn volume(world: &World, fill: impl FnOnce(&Path)) -> Option<PathBuf> {
    volume_of(world, 16 * MIB, fill)
}

fn volume_of(world: &World, len: u64, fill: impl FnOnce(&Path)) -> Option<PathBuf> {
    if !can_mount() || !["mkntfs", "setfattr"].into_iter().all(need_tool) {
        return None;
    }
    let image = world.write("ntfs.img", "");
    File::options().write(true).open(&image).unwrap().set_len(len).unwrap();
    let dir = world.dir.path();
    run("mkntfs", &["-q", "-F", "-c", "4096", "-p", "0", "-H", "255", "-S", "63", "-s", "512", "ntfs.img"], dir);
    fill(Ntfs3g::mount(&image, &world.path("filled"), "streams_interface=windows")?.at());
    Some(image)
}

/// A disk `NAME.vmdk` that is `image`.
fn disk(world: &World, name: &str, image: &Path) {
    let sectors = fs::metadata(image).unwrap().len() / 512;
    let flat = image.file_name().unwrap().to_str().unwrap();
    world.write(
        &format!("{name}.vmdk"),
        format!(
            "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
             RW {sectors} VMFS \"{flat}\"\nddb.adapterType = \"lsilogic\"\n"
        ),
    );
}

fn reparse(path: &Path, tag: &str) {
    fs::write(path, "placeholder").unwrap();
    let data = format!("0x{tag}08000000") + "3132333435363738";
    run("setfattr", &["-n", "system.ntfs_reparse_data", "-v", &data, path.to_str().unwrap()], Path::new("/"));
}

fn fill(root: &Path) {
    fs::create_dir(root.join("folder")).unwrap();
    fs::write(root.join("folder/plain"), "plain").unwrap();
    fs::write(root.join("folder/plain:small"), "a stream").unwrap();
    fs::write(root.join("folder/plain:large"), vec![7; 200_000]).unwrap();
    reparse(&root.join("folder/dedup"), "13000080");
    reparse(&root.join("folder/unknown 1"), "77000080");
    reparse(&root.join("folder/unknown 2"), "78000080");
    for name in ["pagefile.sys", "hiberfil.sys", "swapfile.sys"] {
        fs::write(root.join(name), "memory").unwrap();
    }
    for folder in ["$Recycle.Bin", "System Volume Information"] {
        fs::create_dir(root.join(folder)).unwrap();
        fs::write(root.join(folder).join("{5a5ae05e-1}{3808876b-c176-4e48-b7ae-04046e6cc752}"), "store").unwrap();
    }
}

/// A name as volumes have it.
fn utf16(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Changes the record of the file called `name`.
fn edit_record(image: &Path, name: &str, edit: impl FnOnce(&mut [u8])) {
    let (mut bytes, name) = (fs::read(image).unwrap(), utf16(name));
    let mut records = bytes.chunks_exact_mut(1024).filter(|record| record.starts_with(b"FILE"));
    // Not its folder, whose index has the name as well and is longer.
    edit(records.rfind(|record| record.windows(name.len()).any(|window| window == name)).unwrap());
    fs::write(image, bytes).unwrap();
}

/// Where attribute `kind` of a record begins.
fn attribute(record: &[u8], kind: u8) -> usize {
    let mut at = usize::from(record[0x14]);
    while record[at] != kind {
        at += usize::from(u16::from_le_bytes([record[at + 4], record[at + 5]]));
    }
    at
}

/// Lets the folder's entry for `name`, which is in its record, name another file.
fn misdirect(image: &Path, name: &str, to: &str) {
    let mut bytes = fs::read(image).unwrap();
    let entry = |bytes: &[u8], name: &str| {
        let name = utf16(name);
        let found = (0..bytes.len() - 1024).step_by(2).find(|&at| {
            let key = at + 0x10;
            bytes[at + 10..].starts_with(&((0x42 + name.len()) as u16).to_le_bytes())
                && usize::from(bytes[key + 0x40]) * 2 == name.len()
                && bytes[key + 0x42..].starts_with(&name)
        });
        found.unwrap()
    };
    let (from, to) = (entry(&bytes, name), entry(&bytes, to));
    bytes.copy_within(to..to + 8, from);
    fs::write(image, bytes).unwrap();
}

/// Where the content of $LogFile begins: the first run of the data of record 2.
fn log_at(image: &Path) -> u64 {
    let file = File::open(image).unwrap();
    let mut boot = [0; 512];
    file.read_exact_at(&mut boot, 0).unwrap();
    let mft = u64::from_le_bytes(boot[0x30..0x38].try_into().unwrap()) * 4096;
    let mut record = [0; 1024];
    file.read_exact_at(&mut record, mft + 2 * 1024).unwrap();
    let at = attribute(&record, 0x80);
    let runs = &record[at + usize::from(record[at + 0x20])..];
    let (len, delta) = (usize::from(runs[0] & 15), usize::from(runs[0] >> 4));
    runs[1 + len..1 + len + delta].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)) * 4096
}

/// Puts a log of format 2.0 there that was closed in order, or was not.
fn write_log(image: &Path, clean: bool) {
    let mut log = LogWriter::new(256 << 10, 2, 0);
    log.checkpoint(&Tables { attributes: vec![(0x80, 0)], ..Tables::default() });
    let at = log_at(image);
    File::options().write(true).open(image).unwrap().write_all_at(&log.finish(clean), at).unwrap();
}

fn info(world: &World, args: &[&str]) -> Value {
    let all = [&["info", "--json", "disk.vmdk"], args].concat();
    let json: Value = serde_json::from_str(&world.ok(&all)).unwrap();
    json["disks"][0]["volumes"][0].clone()
}

#[test]
fn info_counts_what_cannot_be_read_by_kind() {
    let world = World::new();
    let Some(image) = volume(&world, fill) else { return };
    disk(&world, "disk", &image);
    let text = world.ok(&["info", "disk.vmdk"]);
    assert!(text.contains("unreadable: 1 deduplicated, 2 unknown-reparse-tag\n"), "{text}");
    assert!(text.contains("    log: the log is clean\n"), "{text}");
    let json = info(&world, &[]);
    assert_eq!(json["unreadable_files"], serde_json::json!({ "deduplicated": 1, "unknown-reparse-tag": 2 }));
    assert_eq!(json["files"], 12);
    assert_eq!(json["log"]["state"], "clean");
    assert_eq!(info(&world, &["--quick"])["files"], Value::Null);
}

#[test]
fn info_counts_encrypted_damaged_and_placeholder_files() {
    let world = World::new();
    let made = volume(&world, |root| {
        fs::write(root.join("plain"), "plain").unwrap();
        fs::write(root.join("secret"), [7; 5000]).unwrap();
        fs::write(root.join("broken"), "broken").unwrap();
        // Hydrated, and known by its attributes to be in the cloud: OFFLINE.
        for name in ["cloud here", "cloud away"] {
            reparse(&root.join(name), "1a000090");
        }
        run("setfattr", &["-n", "system.ntfs_attrib_be", "-v", "0x00001000", "cloud away"], root);
    });
    let Some(image) = made else { return };
    edit_record(&image, "secret", |record| record[attribute(record, 0x80) + 0x0D] |= 0x40);
    edit_record(&image, "broken", |record| record[510] ^= 1);
    disk(&world, "disk", &image);
    let text = world.ok(&["info", "disk.vmdk"]);
    assert!(text.contains("files: 5, unreadable: 1 cloud-placeholder, 1 damaged, 1 encrypted\n"), "{text}");
    let json = info(&world, &[]);
    let counts = serde_json::json!({ "cloud-placeholder": 1, "damaged": 1, "encrypted": 1 });
    assert_eq!((&json["unreadable_files"], &json["files"]), (&counts, &5.into()));
}

/// One file under the name of another, on a volume that nothing else is wrong with.
#[test]
fn a_name_that_leads_to_another_file_is_an_error_however_it_is_asked_for() {
    let world = World::new();
    let made = volume(&world, |root| {
        fs::create_dir(root.join("folder")).unwrap();
        for (name, content) in [("Alpha", "first"), ("Beta", "second")] {
            fs::write(root.join("folder").join(name), content).unwrap();
            fs::write(root.join("folder").join(format!("{name}:stream")), content).unwrap();
        }
    });
    let Some(image) = made else { return };
    misdirect(&image, "Alpha", "Beta");
    disk(&world, "disk", &image);
    for path in ["1:/folder/Alpha", "1:/folder/ALPHA", "1:/Folder/alpha"] {
        for args in [&["cat", "disk.vmdk", path][..], &["cat", "disk.vmdk", path, "--stream", "stream"]] {
            let ran = world.run(args);
            assert_eq!((ran.exit(), ran.stdout()), (4, String::new()), "{args:?}: {}", ran.stderr());
            assert!(!ran.stderr().contains("replay"), "{}", ran.stderr());
        }
        assert_eq!(world.ok(&["cat", "disk.vmdk", &path.to_lowercase().replace("alpha", "beta")]), "second");
    }
    for streams in ["files", "xattr"] {
        let guard = mount(&world, &["--vm", "disk.vmdk", "--streams", streams], streams);
        let folder = guard.1.join("digits/1/folder");
        for name in ["Alpha", "Alpha:stream"] {
            let failed = fs::read(folder.join(name)).unwrap_err().raw_os_error();
            let missing = streams == "xattr" && name.contains(':');
            assert_eq!(failed, Some(if missing { 2 } else { 5 }), "{streams} {name}");
        }
        assert_eq!(fs::read(folder.join("Beta")).unwrap(), b"second");
    }

    // Of two moments, as it happens where the log is not replayed: then that is what to change.
    write_log(&image, false);
    for (flag, told) in [("--no-replay", true), ("--json", false)] {
        for path in ["1:/folder/Alpha", "1:/folder/alpha", "1:/folder"] {
            let command = if path.ends_with("folder") { "ls" } else { "cat" };
            let ran = world.run(&[command, flag, "disk.vmdk", path]);
            assert_eq!(ran.stderr().contains("Leave --no-replay away"), told, "{}", ran.stderr());
            assert_ne!(ran.exit(), 0);
        }
    }
}

#[test]
fn the_state_of_the_log_is_told_and_no_replay_reaches_the_reader() {
    let world = World::new();
    let Some(image) = volume(&world, fill) else { return };
    disk(&world, "disk", &image);
    let state = |args: &[&str]| info(&world, args)["log"]["state"].as_str().unwrap().to_owned();
    write_log(&image, true);
    assert_eq!((state(&[]), state(&["--no-replay"])), ("clean".to_owned(), "clean".to_owned()));
    write_log(&image, false);
    assert_eq!((state(&[]), state(&["--no-replay"])), ("replayed".to_owned(), "not-replayed".to_owned()));
    assert!(world.ok(&["info", "disk.vmdk"]).contains("    log: the log was not closed; all changes in it are on"));

    // The log of a mount has it, and so has whoever asked for the mount.
    for (flags, told) in [(&[][..], "all changes in it are on the volume"), (&["--no-replay"], "is not replayed")] {
        let log = world.path("log");
        let at = world.path("at");
        let (log_flag, at_flag) = (log.to_str().unwrap(), at.to_str().unwrap());
        let all = [&["--log-file", log_flag, "mount", "--vm", "disk.vmdk", "--at", at_flag][..], flags].concat();
        let ran = world.run(&all);
        assert_eq!(ran.exit(), 0, "{}", ran.stderr());
        world.ok(&["umount", at_flag]);
        assert!(ran.stderr().contains(told), "{}", ran.stderr());
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.contains(told), "{text}");
        fs::remove_file(&log).unwrap();
    }
    let ran = world.run(&["ls", "--no-replay", "disk.vmdk", "1:/"]);
    assert!(ran.exit() == 0 && ran.stderr().contains("is not replayed"), "{}", ran.stderr());
    let ran = world.run(&["cp", "--no-replay", "disk.vmdk", "1:/folder/plain", "copy"]);
    assert!(ran.exit() == 0 && ran.stderr().contains("is not replayed"), "{}", ran.stderr());
    let ran = world.run(&["run", "--no-replay", "--vm", "disk.vmdk", "--", "true"]);
    assert!(ran.exit() == 0 && ran.stderr().contains("is not replayed"), "{}", ran.stderr());

    // Clean: said where all is said.
    write_log(&image, true);
    let log = world.path("log");
    world.ok(&["-v", "--log-file", log.to_str().unwrap(), "run", "--vm", "disk.vmdk", "--", "true"]);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("the log is clean"), "{text}");

    // A system that hibernates, or was shut down with fast startup.
    let hibernated = World::new();
    let fill = |root: &Path| fs::write(root.join("hiberfil.sys"), b"HIBR".repeat(2000)).unwrap();
    let Some(image) = volume(&hibernated, fill) else { return };
    disk(&hibernated, "disk", &image);
    for clean in [true, false] {
        write_log(&image, clean);
        assert_eq!(info(&hibernated, &[])["log"]["state"], "hibernated");
    }
}

#[test]
fn streams_metafiles_and_exclusions_are_those_that_were_asked_for() {
    let world = World::new();
    let Some(image) = volume(&world, fill) else { return };
    disk(&world, "disk", &image);
    let names = |dir: &Path| {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    {
        let guard = mount(&world, &["--vm", "disk.vmdk", "--streams", "files", "--metafiles"], "files");
        let root = guard.1.join("digits/1");
        assert!(names(&root).contains(&"$MFT".to_owned()));
        let streams = ["dedup", "plain", "plain:large", "plain:small", "unknown 1", "unknown 2"];
        assert_eq!(names(&root.join("folder")), streams);
        assert!(fs::read(root.join("folder/plain:large")).unwrap() == vec![7; 200_000]);
        assert_eq!(fs::read(root.join("folder/plain:small")).unwrap(), b"a stream");
    }
    let everything =
        ["$Recycle.Bin", "System Volume Information", "folder", "hiberfil.sys", "pagefile.sys", "swapfile.sys"];
    {
        let guard = mount(&world, &["--vm", "disk.vmdk"], "xattr");
        let root = guard.1.join("digits/1");
        assert_eq!(names(&root), everything);
        assert_eq!(names(&root.join("folder")), ["dedup", "plain", "unknown 1", "unknown 2"]);
        let value = |name| run("getfattr", &["--only-values", "-n", name, "plain"], &root.join("folder"));
        assert_eq!(value("user.small"), "a stream");
        // Too long for an attribute: listed, and an error whoever asks for it.
        let listed = run("getfattr", &["-m", "^user", "plain"], &root.join("folder"));
        assert!(listed.contains("user.large"), "{listed}");
        let large =
            Command::new("getfattr").args(["-n", "user.large", "plain"]).current_dir(root.join("folder")).output();
        assert!(!large.unwrap().status.success());
        // Size and tag of what cannot be read are there, its content is an error, and one line of the report.
        let dedup = root.join("folder/dedup");
        assert_eq!(fs::metadata(&dedup).unwrap().len(), 11);
        for _ in 0..2 {
            assert_eq!(fs::read(&dedup).unwrap_err().raw_os_error(), Some(5), "EIO");
        }
        let tag = run("getfattr", &["-e", "hex", "-n", "system.ntfs_reparse_data", "dedup"], &root.join("folder"));
        assert!(tag.contains("0x13000080"), "{tag}");
        let ran = world.run(&["umount", guard.1.to_str().unwrap()]);
        assert_eq!((ran.exit(), ran.stderr().matches("folder/dedup").count()), (3, 1), "{}", ran.stderr());
    }
    let all = "pagefile,hiberfil,swapfile,vss,recycle";
    let guard = mount(&world, &["--vm", "disk.vmdk", "--exclude", all], "excluded");
    let root = guard.1.join("digits/1");
    assert_eq!(names(&root), ["System Volume Information", "folder"]);
    assert!(names(&root.join("System Volume Information")).is_empty());
    assert!(!root.join("pagefile.sys").exists());
    assert_eq!(world.run(&["mount", "--vm", "disk.vmdk", "--exclude", "vss,page"]).exit(), 2);
    assert!(world.ok(&["ls", "--metafiles", "disk.vmdk", "1:/"]).contains("$MFT"));
    assert!(!world.ok(&["ls", "disk.vmdk", "1:/"]).contains("$MFT"));
}

/// A disk as UEFI guests have it: EFI system partition, Microsoft reserved partition, Windows.
#[test]
fn boot_partitions_of_a_uefi_guest_are_explained_and_not_missed() {
    let world = World::new();
    let Some(image) = volume(&world, |root| fs::write(root.join("file"), "content").unwrap()) else { return };
    if !need_tool("sgdisk") {
        return;
    }
    let whole = world.write("whole.img", "");
    let file = File::options().write(true).open(&whole).unwrap();
    file.set_len(32 * MIB).unwrap();
    let parts = ["-n1:2048:+2M", "-t1:ef00", "-n2:0:+1M", "-t2:0c01", "-n3:16384:+16M", "-t3:0700"];
    run("sgdisk", &[&parts[..], &["whole.img"]].concat(), world.dir.path());
    // The boot sector of a FAT12 volume, as far as anybody looks to know one.
    let mut fat = vec![0; 512];
    fat[..11].copy_from_slice(b"\xEB\x3C\x90MSDOS5.0");
    fat[11..13].copy_from_slice(&512_u16.to_le_bytes());
    (fat[13], fat[14], fat[16], fat[17], fat[19], fat[21], fat[22]) = (1, 1, 2, 0xE0, 0xFF, 0xF8, 9);
    fat[20] = 0x0F;
    fat[38] = 0x29;
    fat[54..62].copy_from_slice(b"FAT12   ");
    fat[510..].copy_from_slice(&[0x55, 0xAA]);
    file.write_all_at(&fat, 2048 * 512).unwrap();
    file.write_all_at(&fs::read(&image).unwrap(), 16384 * 512).unwrap();
    disk(&world, "disk", &whole);
    let json: Value = serde_json::from_str(&world.ok(&["info", "--json", "disk.vmdk"])).unwrap();
    let volumes = &json["disks"][0]["volumes"];
    assert_eq!((&volumes[0]["type"], &volumes[0]["content"]), (&"EFI system".into(), &"fat".into()), "{volumes:#}");
    assert_eq!(volumes[2]["filesystem"], "ntfs");

    // Exit code 0, which is what the helper insists on.
    let guard = mount(&world, &["--vm", "disk.vmdk"], "at");
    let why = |number| fs::read_to_string(guard.1.join(format!("digits/{number}/UNREADABLE.txt"))).unwrap();
    assert!(why(1).contains("EFI system partition") && why(1).contains("fullvm"), "{}", why(1));
    assert!(why(2).contains("reserved by Windows"), "{}", why(2));
    assert_eq!(fs::read(guard.1.join("digits/3/file")).unwrap(), b"content");
    drop(guard);

    // The same FAT in a partition for data is missed.
    run("sgdisk", &["-t1:0700", "whole.img"], world.dir.path());
    let ran = world.run(&["mount", "--vm", "disk.vmdk", "--at", world.path("at").to_str().unwrap()]);
    assert_eq!(ran.exit(), 3, "{}", ran.stderr());
    world.ok(&["umount", world.path("at").to_str().unwrap()]);
}

/// Minutes of ntfs-3g: for the long tier. Every attribute of 50,000 files of one folder, through our mount and
/// through that of ntfs-3g.
#[test]
fn a_folder_of_fifty_thousand_files_has_the_attributes_that_ntfs_3g_shows() {
    if std::env::var_os("VCB_TORTURE").is_none() {
        eprintln!("skipped: VCB_TORTURE is not set");
        return;
    }
    let world = World::new();
    let made = volume_of(&world, 256 * MIB, |root| {
        let program = "import os,sys\nos.mkdir('many')\nfor i in range(50000):\n  p=f'many/entry-{i:06}-Some Longer Name.txt'\n  \
                       open(p,'wb').write(b'%06d hello\\n'%i*(i%90))\n  os.utime(p,ns=(i*10**12+100*i,i*10**12+700))\n  \
                       i%100 or os.link(p,p+' again')\n  i%10 or os.setxattr(p,'system.ntfs_attrib_be',bytes([0,0,0,1+i//10%7]))\n";
        run("python3", &["-c", program], root);
    });
    let Some(image) = made else { return };
    disk(&world, "disk", &image);
    // Ours number the files of all volumes: the record number is in the low 48 bits.
    let list = "import os,sys\nR=(1<<48)-1\nfor e in sorted(os.scandir('many'),key=lambda e:e.name):\n  s=e.stat(follow_symlinks=False)\n  \
                x=[os.getxattr(e.path,'system.ntfs_'+n).hex() for n in ('acl','attrib_be','crtime_be')]\n  \
                print(e.name,e.inode()&R,s.st_ino&R,s.st_size,s.st_nlink,s.st_mtime_ns,s.st_atime_ns,s.st_ctime_ns,*x)\n";
    let ours = {
        let guard = mount(&world, &["--vm", "disk.vmdk"], "at");
        run("python3", &["-c", list], &guard.1.join("digits/1"))
    };
    let Some(judge) = Ntfs3g::mount(&world.path("ntfs.img"), &world.path("filled"), "ro") else { return };
    let theirs = run("python3", &["-c", list], judge.at());
    drop(judge);
    assert_eq!(ours.lines().count(), 50_500);
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(theirs.lines().count(), 50_500);
}
