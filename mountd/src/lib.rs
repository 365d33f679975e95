//! Datastores, views, front ends and the orchestrator of vcbmount.

#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod datastore;
pub mod export;
pub mod failure;
pub mod front;
pub mod host;
pub mod lookup;
pub mod orchestrate;
pub mod plan;
pub mod session;
pub mod spec;
mod sys;
pub mod view;
pub mod vm;

pub use failure::{Code, Exit, Failure, Outcome};
