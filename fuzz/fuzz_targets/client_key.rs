#![no_main]
//! Secret keys at rest, after decryption.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = chemxor_fhe::client::ClientKey::from_bytes(bytes);
});
