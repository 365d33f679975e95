//! Plans for the disks in an OVA.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vcb_block::FileSource;
use vcb_vmdk::Finding;
use vcb_vmdk::ova::OvaResolver;

use super::make::{Choice, stem};
use super::{DiskPlan, MountPlan, Source, VmIdentity};
use crate::failure::{Code, Failure, Outcome};

/// Opens the archive.
pub(super) fn open(file: &Path) -> Outcome<Arc<OvaResolver>> {
    let failed = |err| Failure::reading(format!("cannot open {}", file.display()), err);
    let block = FileSource::open(file).map_err(failed)?;
    OvaResolver::open(Arc::new(block), &file.display().to_string()).map_err(failed)
}

/// An archive is known by its name.
pub(super) fn identity(file: &Path) -> VmIdentity {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    VmIdentity { name: stem(&name).to_owned(), ..VmIdentity::default() }
}

/// Plans all disks of the archive.
pub(super) fn plan(file: PathBuf, choice: &Choice) -> Outcome<MountPlan> {
    if let Some(snapshot) = &choice.snapshot {
        let what = format!("{} is an OVA, so no snapshot '{snapshot}' can be chosen", file.display());
        return Err(Failure::new(Code::Usage, what));
    }
    let archive = open(&file)?;
    let disks = archive.disks().map(|name| DiskPlan { node: String::new(), file: name.to_owned() });
    Ok(MountPlan {
        vm: identity(&file),
        disks: disks.collect(),
        source: Source::Ova(file),
        files: Vec::new(),
        options: choice.options.clone(),
    })
}

impl MountPlan {
    /// Compares the members of an OVA with the checksums of its manifest. Other sources have none.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn check_archive(&self) -> Outcome<Vec<Finding>> {
        match &self.source {
            Source::Ova(file) => {
                open(file)?.check().map_err(|err| Failure::reading(format!("cannot check {}", file.display()), err))
            }
            Source::Folder(_) | Source::Datastores(_) => Ok(Vec::new()),
        }
    }
}
