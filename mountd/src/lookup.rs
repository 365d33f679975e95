//! Finds VMs in the configured datastores by reading their .vmx files. This is how VMs are found when no
//! vCenter is configured.

use vcb_vmdk::vmx::Vmx;

use crate::config::Config;
use crate::datastore::{Datastore, Datastores, DsPath, file_name, join};
use crate::failure::{Code, Failure, Outcome};
use crate::plan::{self, Choice, MountPlan};
use crate::spec::{Place, Spec, uuid_digits, uuid_text};

/// Folders below a datastore's root that are searched: ESXi keeps each VM in a folder of the root, vSAN and
/// people who sort them by project one or two deeper.
const MAX_DEPTH: usize = 4;
/// Folders of one datastore that are searched; ESXi allows 2048 VMs on one.
const MAX_FOLDERS: usize = 16_384;

/// A VM that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVm {
    /// Display name.
    pub name: String,
    /// BIOS UUID in its usual form.
    pub uuid: Option<String>,
    /// Managed object id; only a server knows it.
    pub moref: Option<String>,
    /// Address of the guest; only a server knows it.
    pub ipaddr: Option<String>,
    /// Its configuration.
    pub place: Place,
    /// Why it cannot be backed up, as far as a server has said so.
    pub refusals: Vec<String>,
}

impl FoundVm {
    /// The specifications that lead to this VM, one per line of a listing.
    #[must_use]
    pub fn specs(&self) -> Vec<Spec> {
        let mut specs: Vec<Spec> = self.moref.iter().cloned().map(Spec::Moref).collect();
        specs.push(Spec::Name(self.name.clone()));
        specs.extend(self.uuid.iter().cloned().map(Spec::Uuid));
        specs.extend(self.ipaddr.iter().cloned().map(Spec::IpAddr));
        specs.push(Spec::Path(self.place.clone()));
        specs
    }
}

/// What a search gave.
#[derive(Default)]
pub struct Search {
    /// The VMs, by datastore and path.
    pub vms: Vec<FoundVm>,
    /// Datastores, folders and configurations that could not be read, so that VMs may be missing above.
    pub failures: Vec<Failure>,
}

/// Finds the VMs that `spec` means.
///
/// # Errors
/// [`Code::Config`] when there is no place to search, [`Code::Usage`] for specifications that only a server
/// can answer.
pub fn find(spec: &Spec, config: &Config) -> Outcome<Search> {
    if let Spec::Path(place) = spec {
        let found = of_path(place, config)?;
        return Ok(Search { vms: vec![found], failures: Vec::new() });
    }
    if matches!(spec, Spec::Moref(_) | Spec::IpAddr(_) | Spec::PowerState(_)) {
        return Err(Failure::new(Code::Usage, format!("'{spec}' cannot be looked up here"))
            .because("without a [vcenter] VMs are known by name, uuid and path only")
            .next_step("Configure [vcenter], or use name:, uuid: or path:."));
    }
    if config.datastores.is_empty() {
        return Err(Failure::new(Code::Config, format!("there is no place to look up '{spec}' in"))
            .because("neither [vcenter] nor any [[datastore]] is configured")
            .next_step("Configure one, or name the VM's folder with path:."));
    }
    let (stores, failures) = Datastores::open_all(&config.datastores);
    let mut search = Search { vms: Vec::new(), failures };
    for store in stores.all() {
        search_store(&**store, &mut search);
    }
    search.vms.retain(|vm| matches(spec, vm));
    Ok(search)
}

/// Finds the one VM that `spec` means.
///
/// # Errors
/// [`Code::VmNotFound`], [`Code::Ambiguous`] with the candidates, and what [`find`] gives.
pub fn find_one(spec: &Spec, config: &Config) -> Outcome<FoundVm> {
    let search = find(spec, config)?;
    let mut vms = search.vms.into_iter();
    match (vms.next(), vms.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            let failure = Failure::new(Code::VmNotFound, format!("no VM matches '{spec}'"));
            // A share that is away is the likeliest reason, so it must not stay unsaid.
            Err(match search.failures.into_iter().next() {
                Some(why) => failure.because(format!("{why:?}")),
                None => failure,
            })
        }
        (Some(first), Some(second)) => {
            let all = [first, second].into_iter().chain(vms);
            let list: Vec<String> = all.map(|vm| format!("{} (path:{})", vm.name, vm.place)).collect();
            Err(Failure::new(Code::Ambiguous, format!("{} VMs match '{spec}'", list.len())).because(list.join("\n")))
        }
    }
}

/// Plans the one VM that `spec` means.
///
/// # Errors
/// As [`find_one`] and [`MountPlan::make`].
pub fn plan_one(spec: &Spec, choice: &Choice, config: &Config) -> Outcome<MountPlan> {
    match spec {
        Spec::Path(place) => MountPlan::make(place, choice, config),
        _ => MountPlan::make(&find_one(spec, config)?.place, choice, config),
    }
}

fn of_path(place: &Place, config: &Config) -> Outcome<FoundVm> {
    let (vm, place) = plan::identify(place, config)?;
    Ok(FoundVm { name: vm.name, uuid: vm.uuid, moref: None, ipaddr: None, place, refusals: Vec::new() })
}

fn matches(spec: &Spec, vm: &FoundVm) -> bool {
    let same_uuid = |uuid: &str| {
        uuid_digits(uuid).is_some_and(|wanted| vm.uuid.as_deref().and_then(uuid_digits).as_deref() == Some(&*wanted))
    };
    match spec {
        Spec::Name(name) => vm.name == *name,
        Spec::Uuid(uuid) => same_uuid(uuid),
        Spec::Any(None) => true,
        Spec::Any(Some(text)) => vm.name == *text || same_uuid(text),
        Spec::Moref(_) | Spec::IpAddr(_) | Spec::PowerState(_) | Spec::Path(_) => false,
    }
}

fn search_store(store: &dyn Datastore, search: &mut Search) {
    let mut folders = vec![(String::new(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = folders.pop() {
        seen += 1;
        if seen > MAX_FOLDERS {
            let what = format!("the search of the datastore '{}' is not complete", store.name());
            search.failures.push(Failure::new(Code::Limit, what).because(format!("more than {MAX_FOLDERS} folders")));
            return;
        }
        let entries = match store.list(&folder) {
            Ok(entries) => entries,
            Err(err) => {
                let path = DsPath::new(store.name(), folder);
                search.failures.push(Failure::reading(format!("cannot list {path}"), err));
                continue;
            }
        };
        for entry in entries.iter().rev() {
            let path = join(&folder, &entry.name);
            if entry.is_dir {
                // Dotted folders are the datastore's own: snapshots of a filer, .sdd.sf, .dvsData.
                if depth < MAX_DEPTH && !entry.name.starts_with('.') && !entry.name.ends_with(".lck") {
                    folders.push((path, depth + 1));
                }
            } else if entry.name.to_ascii_lowercase().ends_with(".vmx") {
                match read_vm(store, &path) {
                    Ok(vm) => search.vms.push(vm),
                    Err(failure) => search.failures.push(failure),
                }
            }
        }
    }
}

fn read_vm(store: &dyn Datastore, path: &str) -> Outcome<FoundVm> {
    let place = DsPath::new(store.name(), path);
    let failed = |err| Failure::reading(format!("cannot read the configuration {place}"), err);
    let bytes = plan::read_text(store, path).map_err(failed)?;
    let vmx = Vmx::parse(&bytes).map_err(failed)?;
    let stem = file_name(path).rsplit_once('.').map_or(path, |(stem, _)| stem);
    Ok(FoundVm {
        name: vmx.display_name().unwrap_or(stem).to_owned(),
        uuid: vmx.uuid_bios().and_then(uuid_text),
        moref: None,
        ipaddr: None,
        refusals: Vec::new(),
        place: Place::Datastore(place),
    })
}
