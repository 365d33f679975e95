//! What the VMFS tests share.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use vcb_block::{BlockRef, FileSource, plan};
use vcb_fixtures::vmfs::Expected;
use vcb_fixtures::{corpus, need_tool};
use vcb_fs::vmfs::{Options, Vmfs};
use vcb_fs::{FileId, FileType, Filesystem, LinkTarget};

/// Opens images as devices.
pub fn devices(paths: &[PathBuf]) -> Vec<BlockRef> {
    paths.iter().map(|path| Arc::new(FileSource::open(path).unwrap()) as BlockRef).collect()
}

/// Opens the volume on `paths`.
pub fn open(paths: &[PathBuf]) -> Arc<Vmfs> {
    Vmfs::open(devices(paths), &Options::default()).unwrap()
}

/// The image of a compressed volume of the corpus, unpacked once per target folder.
pub fn unpacked(name: &str) -> Option<PathBuf> {
    let packed = corpus(&format!("vmfs/{name}"))?;
    let tool = if name.ends_with(".xz") { "xz" } else { "gzip" };
    if !need_tool(tool) {
        return None;
    }
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join(packed.file_stem().unwrap());
    if !image.exists() {
        let mut child =
            Command::new(tool).arg("-dc").arg(&packed).stdout(Stdio::piped()).spawn().expect("the decompressor starts");
        let part = image.with_extension(format!("{}", std::process::id()));
        sparse_copy(&mut child.stdout.take().unwrap(), &part);
        assert!(child.wait().unwrap().success(), "{tool} {}", packed.display());
        std::fs::rename(part, &image).unwrap();
    }
    Some(image)
}

fn sparse_copy(from: &mut dyn Read, to: &Path) {
    let mut out = File::create(to).unwrap();
    let mut buf = vec![0; 1 << 20];
    loop {
        let mut got = 0;
        while got < buf.len() {
            match from.read(&mut buf[got..]).unwrap() {
                0 => break,
                n => got += n,
            }
        }
        if got == 0 {
            break;
        }
        if buf[..got].iter().all(|byte| *byte == 0) {
            out.seek(SeekFrom::Current(i64::try_from(got).unwrap())).unwrap();
        } else {
            out.write_all(&buf[..got]).unwrap();
        }
    }
    let end = out.stream_position().unwrap();
    out.set_len(end).unwrap();
}

/// The file at an absolute path.
pub fn find(fs: &dyn Filesystem, path: &str) -> FileId {
    path.split('/').filter(|part| !part.is_empty()).fold(fs.root(), |dir, name| {
        fs.lookup(dir, name.as_bytes()).unwrap_or_else(|err| panic!("{name} of {path}: {err:?}"))
    })
}

/// `len` bytes at `at`, by the planner.
pub fn bytes(block: &BlockRef, at: u64, len: u64) -> Vec<u8> {
    let mut buf = vec![0xAA; len as usize];
    plan::read(block, &mut buf, at).unwrap_or_else(|err| panic!("{len} bytes at {at:#x}: {err:?}"));
    buf
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares one file of `fs` with what it must read as.
pub fn check(fs: &dyn Filesystem, expected: &Expected) {
    let path = &expected.path;
    let id = find(fs, path);
    let attr = fs.attr(id).unwrap_or_else(|err| panic!("{path}: {err:?}"));
    match expected.kind.as_str() {
        "dir" => assert_eq!(attr.kind, FileType::Dir, "{path}"),
        "symlink" => {
            assert_eq!(attr.kind, FileType::Symlink, "{path}");
            let target = fs.read_link(id).unwrap();
            let wanted: Vec<Vec<u8>> =
                expected.target.as_ref().unwrap().split('/').map(|part| part.as_bytes().to_vec()).collect();
            assert_eq!(target, LinkTarget::Relative(wanted), "{path}");
        }
        "rdm" => {
            assert_eq!(attr.size, expected.size, "{path}");
            assert!(attr.unreadable.is_some(), "{path}: a mapping file is not readable without its device");
        }
        "file" => {
            assert_eq!((attr.kind, attr.size), (FileType::File, expected.size), "{path}");
            let block = fs.open(id, None).unwrap_or_else(|err| panic!("{path}: {err:?}"));
            assert_eq!(block.len(), expected.size, "{path}");
            match &expected.sha256 {
                Some(hash) => assert_eq!(&sha256(&bytes(&block, 0, expected.size)), hash, "{path}"),
                None => check_runs(&block, expected),
            }
        }
        other => panic!("{path}: unknown type {other}"),
    }
}

/// All runs, the zeros around each of them, and zeros at places in between.
fn check_runs(block: &BlockRef, expected: &Expected) {
    let path = &expected.path;
    let zeros = |at: u64, len: u64| {
        assert!(bytes(block, at, len).iter().all(|byte| *byte == 0), "{path}: no zeros at {at:#x}");
    };
    let mut position = 0;
    for (at, len, hash) in &expected.runs {
        assert_eq!(&sha256(&bytes(block, *at, *len)), hash, "{path} at {at:#x}");
        around(position, *at, &zeros);
        position = at + len;
    }
    around(position, expected.size, &zeros);
}

/// Looks at both ends of a range of zeros and at places within.
fn around(start: u64, end: u64, zeros: &dyn Fn(u64, u64)) {
    const PIECE: u64 = 8192;
    let len = end - start;
    if len <= 4 * PIECE {
        zeros(start, len);
        return;
    }
    zeros(start, PIECE);
    zeros(end - PIECE, PIECE);
    for part in 1..16 {
        zeros(start + (len - PIECE) / 16 * part, PIECE);
    }
}
