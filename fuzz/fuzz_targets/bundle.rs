#![no_main]
//! Model bundles.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = chemxor_core::Bundle::from_bytes(bytes);
});
