//! What programs on top of this package need of the host.

pub use crate::sys::{create_private_dir, create_private_file, on_stop_signal, run_service};
