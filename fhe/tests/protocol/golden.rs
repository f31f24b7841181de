//! Recorded messages: made from fixed numbers, they must be written the same for ever and read by
//! every later release. `CHEMXOR_BLESS=1` writes them anew after a version bump.

use std::path::PathBuf;

use chemxor_core::{Conv2d, RingName, StepGraph, StepKind, StepSpec};
use chemxor_fhe::client::ClientKey;
use chemxor_fhe::network::{StepWeights, Tables};
use chemxor_fhe::wire::{
    Reply, StepShape, decode_input, decode_public_keys, decode_reply, encode_input,
    encode_public_keys, encode_reply,
};

fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("CHEMXOR_BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let recorded = std::fs::read(&path).unwrap();
    assert!(
        recorded == bytes,
        "{name} is written differently than it was recorded"
    );
    recorded
}

/// A fixed sequence that fills every bit.
fn numbers(count: usize, bits: u32) -> Vec<u32> {
    (0..count as u32)
        .map(|i| i.wrapping_mul(2_654_435_761) >> (32 - bits))
        .collect()
}

pub(crate) fn shape(is_last: bool) -> StepShape {
    let spec = StepSpec {
        kind: StepKind::Static,
        geometry: Default::default(),
        expansion: Default::default(),
        inputs: 2000,
        outputs: 5,
        input_bits: 3,
        accumulator_bits: 14,
        output_bits: if is_last { 9 } else { 6 },
        ring: RingName::N1024Q32,
        inputs_per_polynomial: 1024,
        body_bits: 21,
        switch_bits: 13,
    };
    StepGraph::new(vec![StepSpec {
        output_bits: 9,
        ..spec.clone()
    }])
    .unwrap();
    StepShape::new(&spec, is_last).unwrap()
}

#[test]
fn messages_are_written_and_read_as_recorded() {
    let bodies: Vec<u32> = numbers(2048, 21).iter().map(|x| x << 11).collect();
    let input = golden(
        "input.bin",
        &encode_input(&shape(false), &[0xa5; 16], &bodies),
    );
    assert_eq!(
        decode_input::<u32>(&shape(false), &input).unwrap(),
        ([0xa5; 16], bodies)
    );
    for last in [false, true] {
        let reply = Reply {
            masks: numbers(5 * 1024, 13),
            bodies: numbers(5, 13),
            opening: if last { numbers(5, 9) } else { vec![] },
        };
        let name = if last { "reply_last.bin" } else { "reply.bin" };
        let bytes = golden(name, &encode_reply(&shape(last), 0..5, &reply));
        assert_eq!(decode_reply(&shape(last), &bytes).unwrap(), reply);
    }
    let bodies: Vec<u8> = numbers(1024, 32)
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let keys = encode_public_keys(&[(RingName::N1024Q32, [7; 16], bodies.clone())]);
    let keys = golden("public_keys.bin", &keys);
    let read = decode_public_keys(&keys, &[RingName::N1024Q32]).unwrap();
    assert_eq!((read[0].seed, read[0].bodies), ([7; 16], bodies.as_slice()));
}

#[test]
fn weights_and_keys_are_read_as_recorded() {
    let i16s =
        |count: usize| -> Vec<i16> { numbers(count, 16).iter().map(|x| *x as i16).collect() };
    let conv = Conv2d {
        channels: 2,
        height: 3,
        width: 3,
        filters: 2,
        kernel: 2,
        stride: 1,
        padding: 0,
    };
    let tables = |neurons: usize| Tables {
        bits: 3,
        shift: 2,
        entries: i16s(neurons << 3),
    };
    let rows = vec![vec![(0, 5), (3, -7)], vec![], vec![(1, 1)]];
    let all = [
        (
            "dense.cxwb",
            StepWeights::new_static(3, 2, i16s(6)).unwrap(),
        ),
        (
            "filters.cxwb",
            StepWeights::new_conv2d(conv, i16s(16), Some(tables(18))).unwrap(),
        ),
        (
            "sparse.cxwb",
            StepWeights::new_sparse(4, rows, None)
                .unwrap()
                .with_biases(vec![1, -2, 3])
                .unwrap(),
        ),
    ];
    for (name, weights) in all {
        let blob = golden(name, &weights.to_blob(&[9; 32]));
        assert_eq!(StepWeights::from_blob(&blob).unwrap(), weights);
    }
    // bits of the key are a fixed pattern; a real one is random
    let mut key = b"CXSK\x01\x01\x00".to_vec();
    key.extend((0..128u8).map(|i| i.wrapping_mul(37)));
    let key = golden("client_key.bin", &key);
    assert_eq!(*ClientKey::from_bytes(&key).unwrap().to_bytes(), key);
}
