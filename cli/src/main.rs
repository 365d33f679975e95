//! The `vcbmount` binary.
fn main() {}
