//! What the tests of the NTFS reader share: images, and listings in the form of the corpus.

#![allow(dead_code, clippy::unwrap_used)]

#[cfg(unix)]
pub mod fill;
#[cfg(unix)]
pub mod made;
#[cfg(unix)]
pub mod peers;
pub mod place;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use vcb_block::{BlockRef, FileSource, Kind, plan};
use vcb_fs::ntfs::{Ntfs, Options};
use vcb_fs::{DirEntry, FileId, FileType, Filesystem, LinkTarget};

/// A file of the corpus, unpacked into a temporary folder that lives as long as the image.
pub struct Image {
    _folder: tempfile::TempDir,
    pub block: BlockRef,
}

/// Unpacks `corpus/ntfs/name`; `None` (with the reason printed) when it or a tool is not here.
pub fn unpack(name: &str) -> Option<Image> {
    let path = vcb_fixtures::corpus(&format!("ntfs/{name}"))?;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("image");
    let (tool, arguments): (&str, Vec<&str>) = match name.rsplit('.').next().unwrap() {
        "gz" => ("gzip", vec!["-dc"]),
        "xz" => ("xz", vec!["-dc"]),
        "zip" => ("unzip", vec!["-p"]),
        "qcow2" => ("qemu-img", vec!["convert", "-O", "raw"]),
        other => panic!("no tool for {other}"),
    };
    if !vcb_fixtures::need_tool(tool) {
        return None;
    }
    let mut command = Command::new(tool);
    command.args(arguments).arg(&path);
    if tool == "qemu-img" {
        assert!(command.arg(&out).status().unwrap().success());
    } else {
        if tool == "unzip" {
            command.args(["*.dd"]);
        }
        sparse_copy(&mut command, &out);
    }
    let disk: BlockRef = Arc::new(FileSource::open(&out).unwrap());
    // Some images are of whole disks: the first volume is meant.
    let mut volumes = vcb_fs::volume::scan(&disk).unwrap().volumes;
    let block = if volumes.is_empty() { disk } else { volumes.remove(0).block };
    Some(Image { block, _folder: folder })
}

/// Runs `command` and writes what it prints to `out`, leaving holes for zeros.
fn sparse_copy(command: &mut Command, out: &Path) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut from = child.stdout.take().unwrap();
    let mut to = File::create(out).unwrap();
    let mut len = 0;
    let mut piece = vec![0; 1 << 16];
    loop {
        let n = from.read(&mut piece).unwrap();
        if n == 0 {
            break;
        }
        if piece[..n].iter().any(|&byte| byte != 0) {
            to.seek(SeekFrom::Start(len)).unwrap();
            to.write_all(&piece[..n]).unwrap();
        }
        len += n as u64;
    }
    to.set_len(len).unwrap();
    assert!(child.wait().unwrap().success());
}

pub fn open(block: &BlockRef) -> Arc<Ntfs> {
    Ntfs::open(block.clone(), &Options::default()).unwrap()
}

/// The entries of a folder, read in pages of `page`.
pub fn entries(fs: &dyn Filesystem, dir: FileId, page: usize) -> vcb_block::Result<Vec<DirEntry>> {
    let mut all: Vec<DirEntry> = Vec::new();
    loop {
        let before = all.len();
        let cookie = all.last().map_or(0, |entry| entry.next);
        fs.read_dir(dir, cookie, &mut |entry| {
            all.push(entry);
            if all.len() - before == page { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if all.len() - before < page {
            return Ok(all);
        }
    }
}

/// Bytes as the corpus listings print them.
pub fn show(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t")
}

pub fn digest(block: &BlockRef) -> vcb_block::Result<String> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; block.len().min(1 << 20) as usize];
    let mut at = 0;
    while at < block.len() {
        let len = (block.len() - at).min(piece.len() as u64) as usize;
        plan::read(block, &mut piece[..len], at)?;
        hash.update(&piece[..len]);
        at += len as u64;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// One line for each entry below the root, sorted, as the corpus listings have them. What cannot be read
/// is a line `e` with the kind of error.
pub fn listing(fs: &dyn Filesystem) -> Vec<String> {
    let mut lines = Vec::new();
    list(fs, fs.root(), "", &mut lines);
    lines.sort_unstable();
    lines
}

fn list(fs: &dyn Filesystem, dir: FileId, path: &str, lines: &mut Vec<String>) {
    for entry in entries(fs, dir, 37).unwrap() {
        let shown = format!("{path}/{}", show(&entry.name));
        assert_eq!(fs.lookup(dir, &entry.name).unwrap(), entry.id, "{shown}");
        let attr = fs.attr_as(dir, &entry.name, entry.id).unwrap();
        assert_eq!(attr.id, entry.id);
        match attr.kind {
            FileType::Dir => {
                lines.push(format!("d\t{shown}\t-\t-"));
                list(fs, entry.id, &shown, lines);
            }
            FileType::Symlink => lines.push(format!("l\t{shown}\t-\t{}", link(fs, entry.id))),
            FileType::Other => lines.push(format!("o\t{shown}\t-\t-")),
            FileType::File => {
                lines.push(match fs.open(entry.id, None).and_then(|block| Ok((block.len(), digest(&block)?))) {
                    Ok((len, hash)) => {
                        assert_eq!(len, attr.size, "{shown}");
                        format!("f\t{shown}\t{len}\t{hash}")
                    }
                    Err(err) => {
                        assert_ne!(err.kind(), Kind::NotFound, "{shown}: {err:?}");
                        format!("e\t{shown}\t{}\t{}", attr.size, err.kind())
                    }
                })
            }
        }
        for stream in fs.streams(entry.id).unwrap() {
            let hash = fs.open(entry.id, Some(&stream.name)).and_then(|block| {
                assert_eq!(block.len(), stream.size);
                digest(&block)
            });
            let hash = hash.unwrap_or_else(|err| err.kind().to_string());
            lines.push(format!("s\t{shown}:{}\t{}\t{hash}", show(&stream.name), stream.size));
        }
    }
}

fn link(fs: &dyn Filesystem, id: FileId) -> String {
    let join = |parts: Vec<Vec<u8>>| parts.iter().map(|part| show(part)).collect::<Vec<_>>().join("/");
    match fs.read_link(id).unwrap() {
        LinkTarget::Relative(parts) => join(parts),
        LinkTarget::Volume(parts) => format!("/{}", join(parts)),
        LinkTarget::Guest { volume, path } => format!("{volume:?}/{}", join(path)),
        LinkTarget::Foreign(text) => show(&text),
    }
}

/// Writes a volume to a file, leaving holes for zeros.
pub fn save(block: &BlockRef, path: &Path) {
    let mut file = File::create(path).unwrap();
    file.set_len(block.len()).unwrap();
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < block.len() {
        let len = (block.len() - at).min(piece.len() as u64) as usize;
        plan::read(block, &mut piece[..len], at).unwrap();
        if piece[..len].iter().any(|&byte| byte != 0) {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&piece[..len]).unwrap();
        }
        at += len as u64;
    }
}
