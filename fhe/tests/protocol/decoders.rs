//! Decoders on damaged messages: never a panic, and whatever is accepted is exactly what an encoder
//! writes, so no message has two spellings and no trailing byte is ignored.

use chemxor_core::{RingName, join_replies};
use chemxor_fhe::client::ClientKey;
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::sealing::SealingKeyPair;
use chemxor_fhe::server::{StateContext, StateKey};
use chemxor_fhe::wire;
use proptest::prelude::*;

use crate::golden::shape;

/// A recorded message with a few bytes changed, cut or appended.
fn damaged(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let original = std::fs::read(path).unwrap();
    let length = original.len();
    let edits = proptest::collection::vec((0..length.min(80), any::<u8>()), 0..4);
    let far = proptest::collection::vec((0..length, any::<u8>()), 0..3);
    let cut = prop_oneof![3 => Just(None), 1 => (0..length).prop_map(Some)];
    let tail = prop_oneof![3 => Just(vec![]), 1 => proptest::collection::vec(any::<u8>(), 1..9)];
    (edits, far, cut, tail).prop_map(move |(edits, far, cut, tail)| {
        let mut bytes = original.clone();
        for (at, value) in edits.into_iter().chain(far) {
            bytes[at] = value;
        }
        bytes.truncate(cut.unwrap_or(length));
        bytes.extend(tail);
        bytes
    })
}

/// Anything at all, with or without a known magic.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let magic = prop_oneof![
        Just(b"CXIN\x01\x01".to_vec()),
        Just(b"CXRE\x02\x01".to_vec()),
        Just(b"CXPK\x01\x01".to_vec()),
        Just(b"CXWB\x02\0\x01".to_vec()),
        Just(b"CXSK\x01\x01".to_vec()),
        Just(Vec::new()),
    ];
    (magic, proptest::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(magic, rest)| [magic, rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn accepted_inputs_have_one_spelling(bytes in damaged("input.bin")) {
        if let Ok((seed, bodies)) = wire::decode_input::<u32>(&shape(false), &bytes) {
            prop_assert_eq!(wire::encode_input(&shape(false), &seed, &bodies), bytes);
        }
    }

    #[test]
    fn accepted_replies_have_one_spelling(bytes in damaged("reply_last.bin"), other in damaged("reply.bin")) {
        for (last, bytes) in [(true, bytes), (false, other)] {
            if let Ok(reply) = wire::decode_reply(&shape(last), &bytes) {
                prop_assert_eq!(wire::encode_reply(&shape(last), 0..5, &reply), bytes);
            }
        }
    }

    #[test]
    fn accepted_keys_and_weights_have_one_spelling(
        keys in damaged("public_keys.bin"),
        secret in damaged("client_key.bin"),
        dense in damaged("dense.cxwb"),
        filters in damaged("filters.cxwb"),
        sparse in damaged("sparse.cxwb"),
    ) {
        if let Ok(read) = wire::decode_public_keys(&keys, &[RingName::N1024Q32]) {
            let again = wire::encode_public_keys(&[(read[0].ring, read[0].seed, read[0].bodies.to_vec())]);
            prop_assert_eq!(again, keys);
        }
        if let Ok(key) = ClientKey::from_bytes(&secret) {
            prop_assert_eq!(key.to_bytes().to_vec(), secret);
        }
        for blob in [dense, filters, sparse] {
            if let Ok(weights) = StepWeights::from_blob(&blob) {
                let mut salt = [0; 32];
                salt.copy_from_slice(&blob[20..52]);
                prop_assert_eq!(weights.to_blob(&salt), blob);
            }
        }
    }

    #[test]
    fn garbage_is_refused_everywhere(bytes in garbage()) {
        prop_assert!(wire::decode_input::<u32>(&shape(false), &bytes).is_err());
        prop_assert!(wire::decode_reply(&shape(true), &bytes).is_err());
        prop_assert!(wire::decode_public_keys(&bytes, &RingName::ALL).is_err());
        prop_assert!(ClientKey::from_bytes(&bytes).is_err() || bytes == b"CXSK\x01\0");
        // a small blob may be well formed by chance; it must only not panic
        let _ = StepWeights::from_blob(&bytes);
        let _ = join_replies(&[&bytes, &bytes]);
        let context = StateContext {
            version: chemxor_core::VersionId::of(b"v"),
            session: [0; 16],
            query: 0,
            step: 0,
        };
        prop_assert!(StateKey::new([1; 32]).open(&bytes, &context).is_err());
        let (encapsulated, sealed) = bytes.split_at(bytes.len().min(32));
        let opened = SealingKeyPair::generate().open(encapsulated, sealed, &context.version, 0);
        prop_assert!(opened.is_err());
        prop_assert!(SealingKeyPair::from_secret(&bytes).is_err() || bytes.len() == 32);
    }
}

/// Headers that announce gigabytes are refused before anything is allocated.
#[test]
fn announced_sizes_are_checked_against_the_message() {
    for (inputs, outputs) in [(u32::MAX, u32::MAX), (1 << 16, 1 << 16), (1, u32::MAX)] {
        for form in 0..3u8 {
            for biases in 0..2u8 {
                let mut blob = b"CXWB\x02\0\x01\0".to_vec();
                blob.extend(inputs.to_le_bytes());
                blob.extend(outputs.to_le_bytes());
                blob.extend([4, form, biases, 0]);
                blob.extend([0; 32 + 64]);
                assert!(StepWeights::from_blob(&blob).is_err());
            }
        }
    }
}
