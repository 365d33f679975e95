use vcb_block::{FileSource, conformance};

use super::super::testing::{disk_of, vm_of};
use super::*;

fn names(view: &FullVmView) -> Vec<String> {
    view.items.iter().map(|item| item.name.clone()).collect()
}

fn file(name: &str, text: &str) -> VmFile {
    let block = Arc::new(MemBlock::new(text.as_bytes().to_vec()));
    VmFile { name: name.to_owned(), block, modified: Some(Time::from_unix(1_600_000_000)) }
}

#[test]
fn the_folder_holds_everything_under_plain_unique_names() {
    let mut vm = vm_of(vec![]);
    vm.name = "../web 01".to_owned();
    vm.disks = vec![disk_of("[ds] web/web01-000002.vmdk", vec![]), disk_of("/vmfs/volumes/x/WEB01.vmdk", vec![])];
    vm.disks[1].node = "scsi0:1".to_owned();
    vm.files = vec![
        file("web01.vmx", "scsi0:0.fileName = \"web01-000002.vmdk\"\nuuid.bios = \"56 4d\"\nnvram = \"a/b.nvram\"\n"),
        file("b.nvram", "NV"),
    ];
    let view = FullVmView::new(&vm, &FullVmOptions::default()).unwrap();
    assert_eq!(
        names(&view),
        ["web01.vmdk", "web01-flat.vmdk", "WEB01_2.vmdk", "WEB01_2-flat.vmdk", "web 01.vmx", "b.nvram", "catalog"]
    );
    let text = |name: &str| {
        let block = view.open(view.lookup(NodeId::ROOT, name.as_bytes()).unwrap().id).unwrap();
        let mut bytes = vec![0; block.len() as usize];
        block.read_at(&mut bytes, 0).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert!(text("web 01.vmx").contains("scsi0:0.fileName = \"web01.vmdk\"\n"));
    assert!(text("web01.vmdk").contains("RW 2048 VMFS \"web01-flat.vmdk\"\n"));
    let catalog = text("catalog");
    assert!(catalog.contains("display_name= \"../web 01\"\nuuid= \"56 4d\"\nconfig.vmx= \"web 01.vmx\"\n"));
    assert!(catalog.contains("disk.scsi0:1.diskname= \"WEB01_2.vmdk\"\n"));
    conformance::check(&view.open(view.lookup(NodeId::ROOT, b"web01-flat.vmdk").unwrap().id).unwrap(), 1);
}

#[test]
fn an_image_of_unknown_age_never_looks_unchanged() {
    let mut vm = vm_of(vec![]);
    vm.disks[0].modified = None;
    let view = FullVmView::new(&vm, &FullVmOptions::default()).unwrap();
    assert!(view.lookup(NodeId::ROOT, b"fake-flat.vmdk").unwrap().attr.modified > Time::from_unix(1_700_000_000));
}

#[test]
fn entries_that_would_break_out_of_the_descriptor_are_left_out() {
    let mut vm = vm_of(vec![]);
    vm.disks[0].ddb = vec![
        ("ddb.geometry.heads".to_owned(), "255".to_owned()),
        ("ddb.x".to_owned(), "1\"\nRW 1 FLAT \"/etc/shadow\" 0".to_owned()),
        ("ddb.adapterType".to_owned(), "ide".to_owned()),
        ("evil".to_owned(), "1".to_owned()),
    ];
    let text = descriptor::text(&vm.disks[0], "a-flat.vmdk", ImageType::MonolithicFlat).unwrap();
    assert!(text.contains("ddb.geometry.heads = \"255\""));
    assert!(text.contains("RW 2048 FLAT \"a-flat.vmdk\" 0\n"));
    assert!(!text.contains("shadow") && !text.contains("evil") && !text.contains("\"ide\""));
    assert!(descriptor::text(&vm.disks[0], "a\"b", ImageType::Vmfs).is_err());
}

#[test]
fn qemu_opens_both_kinds_of_descriptor() {
    if !vcb_fixtures::need_tool("qemu-img") {
        return;
    }
    let vm = vm_of(vec![]);
    for image in [ImageType::Vmfs, ImageType::MonolithicFlat] {
        let view = FullVmView::new(&vm, &FullVmOptions { image }).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for item in &view.items {
            let mut bytes = vec![0; item.block.len() as usize];
            item.block.read_at(&mut bytes, 0).unwrap();
            std::fs::write(dir.path().join(&item.name), bytes).unwrap();
        }
        let raw = dir.path().join("out.raw");
        let status = std::process::Command::new("qemu-img")
            .args(["convert", "-O", "raw"])
            .arg(dir.path().join("fake.vmdk"))
            .arg(&raw)
            .status()
            .unwrap();
        assert!(status.success());
        let raw: BlockRef = Arc::new(FileSource::open(raw).unwrap());
        let mut bytes = vec![0; raw.len() as usize];
        raw.read_at(&mut bytes, 0).unwrap();
        conformance::same_bytes(&vm.disks[0].block, &bytes, 1);
    }
}
