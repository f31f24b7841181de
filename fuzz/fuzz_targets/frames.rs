#![no_main]
//! Chunks of a message: lengths and sizes from the input.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut reassembler = chemxor_core::Reassembler::default();
    for part in bytes.chunks(9) {
        let total = usize::from(part[0]) * 3;
        let _ = reassembler.push(total, &part[1..], 500);
    }
});
