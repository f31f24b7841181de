#![no_main]
//! Public keys of a session.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = chemxor_fhe::wire::decode_public_keys(bytes, &chemxor_core::RingName::ALL);
    let _ = chemxor_fhe::wire::decode_public_keys(bytes, &[chemxor_core::RingName::N1024Q32]);
});
