//! VMFS volumes: real ones, written ones, hostile ones, and ones that change while they are read.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;
mod contents;
mod endtoend;
mod fuzz;
mod hostile;
mod image;
mod live;
mod lvm;
mod peers;
mod published;
mod scale;
