//! Large folders and large holes.

use vcb_fixtures::vmfs;
use vcb_fs::Filesystem;

use crate::common::{bytes, find, open};

/// Nanoseconds of processor time this thread has used.
fn cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_volume_with_ten_thousand_files_opens_at_once_and_lists_them_all() {
    for version in [5, 6] {
        let manifest = format!(
            r#"{{"version": {version}, "label": "many", "extent_mib": 512, "capacity": {{"fd": 10500}}, "entries": [
                {{"path": "/many", "type": "dir"}},
                {{"path": "/many/file-{{:05d}}", "repeat": 10000, "text": "content {{}}\n"}}]}}"#
        );
        let dir = tempfile::tempdir().unwrap();
        let Some(volume) = vmfs::make_text(&manifest, dir.path()) else { return };
        let before = cpu();
        let fs = open(&volume.devices);
        let folder = find(&*fs, "/many");
        let opened = cpu() - before;
        for number in (0..10_000).step_by(97) {
            let id = fs.lookup(folder, format!("file-{number:05}").as_bytes()).unwrap();
            assert_eq!(fs.parent(id).unwrap(), folder);
            let file = fs.open(id, None).unwrap();
            assert_eq!(bytes(&file, 0, file.len()), format!("content {number}\n").into_bytes());
        }
        // A page at a time, as front ends list.
        let (mut cookie, mut count) = (0, 0);
        loop {
            let mut page = 0;
            fs.read_dir(folder, cookie, &mut |entry| {
                cookie = entry.next;
                page += 1;
                if page == 333 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
            })
            .unwrap();
            if page == 0 {
                break;
            }
            count += page;
        }
        assert_eq!(count, 10_000);
        eprintln!("VMFS-{version}: opening takes {opened} ns of processor time");
        assert!(opened < 100_000_000, "VMFS-{version}: opening took {opened} ns");
    }
}

#[test]
fn holes_are_read_at_the_speed_of_memory() {
    let dir = tempfile::tempdir().unwrap();
    let Some(volume) = vmfs::make(&vmfs::manifest("v6-hole-first"), dir.path()) else { return };
    let fs = open(&volume.devices);
    let file = fs.open(find(&*fs, "/h-flat.vmdk"), None).unwrap();
    let mut buf = vec![1; 1 << 20];
    let mut clear = |work: &mut dyn FnMut(&mut [u8], u64)| {
        let before = cpu();
        for at in 0..2048 {
            work(&mut buf, at << 20);
        }
        cpu() - before
    };
    let memory = clear(&mut |buf, _| std::hint::black_box(buf).fill(0));
    let holes = clear(&mut |buf, at| vcb_block::plan::read(&file, buf, at).unwrap());
    eprintln!("2 GiB of holes: {holes} ns of processor time, of memory: {memory} ns");
    assert!(holes < 4 * memory.max(20_000_000), "{holes} ns for 2 GiB of holes, {memory} ns for memory");
}
