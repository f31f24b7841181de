#![no_main]
//! Manifests.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = chemxor_core::Manifest::from_bytes(bytes);
});
