#![no_main]
//! Sealed state and sealed keys.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let context = chemxor_fhe::server::StateContext {
        version: chemxor_core::VersionId::of(b"v"),
        session: [0; 16],
        query: 0,
        step: 0,
    };
    let _ = chemxor_fhe::server::StateKey::new([1; 32]).open(bytes, &context);
    let _ = chemxor_fhe::sealing::SealingKeyPair::from_secret(bytes);
});
