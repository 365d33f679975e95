//! Decorators: a block around a block, adding one concern. Off unless somebody asks for them.

mod fault;
mod retry;
mod stats;

pub use fault::{Fault, FaultBlock};
pub use retry::{RetryBlock, RetryPolicy, Trouble, TroubleKind};
pub use stats::{Stats, StatsBlock};
