#![no_main]
//! Model keys sealed to a worker.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.len().min(32);
    let (encapsulated, sealed) = bytes.split_at(at);
    let version = chemxor_core::VersionId::of(b"v");
    let pair = chemxor_fhe::sealing::SealingKeyPair::generate();
    assert!(pair.open(encapsulated, sealed, &version, 0).is_err());
});
