#![no_main]
//! Weight blobs: what is accepted has one spelling.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(weights) = chemxor_fhe::network::StepWeights::from_blob(bytes) {
        let mut salt = [0; 32];
        salt.copy_from_slice(&bytes[20..52]);
        assert_eq!(weights.to_blob(&salt), bytes);
    }
});
