use vcb_block::conformance;
use vcb_fs::{GuestVolume, LinkTarget};

use super::super::testing::{FakeFs, hive, vm_of};
use super::*;

/// Every method of the contract that can be checked on any view: what is listed can be looked up and has the
/// same attributes; listing can stop anywhere and go on; contents keep the contract of blocks.
pub(crate) fn conforms(view: &dyn View) {
    let mut pending = vec![(NodeId::ROOT, NodeId::ROOT)];
    let mut seen = std::collections::HashSet::new();
    while let Some((dir, parent)) = pending.pop() {
        assert!(seen.insert(dir), "folder {dir:?} has two places");
        assert_eq!(view.parent(dir).unwrap(), parent);
        assert_eq!(view.attr(dir).unwrap().kind, FileType::Dir);
        let entries = list(view, dir);
        for (stop, entry) in entries.iter().enumerate() {
            let mut again = Vec::new();
            view.read_dir(dir, entry.next, false, &mut |entry| {
                again.push((entry.name, entry.node));
                ControlFlow::Continue(())
            })
            .unwrap();
            let rest: Vec<_> = entries[stop + 1..].iter().map(|entry| (entry.name.clone(), entry.node)).collect();
            assert_eq!(again, rest, "listing {dir:?} from {} goes on elsewhere", entry.next);
            let node = view.lookup(dir, &entry.name).unwrap();
            assert_eq!(node.id, entry.node);
            assert_eq!(&node.attr, entry.attr.as_ref().unwrap().as_ref().unwrap());
            assert_eq!(node.attr, view.attr(node.id).unwrap());
            match node.attr.kind {
                FileType::Dir => pending.push((node.id, dir)),
                FileType::Symlink => assert_eq!(view.read_link(node.id).unwrap().len() as u64, node.attr.size),
                _ if node.attr.unreadable.is_some() => {
                    assert_eq!(view.open(node.id).err().unwrap().kind(), Kind::Unsupported);
                }
                _ => {
                    let block = view.open(node.id).unwrap();
                    assert_eq!(block.len(), node.attr.size);
                    conformance::check(&block, 1);
                }
            }
            for name in view.xattr_names(node.id).unwrap() {
                match view.xattr(node.id, &name) {
                    Ok(value) => assert!(value.is_some()),
                    Err(err) => assert_eq!(err.kind(), Kind::Limit),
                }
            }
        }
        assert_eq!(view.lookup(dir, b"no such name").unwrap_err().kind(), Kind::NotFound);
        assert!(view.open(dir).is_err());
    }
    assert!(view.attr(NodeId(0)).is_err());
    assert!(view.attr(NodeId(1 << 48 | 0xFFFF_FFFF)).is_err());
}

fn list(view: &dyn View, dir: NodeId) -> Vec<Entry> {
    let mut entries = Vec::new();
    view.read_dir(dir, 0, true, &mut |entry| {
        entries.push(entry);
        ControlFlow::Continue(())
    })
    .unwrap();
    entries
}

fn walk(view: &dyn View, path: &str) -> Result<Node> {
    let mut node = Node { id: NodeId::ROOT, attr: view.attr(NodeId::ROOT)? };
    for part in path.split('/') {
        node = view.lookup(node.id, part.as_bytes())?;
    }
    Ok(node)
}

fn sample() -> OpenVm {
    let mut c = FakeFs::new();
    let mbr = [0x78, 0x56, 0x34, 0x12, 0, 0, 0x10, 0, 0, 0, 0, 0].to_vec();
    c.file("Windows/System32/config/SYSTEM", hive(&[("\\DosDevices\\C:", mbr)]));
    let report = c.file("Users/Public/report.txt", b"hello".to_vec());
    c.stream(report, "Zone.Identifier", b"[ZoneTransfer]".to_vec());
    c.stream(report, "big", vec![7; 70_000]);
    let secret = c.file("Users/secret.doc", vec![1; 100]);
    c.unreadable(secret);
    c.dir("empty");
    let volume = |parts: &[&str]| LinkTarget::Volume(parts.iter().map(|part| part.as_bytes().to_vec()).collect());
    let guest = |letter, parts: &[&str]| LinkTarget::Guest {
        volume: GuestVolume::Letter(letter),
        path: parts.iter().map(|part| part.as_bytes().to_vec()).collect(),
    };
    c.link("unc", LinkTarget::Foreign(br"\\server\share".to_vec()));
    c.link("Users/All Users", volume(&["users", "PUBLIC"]));
    c.link("Users/deep", guest('C', &["Users", "Public", "report.txt"]));
    c.link("top", volume(&[]));
    c.link("elsewhere", guest('D', &["data", "x"]));
    c.link("up", LinkTarget::Relative(vec![b"Users".to_vec(), b"..".to_vec(), b"EMPTY".to_vec()]));
    for name in ["pagefile.sys", "System Volume Information/tracking.log"] {
        c.file(name, vec![0; 10]);
    }
    c.file("System Volume Information/{1}{3808876b-c176-4e48-b7ae-04046e6cc752}", vec![0; 10]);
    let broken = Error::unsupported("ntfs", "BitLocker");
    let mut vm = vm_of(vec![Ok(c.arc()), Err(broken), Ok(FakeFs::new().arc())]);
    vm.disks[0].volumes[0].mbr_signature = Some(0x1234_5678);
    vm
}

fn view(options: FileOptions) -> FileView {
    FileView::new(&sample(), &options).unwrap()
}

#[test]
fn both_trees_conform_in_every_mode() {
    conforms(&view(FileOptions { list_acl: true, ..FileOptions::default() }));
    conforms(&view(FileOptions { streams: StreamsAs::Files, ..FileOptions::default() }));
}

#[test]
fn letters_and_digits_name_the_same_files() {
    let view = view(FileOptions::default());
    let names = |path: &str| -> Vec<NameBuf> {
        list(&view, walk(&view, path).unwrap().id).into_iter().map(|entry| entry.name).collect()
    };
    assert_eq!(names("letters"), [b"C".to_vec()]);
    assert_eq!(names("digits"), [b"1".to_vec(), b"2".to_vec(), b"3".to_vec()]);
    let (a, b) = ("letters/C/Users/Public/report.txt", "digits/1/Users/Public/report.txt");
    let (a, b) = (walk(&view, a).unwrap(), walk(&view, b).unwrap());
    assert_eq!(a.id, b.id);
    assert_eq!(a.id.0 >> 48, 1);
    assert_ne!(walk(&view, "letters/C/Users").unwrap().id, walk(&view, "digits/1/Users").unwrap().id);
    assert_eq!(view.path(a.id), "letters/C/Users/Public/report.txt");
    assert_eq!(view.stats().unwrap(), FsStats { cluster_size: 4096, clusters: 400, free_clusters: 40, files: 21 });
}

#[test]
fn an_unreadable_volume_says_why() {
    let view = view(FileOptions::default());
    let node = walk(&view, "digits/2/UNREADABLE.txt").unwrap();
    let block = view.open(node.id).unwrap();
    let mut text = vec![0; block.len() as usize];
    block.read_at(&mut text, 0).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("BitLocker"));
    let notes = view.notes();
    assert_eq!((notes.len(), notes[0].place.as_str(), notes[0].unreadable), (1, "digits/2", true));
}

#[test]
fn links_inside_the_volume_are_relative_and_spelled_as_on_disk() {
    let view = view(FileOptions::default());
    let text = |path: &str| {
        let node = walk(&view, path).unwrap();
        String::from_utf8(view.read_link(node.id).unwrap()).unwrap()
    };
    for top in ["letters/C", "digits/1"] {
        assert_eq!(text(&format!("{top}/Users/All Users")), "../Users/Public");
        assert_eq!(text(&format!("{top}/Users/deep")), "../Users/Public/report.txt");
        assert_eq!(text(&format!("{top}/top")), ".");
        assert_eq!(text(&format!("{top}/up")), "Users/../empty");
        assert_eq!(text(&format!("{top}/elsewhere")), r"D:\data\x");
        assert_eq!(text(&format!("{top}/unc")), r"\\server\share");
    }
}

#[test]
fn a_stream_whose_name_is_too_long_for_an_attribute_is_listed_and_refused() {
    let mut fs = FakeFs::new();
    let id = fs.file("file", b"x".to_vec());
    let long = "\u{e9}".repeat(200);
    fs.stream(id, &long, b"value".to_vec());
    fs.stream(id, "short", b"value".to_vec());
    let view = FileView::new(&vm_of(vec![Ok(fs.arc())]), &FileOptions::default()).unwrap();
    let node = walk(&view, "digits/1/file").unwrap().id;
    let names = view.xattr_names(node).unwrap();
    assert!(names.len() == 2 && names[0].len() <= 255 && std::str::from_utf8(&names[0]).unwrap().ends_with('\u{2026}'));
    assert_eq!(view.xattr(node, &names[0]).unwrap_err().kind(), Kind::Limit);
    assert_eq!(view.xattr(node, b"user.short").unwrap().unwrap(), b"value");
    assert_eq!(view.xattr(node, "user.other\u{2026}".as_bytes()).unwrap(), None);
}

#[test]
fn a_view_stands_for_its_only_volume_or_the_only_one_with_a_letter() {
    let labelled = |label| {
        let mut fs = FakeFs::new();
        fs.label = label;
        fs.arc()
    };
    let name_of = |volumes| {
        let name = FileView::new(&vm_of(volumes), &FileOptions::default()).unwrap().volume();
        name.map(|name| (String::from_utf8(name.label).unwrap(), name.serial))
    };
    let one = Some(("DATA".to_owned(), "0000000000000001".to_owned()));
    assert_eq!(name_of(vec![Ok(labelled("DATA"))]), one);
    let efi = || Error::new(Kind::NotFound, "volume", "FAT is not shown as files");
    assert_eq!(name_of(vec![Err(efi()), Ok(labelled("DATA"))]), one);
    assert_eq!(name_of(vec![Ok(labelled("")), Ok(labelled("DATA"))]), None);
    assert_eq!(name_of(vec![Err(Error::corrupt("ntfs", "no MFT")), Ok(labelled("DATA"))]), None);
    assert_eq!(name_of(vec![Err(Error::corrupt("ntfs", "no MFT"))]), None);
    assert_eq!(name_of(Vec::new()), None);
    // Three volumes, of which C has the hive, and one letter.
    assert!(view(FileOptions::default()).volume().is_some());
}

#[test]
fn streams_are_attributes_or_files_and_large_values_are_refused() {
    let plain = view(FileOptions::default());
    let node = walk(&plain, "letters/C/Users/Public/report.txt").unwrap().id;
    assert_eq!(plain.xattr_names(node).unwrap(), [b"user.Zone.Identifier".to_vec(), b"user.big".to_vec()]);
    assert_eq!(plain.xattr(node, b"user.Zone.Identifier").unwrap().unwrap(), b"[ZoneTransfer]");
    assert_eq!(plain.xattr(node, b"user.none").unwrap(), None);
    assert_eq!(plain.xattr(node, b"security.capability").unwrap(), None);
    assert_eq!(plain.xattr(node, b"user.big").unwrap_err().kind(), Kind::Limit);
    assert_eq!(plain.xattr(node, b"system.ntfs_acl").unwrap().unwrap(), [1, 0, 4, 0x80]);
    assert_eq!(
        plain.xattr(node, b"system.ntfs_crtime_be").unwrap().unwrap(),
        132_000_000_000_000_003_u64.to_be_bytes()
    );

    let files = view(FileOptions { streams: StreamsAs::Files, ..FileOptions::default() });
    let stream = walk(&files, "letters/C/Users/Public/report.txt:big").unwrap();
    assert_eq!((stream.attr.size, files.open(stream.id).unwrap().len()), (70_000, 70_000));
    assert_eq!(files.path(stream.id), "letters/C/Users/Public/report.txt:big");
    assert_eq!(files.xattr_names(walk(&files, "letters/C/Users/Public/report.txt").unwrap().id).unwrap().len(), 0);
}

#[test]
fn what_is_excluded_is_neither_listed_nor_found() {
    let all: Vec<Exclude> = Exclude::NAMES.iter().map(|&(_, exclude)| exclude).collect();
    let view = view(FileOptions { exclude: all, ..FileOptions::default() });
    conforms(&view);
    let names = |path: &str| -> Vec<String> {
        let entries = list(&view, walk(&view, path).unwrap().id);
        entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).collect()
    };
    assert!(!names("digits/1").contains(&"pagefile.sys".to_owned()));
    assert_eq!(names("digits/1/System Volume Information"), ["tracking.log"]);
    assert!(walk(&view, "letters/C/pagefile.sys").is_err());
}
