//! What test volumes are filled with.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use vcb_block::{BlockRef, MemBlock};

use super::made::setfattr;
use super::{digest, show};

/// What was written, as lines of a listing.
pub struct Written<'a> {
    root: &'a Path,
    pub lines: BTreeSet<String>,
}

impl<'a> Written<'a> {
    pub fn new(root: &'a Path) -> Self {
        Written { root, lines: BTreeSet::new() }
    }

    fn dir(&mut self, name: &str) {
        fs::create_dir(self.root.join(name)).unwrap();
        self.lines.insert(format!("d\t/{name}\t-\t-"));
    }

    fn file(&mut self, name: &[u8], bytes: &[u8]) {
        fs::write(self.root.join(OsStr::from_bytes(name)), bytes).unwrap();
        self.expect(name, bytes);
    }

    fn expect(&mut self, name: &[u8], bytes: &[u8]) {
        let block: BlockRef = Arc::new(MemBlock::new(bytes.to_vec()));
        let kind = if name.contains(&b':') { 's' } else { 'f' };
        self.lines.insert(format!("{kind}\t/{}\t{}\t{}", show(name), bytes.len(), digest(&block).unwrap()));
    }
}

/// Bytes that do not compress and are the same in every run.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn text(len: usize) -> Vec<u8> {
    (0..).flat_map(|i: u32| format!("line {i} of a text that compresses; ").into_bytes()).take(len).collect()
}

/// Files of every sort, on a volume of `cluster` bytes a cluster.
pub fn fill(written: &mut Written<'_>, cluster: usize) {
    written.dir("many");
    for i in 0..300 {
        let name = format!("many/a name that is long enough to need several index blocks {i:03}.txt");
        written.file(name.as_bytes(), format!("content {i}").as_bytes());
    }
    written.dir("sizes");
    for len in [0, 1, 511, 700, 1024, cluster - 1, cluster, cluster + 1, 3 * cluster.min(1 << 20) + 17] {
        written.file(format!("sizes/{len}").as_bytes(), &noise(len, len as u64));
    }
    written.dir("mixed");
    interleave(written, cluster.min(1 << 16));
    sparse(written);
    names(written);
    written.file(b"sizes/700:stream", b"a small stream");
    written.file(b"sizes/700:large", &noise(100_000, 5));
    written.file(b"mixed:of a folder", b"folders have streams too");
    for i in 0..40 {
        let name = format!("mixed/one of forty names {i}");
        if i == 0 {
            written.file(name.as_bytes(), b"linked");
        } else {
            fs::hard_link(written.root.join("mixed/one of forty names 0"), written.root.join(&name)).unwrap();
            written.expect(name.as_bytes(), b"linked");
        }
    }
    // ntfs-3g compresses up to clusters of 4 KiB, as Windows does.
    written.dir("packed");
    if cluster <= 4096 {
        setfattr(&written.root.join("packed"), "system.ntfs_attrib_be", "0x00000810");
    }
    written.file(b"packed/text", &text(300_000));
    written.file(b"packed/noise", &noise(200_000, 9));
    written.file(b"packed/short", &text(10));
}

/// Two files written in turns, so that neither is in one piece.
fn interleave(written: &mut Written<'_>, piece: usize) {
    let paths = ["mixed/odd", "mixed/even"];
    let mut files = paths.map(|path| fs::File::create(written.root.join(path)).unwrap());
    let mut contents = [Vec::new(), Vec::new()];
    for turn in 0..60 {
        let bytes = noise(piece, 100 + turn as u64);
        files[turn % 2].write_all(&bytes).unwrap();
        contents[turn % 2].extend_from_slice(&bytes);
    }
    for (path, content) in paths.iter().zip(&contents) {
        written.expect(path.as_bytes(), content);
    }
}

fn sparse(written: &mut Written<'_>) {
    let mut file = fs::File::create(written.root.join("mixed/holes")).unwrap();
    let mut content = vec![0; 8 << 20];
    file.set_len(content.len() as u64).unwrap();
    for at in [0, 5 << 20, (8 << 20) - 4] {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(b"data").unwrap();
        content[at..at + 4].copy_from_slice(b"data");
    }
    written.expect(b"mixed/holes", &content);
}

fn names(written: &mut Written<'_>) {
    written.dir("names");
    let names: [&[u8]; 8] = [
        "Ünïcödé ファイル.txt".as_bytes(),
        "emoji 😀🎉".as_bytes(),
        b"unpaired \xED\xA0\xBD high",
        b"trailing dot.",
        b"back\\slash",
        b"new\nline",
        b"Case",
        b"CASE",
    ];
    for name in names {
        written.file(&[b"names/", name].concat(), name);
    }
    written.file(format!("names/{}", "x".repeat(255)).as_bytes(), b"longest");
}
