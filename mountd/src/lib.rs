//! Datastores, views, front ends and the orchestrator of vcbmount.

#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod vm;
