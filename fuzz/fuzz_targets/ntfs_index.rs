#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| vcb_fs::ntfs::fuzzing::index(data));
