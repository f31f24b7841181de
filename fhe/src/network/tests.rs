use super::*;
use proptest::prelude::*;

fn lookup() -> StepWeights {
    StepWeights::new_lookup(2, 3, 3, 4, vec![1, -2, 3, -4, 5, -6], (0..16).collect()).unwrap()
}

#[test]
fn blobs_round_trip_and_refuse_every_other_length() {
    for weights in [lookup(), convolution(), sparse()] {
        let blob = weights.to_blob(&[7; 32]);
        assert_eq!(StepWeights::from_blob(&blob).unwrap(), weights);
        for end in 0..blob.len() {
            assert!(StepWeights::from_blob(&blob[..end]).is_err());
        }
        let longer = [blob.as_slice(), &[0]].concat();
        assert!(matches!(
            StepWeights::from_blob(&longer),
            Err(WeightsError::Length { .. })
        ));
    }
}

fn convolution() -> StepWeights {
    let conv = Conv2d {
        channels: 1,
        height: 3,
        width: 2,
        filters: 2,
        kernel: 2,
        stride: 1,
        padding: 0,
    };
    let tables = Tables {
        bits: 3,
        shift: 0,
        entries: (0..48).collect(),
    };
    StepWeights::new_conv2d(conv, (0..8).collect(), Some(tables)).unwrap()
}

fn sparse() -> StepWeights {
    let rows = vec![vec![(4, 1), (2, -7)], vec![], vec![(0, 3)]];
    StepWeights::new_sparse(5, rows, None)
        .unwrap()
        .with_biases(vec![1, -2, 3])
        .unwrap()
}

#[test]
fn rows_are_sorted_and_in_range() {
    let mut row = Vec::new();
    sparse().visit_row(0, |input, weight| row.push((input, weight)));
    assert_eq!(row, [(2, -7), (4, 1)]);
    for rows in [vec![vec![(5, 1)]], vec![vec![(1, 1), (1, 2)]]] {
        assert_eq!(
            StepWeights::new_sparse(5, rows, None).unwrap_err(),
            WeightsError::Range("weight count")
        );
    }
}

#[test]
fn debug_shows_no_weight() {
    assert_eq!(
        format!("{:?}", lookup()),
        "StepWeights(Lookup, 2 -> 3, [redacted])"
    );
}

#[test]
fn rounding_is_to_nearest() {
    assert_eq!(
        [-3, -2, -1, 0, 1, 2, 3].map(|v| round_shift(v, 1)),
        [-1, -1, 0, 0, 1, 1, 2]
    );
    assert_eq!(round_shift(-5, 0), -5);
}

proptest! {
    #[test]
    fn garbage_is_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
        if head && bytes.len() > 8 {
            bytes[..7].copy_from_slice(b"CXWB\x02\0\x01");
        }
        // must not panic or allocate beyond the input; almost all garbage is refused
        let _ = StepWeights::from_blob(&bytes);
    }
}
