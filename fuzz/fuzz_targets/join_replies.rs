#![no_main]
//! Parts of a reply, split at the first byte's position.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let at = bytes
        .first()
        .map_or(0, |at| usize::from(*at).min(bytes.len()));
    let (left, right) = bytes.split_at(at);
    let _ = chemxor_core::join_replies(&[left, right]);
});
