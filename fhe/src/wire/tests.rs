use chemxor_core::StepKind;
use proptest::prelude::*;

use super::*;

fn shape(is_last: bool) -> StepShape {
    let spec = StepSpec {
        geometry: Default::default(),
        expansion: Default::default(),
        kind: StepKind::Static,
        inputs: 300,
        outputs: 5,
        input_bits: 3,
        accumulator_bits: 12,
        output_bits: if is_last { 9 } else { 6 },
        ring: RingName::N1024Q32,
        inputs_per_polynomial: 128,
        body_bits: 29,
        switch_bits: 13,
    };
    StepShape::new(&spec, is_last).unwrap()
}

proptest! {
    #[test]
    fn packing_round_trips(values in proptest::collection::vec(any::<u64>(), 0..100), bits in 1u8..=64) {
        let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        let values: Vec<u64> = values.iter().map(|v| v & mask).collect();
        let mut bytes = Vec::new();
        pack(&mut bytes, values.iter().copied(), bits);
        prop_assert_eq!(bytes.len(), packed_bytes(values.len(), bits));
        let back: Vec<u64> = unpack(&bytes, bits).take(values.len()).collect();
        prop_assert_eq!(back, values);
    }

    #[test]
    fn garbage_never_passes_a_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for last in [false, true] {
            prop_assert!(decode_reply(&shape(last), &bytes).is_err());
            prop_assert!(decode_input::<u32>(&shape(last), &bytes).is_err());
        }
        prop_assert!(decode_public_keys(&bytes, &RingName::ALL).is_err());
    }
}

#[test]
fn replies_round_trip_and_every_other_length_is_refused() {
    for last in [false, true] {
        let shape = shape(last);
        let reply = Reply {
            masks: (0..1024).map(|i| i * 7 % 8192).collect(),
            bodies: vec![0, 1, 8191, 5, 6],
            opening: if last { vec![511, 0, 1, 2, 3] } else { vec![] },
        };
        let bytes = encode_reply(&shape, 0..1, &reply);
        assert_eq!(bytes.len(), shape.reply_bytes());
        assert_eq!(decode_reply(&shape, &bytes).unwrap(), reply);
        for wrong in [
            &bytes[..bytes.len() - 1],
            &[bytes.as_slice(), &[0]].concat(),
        ] {
            assert!(matches!(
                decode_reply(&shape, wrong),
                Err(WireError::Length { .. })
            ));
        }
        let mut padded = bytes.clone();
        *padded.last_mut().unwrap() |= 0x80;
        assert_eq!(
            decode_reply(&shape, &padded),
            Err(WireError::Field {
                what: "step reply",
                field: "padding"
            })
        );
    }
}

#[test]
fn headers_of_other_steps_are_refused() {
    let shape = shape(false);
    let bodies = vec![0u32; shape.layout.input_count() * 1024];
    let good = encode_input(&shape, &[9; 16], &bodies);
    assert_eq!(decode_input::<u32>(&shape, &good).unwrap().0, [9; 16]);
    for (at, field) in [
        (5, "ring"),
        (6, "precision"),
        (7, "precision"),
        (8, "ciphertext count"),
    ] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(
            decode_input::<u32>(&shape, &bad),
            Err(WireError::Field {
                what: "step input",
                field
            })
        );
    }
}

/// The header bytes, fixed for ever.
#[test]
fn headers_are_frozen() {
    let bytes = encode_input(&shape(false), &[0xab; 16], &vec![0u32; 3 * 1024]);
    assert_eq!(
        bytes[..12],
        [b'C', b'X', b'I', b'N', 1, 1, 29, 0, 3, 0, 0, 0]
    );
    let reply = Reply {
        masks: vec![0; 1024],
        bodies: vec![0; 5],
        opening: vec![0; 5],
    };
    let bytes = encode_reply(&shape(true), 0..1, &reply);
    assert_eq!(
        bytes[..16],
        [b'C', b'X', b'R', b'E', 2, 1, 13, 9, 0, 0, 0, 0, 1, 0, 0, 0]
    );
    let keys = encode_public_keys(&[(RingName::N1024Q32, [1; 16], vec![0; 4096])]);
    assert_eq!(keys[..12], [b'C', b'X', b'P', b'K', 1, 1, 0, 0, 1, 0, 0, 0]);
    assert_eq!(
        decode_public_keys(&keys, &[RingName::N1024Q32]).unwrap()[0].seed,
        [1; 16]
    );
    assert_eq!(
        decode_public_keys(&keys, &[RingName::N2048Q64]).unwrap_err(),
        WireError::Length {
            what: "public key set",
            got: 8 + 20 + 4096,
            expected: 8 + 20 + 16384,
        }
    );
}
