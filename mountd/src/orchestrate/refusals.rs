//! VMs and disks that a snapshot cannot freeze.

use vcb_vsphere::{Backing, VirtualMachine};

/// Why the VM, or which of its disks and why, cannot be backed up. Empty when it can. With `nodes` only the disks
/// attached there are wanted.
#[must_use]
pub fn refusals(vm: &VirtualMachine, nodes: &[String]) -> Vec<String> {
    let mut reasons = Vec::new();
    if vm.template {
        reasons.push("it is a template, which cannot have snapshots; clone it and back up the clone".to_owned());
    }
    if vm.fault_tolerant {
        reasons.push("it is protected by Fault Tolerance, which excludes snapshots".to_owned());
    }
    if vm.encrypted {
        reasons.push("it is encrypted: its disks hold ciphertext".to_owned());
    }
    for disk in vm.disks.iter().filter(|disk| nodes.is_empty() || nodes.contains(&disk.node)) {
        let name = format!("disk {} ({}, {})", disk.node, disk.label, disk.file_name);
        match disk.backing {
            Backing::PhysicalRdm => {
                reasons.push(format!("{name} is a physical raw device mapping, which snapshots leave out"));
            }
            Backing::Unknown => reasons.push(format!("{name} is of a kind that is not known here")),
            Backing::File | Backing::VirtualRdm if disk.is_independent() => {
                reasons.push(format!("{name} is independent, so that snapshots leave it out"));
            }
            Backing::File | Backing::VirtualRdm if disk.encrypted && !vm.encrypted => {
                reasons.push(format!("{name} is encrypted"));
            }
            Backing::File | Backing::VirtualRdm => {}
        }
    }
    if vm.disks.is_empty() {
        reasons.push("it has no disks".to_owned());
    }
    reasons
}
