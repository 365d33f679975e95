//! The VMDK reader on everything that can be made, found or broken.

#![allow(clippy::unwrap_used)]

mod chain;
mod corpus;
mod damage;
mod fuzz;
mod oracle;
