//! Tables made by sfdisk and sgdisk, and hostile ones written by hand.

use std::io::Write;
use std::process::{Command, Stdio};

use vcb_block::{Fault, FaultBlock, FileSource, Kind, MemBlock};
use vcb_fixtures::need_tool;

use super::*;

const MIB: usize = 1 << 20;

fn mem(bytes: Vec<u8>) -> BlockRef {
    Arc::new(MemBlock::new(bytes))
}

fn ntfs_at(disk: &mut [u8], start: usize) {
    disk[start + 3..start + 11].copy_from_slice(b"NTFS    ");
    disk[start + 510..start + 512].copy_from_slice(&[0x55, 0xAA]);
}

fn slot(disk: &mut [u8], record: usize, index: usize, kind: u8, start: u32, sectors: u32) {
    let at = record + 446 + 16 * index;
    disk[at + 4] = kind;
    disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
    disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    disk[record + 510..record + 512].copy_from_slice(&[0x55, 0xAA]);
}

/// Runs a partitioning tool on an image of `len` zeros and gives back the image.
fn made_by(tool: &str, args: &[&str], script: &str, len: usize) -> Option<Vec<u8>> {
    if !need_tool(tool) {
        return None;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(len as u64).unwrap();
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut child = Command::new(tool)
        .args(args)
        .arg(file.path())
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{tool} failed");
    Some(std::fs::read(file.path()).unwrap())
}

fn brief(scan: &Scan) -> Vec<(u32, u64, u64, Content)> {
    scan.volumes.iter().map(|v| (v.partition, v.start / 512, v.len / 512, v.content)).collect()
}

fn gpt_disk() -> Option<Vec<u8>> {
    let args = ["-n1:2048:+1M", "-t1:ef00", "-c1:boot ☃", "-n3:6144:+2M", "-t3:0700", "-n4:12288:+1M", "-t4:4201"];
    let mut disk = made_by("sgdisk", &args, "", 8 * MIB)?;
    ntfs_at(&mut disk, 6144 * 512);
    Some(disk)
}

#[test]
fn primary_and_logical_partitions_are_numbered_as_linux_does() {
    let script = "label: dos\nlabel-id: 0x1234abcd\n2048,2048,7\n4096,2048,83\n8192,,E\n9216,1024,7\n12288,2048,42\n";
    let Some(mut disk) = made_by("sfdisk", &["-q"], script, 8 * MIB) else { return };
    ntfs_at(&mut disk, 2048 * 512);
    ntfs_at(&mut disk, 9216 * 512);
    let scan = scan(&mem(disk)).unwrap();
    assert_eq!((scan.scheme, scan.mbr_signature), (Scheme::Mbr, Some(0x1234_ABCD)));
    assert_eq!(
        brief(&scan),
        [
            (1, 2048, 2048, Content::Ntfs),
            (2, 4096, 2048, Content::Empty),
            (5, 9216, 1024, Content::Ntfs),
            (6, 12_288, 2048, Content::Ldm)
        ]
    );
    assert!(scan.warnings.is_empty() && scan.volumes.iter().all(|v| v.problem.is_none()), "{scan:?}");
}

#[test]
fn gpt_partitions_keep_their_entry_numbers_names_and_guids() {
    let Some(disk) = gpt_disk() else { return };
    let scan = scan(&mem(disk)).unwrap();
    assert_eq!(scan.scheme, Scheme::Gpt);
    assert_eq!(
        brief(&scan),
        [(1, 2048, 2048, Content::Empty), (3, 6144, 4096, Content::Ntfs), (4, 12_288, 2048, Content::Ldm)]
    );
    assert_eq!(scan.volumes[0].name.as_deref(), Some("boot ☃"));
    assert_eq!(scan.volumes[0].type_name, "EFI system");
    assert!(scan.volumes.iter().all(|v| v.gpt_guid.is_some_and(|guid| guid != [0; 16])));
    assert!(scan.warnings.is_empty());
}

#[test]
fn one_flipped_bit_in_the_primary_gpt_leads_to_the_backup() {
    let Some(good) = gpt_disk() else { return };
    let expected = brief(&scan(&mem(good.clone())).unwrap());
    let step = if std::env::var_os("VCB_TORTURE").is_some() { 1 } else { 37 };
    // Header and the used entries; the rest of the header sector is reserved and not covered.
    for bit in (512 * 8..(512 + 92) * 8).chain(1024 * 8..(1024 + 512) * 8).step_by(step) {
        let mut disk = good.clone();
        disk[bit / 8] ^= 1 << (bit % 8);
        let scan = scan(&mem(disk)).unwrap();
        assert_eq!((brief(&scan), scan.warnings.len()), (expected.clone(), 1), "bit {bit}: {:?}", scan.warnings);
    }
}

#[test]
fn a_gpt_with_both_headers_damaged_is_corrupt_and_not_empty() {
    let Some(mut disk) = gpt_disk() else { return };
    let last = disk.len() - 512;
    disk[530] ^= 1;
    disk[last + 18] ^= 1;
    assert_eq!(scan(&mem(disk)).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_truncated_gpt_disk_keeps_what_is_left() {
    let Some(mut disk) = gpt_disk() else { return };
    disk.truncate(7000 * 512);
    let scan = scan(&mem(disk)).unwrap();
    let third = &scan.volumes[1];
    assert_eq!((third.len, third.block.len()), (4096 * 512, 856 * 512));
    assert_eq!(third.problem, Some(Problem::PastEnd { disk: 7000 * 512 }));
    assert_eq!((scan.volumes[2].block.len(), scan.volumes[2].problem.is_some()), (0, true));
    assert!(scan.volumes[0].problem.is_none());
}

#[test]
fn gpt_with_sectors_of_4096_bytes_and_without_a_protective_mbr() {
    // The same headers, moved to where a 4096-byte-sector disk has them.
    let mut disk = vec![0; 4 * MIB];
    let mut entry = [0; 128];
    entry[..16].copy_from_slice(&[
        0xA2, 0xA0, 0xD0, 0xEB, 0xE5, 0xB9, 0x33, 0x44, 0x87, 0xC0, 0x68, 0xB6, 0xB7, 0x26, 0x99, 0xC7,
    ]);
    entry[16] = 9;
    entry[32..40].copy_from_slice(&256u64.to_le_bytes());
    entry[40..48].copy_from_slice(&511u64.to_le_bytes());
    disk[8192..8320].copy_from_slice(&entry);
    let mut header = vec![0; 92];
    header[..16].copy_from_slice(b"EFI PART\0\0\x01\0\x5C\0\0\0");
    header[24..32].copy_from_slice(&1u64.to_le_bytes());
    header[72..80].copy_from_slice(&2u64.to_le_bytes());
    header[80..84].copy_from_slice(&1u32.to_le_bytes());
    header[84..88].copy_from_slice(&128u32.to_le_bytes());
    header[88..92].copy_from_slice(&crc32fast::hash(&entry).to_le_bytes());
    let crc = crc32fast::hash(&header);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    disk[4096..4188].copy_from_slice(&header);
    ntfs_at(&mut disk, MIB);
    let bare = scan(&mem(disk.clone())).unwrap();
    assert_eq!((bare.scheme, bare.mbr_signature, bare.warnings.len()), (Scheme::Gpt, None, 1));
    slot(&mut disk, 0, 0, 0xEE, 1, u32::MAX);
    slot(&mut disk, 0, 1, 0x07, 256, 256);
    let hybrid = scan(&mem(disk)).unwrap();
    assert_eq!((hybrid.scheme, hybrid.warnings.len()), (Scheme::Gpt, 1));
    for scan in [bare, hybrid] {
        assert_eq!(brief(&scan), [(1, 2048, 2048, Content::Ntfs)]);
        assert_eq!(scan.volumes[0].type_name, "Microsoft basic data");
    }
}

#[test]
fn an_mbr_that_counts_large_sectors_is_understood() {
    let mut disk = vec![0; 4 * MIB];
    slot(&mut disk, 0, 0, 7, 256, 512);
    ntfs_at(&mut disk, 256 * 4096);
    let scan = scan(&mem(disk)).unwrap();
    assert_eq!(brief(&scan), [(1, 2048, 4096, Content::Ntfs)]);
    assert_eq!(scan.warnings.len(), 1);
}

#[test]
fn chains_of_logical_partitions_that_loop_or_break_end_with_a_warning() {
    let mut disk = vec![0; MIB];
    slot(&mut disk, 0, 0, 0x0F, 100, 1000);
    slot(&mut disk, 100 * 512, 0, 7, 10, 20);
    slot(&mut disk, 100 * 512, 1, 5, 200, 30);
    slot(&mut disk, 300 * 512, 0, 7, 1, 5000);
    let broken_later = {
        let mut disk = disk.clone();
        slot(&mut disk, 300 * 512, 1, 5, 4_000_000, 1);
        disk
    };
    slot(&mut disk, 300 * 512, 1, 5, 0, 1);
    for disk in [disk, broken_later] {
        let scan = scan(&mem(disk)).unwrap();
        assert_eq!(scan.volumes.iter().map(|v| v.partition).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(scan.warnings.len(), 1, "{:?}", scan.warnings);
        assert!(scan.volumes[0].problem.is_none());
        assert!(matches!(scan.volumes[1].problem, Some(Problem::PastEnd { .. })));
    }
}

#[test]
fn an_endless_chain_of_logical_partitions_is_cut() {
    let mut disk = vec![0; MIB];
    slot(&mut disk, 0, 0, 0x05, 1, 2000);
    for record in 1..1500 {
        slot(&mut disk, record * 512, 0, 7, 1, 1);
        slot(&mut disk, record * 512, 1, 5, record as u32, 1);
    }
    let scan = scan(&mem(disk)).unwrap();
    assert_eq!((scan.volumes.len(), scan.warnings.len()), (256, 1));
}

#[test]
fn overlapping_partitions_name_each_other() {
    let mut disk = vec![0; MIB];
    slot(&mut disk, 0, 0, 7, 10, 1000);
    slot(&mut disk, 0, 1, 7, 20, 10);
    slot(&mut disk, 0, 2, 7, 500, 100);
    slot(&mut disk, 0, 3, 7, 1010, 100);
    let scan = scan(&mem(disk)).unwrap();
    let problems: Vec<_> = scan.volumes.iter().map(|v| v.problem.clone()).collect();
    let over = |partition| Some(Problem::Overlap { partition });
    assert_eq!(problems, [over(2), over(1), over(1), None]);
}

#[test]
fn a_bare_filesystem_is_one_volume_and_zeros_are_none() {
    let mut disk = vec![0; MIB];
    let empty = scan(&mem(disk.clone())).unwrap();
    assert_eq!((empty.scheme, empty.volumes.len()), (Scheme::None, 0));
    assert_eq!(scan(&mem(vec![])).unwrap().scheme, Scheme::None);
    assert_eq!(scan(&mem(vec![0xFF; 700])).unwrap().scheme, Scheme::None);
    ntfs_at(&mut disk, 0);
    disk[446..510].fill(0x41);
    let bare = scan(&mem(disk)).unwrap();
    assert_eq!((bare.scheme, brief(&bare)), (Scheme::Superfloppy, vec![(0, 0, 2048, Content::Ntfs)]));
}

#[test]
fn contents_are_named_by_what_their_own_makers_write() {
    let make = |tool: &str, args: &[&str], len| {
        let image = made_by(tool, args, "", len)?;
        Some(scan(&mem(image)).unwrap().volumes[0].content)
    };
    for (content, expected) in [
        (make("mkfs.ntfs", &["-Q", "-F", "-q"], 4 * MIB), Content::Ntfs),
        (make("mkfs.ext4", &["-q", "-F"], 4 * MIB), Content::Ext),
        (make("mkswap", &[], MIB), Content::Swap),
    ] {
        assert!(content.is_none_or(|content| content == expected), "{content:?}, not {expected}");
    }
}

#[test]
fn contents_are_named_by_their_magic() {
    let cases: [(usize, &[u8], Content); 9] = [
        (3, b"-FVE-FS-", Content::BitLocker),
        (3, b"ReFS\0\0\0\0", Content::Refs),
        (3, b"EXFAT   ", Content::ExFat),
        (0, b"XFSB", Content::Xfs),
        (0, b"LUKS\xBA\xBE", Content::Luks),
        (0x1_0040, b"_BHRfS_M", Content::Btrfs),
        (512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001", Content::Lvm),
        (4096, b"SPACEDB ", Content::StorageSpaces),
        (0x10_0000, b"\x0D\xD0\x01\xC0", Content::Vmfs),
    ];
    for (offset, magic, content) in cases {
        let mut disk = vec![0; 2 * MIB];
        disk[offset..offset + magic.len()].copy_from_slice(magic);
        assert_eq!(scan(&mem(disk)).unwrap().volumes[0].content, content);
    }
}

#[test]
fn a_windows_disk_with_two_volumes() {
    let Some(path) = vcb_fixtures::corpus("ntfs/vss_3_volstor.tar.gz") else { return };
    if !need_tool("tar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new("tar").arg("xzSf").arg(path).arg("-C").arg(dir.path()).status().unwrap();
    assert!(status.success());
    let image = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_file());
    let disk: BlockRef = Arc::new(FileSource::open(image.unwrap()).unwrap());
    let found = scan(&disk).unwrap();
    assert_eq!(found.scheme, Scheme::Mbr);
    let starts: Vec<_> = found.volumes.iter().map(|v| (v.start / 512, v.content)).collect();
    assert_eq!(starts, [(2048, Content::Ntfs), (4_196_352, Content::Ntfs)]);
}

#[test]
fn every_read_fault_is_an_error_or_a_problem_of_one_volume() {
    let Some(disk) = gpt_disk() else { return };
    let good = mem(disk);
    let expected = brief(&scan(&good).unwrap());
    let mut nth = 1;
    loop {
        let block = Arc::new(FaultBlock::at(good.clone(), nth, Fault::Eio));
        let result = scan(&(block.clone() as BlockRef));
        if !block.fired() {
            assert_eq!(brief(&result.unwrap()), expected);
            return;
        }
        match result {
            Err(err) => assert_eq!(err.kind(), Kind::Io),
            Ok(scan) => {
                assert_eq!(scan.volumes.len(), expected.len());
                assert!(scan.volumes.iter().any(|v| matches!(v.problem, Some(Problem::Unread(_)))), "read {nth}");
            }
        }
        nth += 1;
    }
}
