//! Distinguishing tests: what a client sees of a million outputs is uniform, and independent of
//! weights and inputs. Each test is also run on an unprotected variant, where it must alarm.
//!
//! False-alarm rate: the battery runs [`TESTS`] statistics; each alarms at a threshold that uniform
//! data pass with probability `1 - 2^-30 / TESTS`, so all together they alarm falsely with
//! probability at most 2^-30.

use chemxor_core::RingName;
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};
use statrs::distribution::{ChiSquared, ContinuousCDF, Normal};

use super::support::*;
use crate::rng::MaskRng;
use crate::rng::Purpose;

/// Statistics of the battery, all data sets together.
const TESTS: f64 = 32.0;
const M: u8 = 20;
/// Values of a data set; 1,024,000.
const VALUES: usize = 64 * 16_000;

fn level() -> f64 {
    (-30f64).exp2() / TESTS
}

/// Chi-square of the counts in `cells` equal cells; alarms above the quantile.
fn uniform(values: &[u32], bits: u32, cells_log: u32) -> bool {
    let mut counts = vec![0u32; 1 << cells_log];
    for value in values {
        counts[(value >> (bits - cells_log)) as usize] += 1;
    }
    let expected = values.len() as f64 / counts.len() as f64;
    let statistic: f64 = counts
        .iter()
        .map(|n| (f64::from(*n) - expected).powi(2) / expected)
        .sum();
    below(statistic, counts.len() - 1)
}

fn below(statistic: f64, freedom: usize) -> bool {
    ChiSquared::new(freedom as f64).unwrap().sf(statistic) > level()
}

/// Serial correlation at lag 1: for uniform values the standardised sum is close to normal.
fn uncorrelated(values: &[u32], bits: u32) -> bool {
    let turn = f64::from(1u32 << bits);
    let centred = |x: &u32| (f64::from(*x) + 0.5) / turn - 0.5;
    let sum: f64 = values
        .windows(2)
        .map(|pair| centred(&pair[0]) * centred(&pair[1]))
        .sum();
    // each product has variance 1/144
    let z = sum * 12.0 / ((values.len() - 1) as f64).sqrt();
    2.0 * Normal::standard().sf(z.abs()) > level()
}

/// Two-sample chi-square on 256 cells: whether both data sets may come from one distribution.
fn alike(a: &[u32], b: &[u32], bits: u32) -> bool {
    let count = |values: &[u32]| {
        let mut counts = vec![0f64; 256];
        for value in values {
            counts[(value >> (bits - 8)) as usize] += 1.0;
        }
        counts
    };
    let (ka, kb) = (
        (b.len() as f64 / a.len() as f64).sqrt(),
        (a.len() as f64 / b.len() as f64).sqrt(),
    );
    let term = |(x, y): (f64, f64)| {
        if x + y == 0.0 {
            0.0
        } else {
            (ka * x - kb * y).powi(2) / (x + y)
        }
    };
    let statistic: f64 = count(a).into_iter().zip(count(b)).map(term).sum();
    below(statistic, 255)
}

/// What a client decrypts, and the masks of its replies; phases also without their blinds.
struct View {
    phases: Vec<u32>,
    unblinded: Vec<u32>,
    coarse: Vec<u32>,
    masks: Vec<u32>,
}

/// What the client sends.
#[derive(Clone, Copy)]
enum Sent {
    /// An honest encryption of 16 times this feature.
    Feature(u16),
    /// A ciphertext whose body is zero: an encryption of minus mask times secret, which is no
    /// feature and no one-hot vector.
    ZeroBody,
}

fn view(weight_seed: u64, sent: Sent) -> View {
    let step_spec = spec(16, 64, RingName::N1024Q32, 16, (8, 32, M));
    let bench = Bench::new(&step_spec, weights(16 * 64, weight_seed));
    let mut view = View {
        phases: Vec::with_capacity(VALUES),
        unblinded: Vec::with_capacity(VALUES),
        coarse: Vec::with_capacity(VALUES),
        masks: Vec::with_capacity(VALUES),
    };
    while view.phases.len() < VALUES {
        let message = match sent {
            Sent::Feature(x) => bench.message(&[x; 16]),
            Sent::ZeroBody => {
                let mut message = bench.message(&[0; 16]);
                message[28..].fill(0);
                message
            }
        };
        let group = bench.groups(&message).remove(0);
        let phases = bench.phases(0, &group);
        let modulus_mask = (1u32 << M) - 1;
        for (phase, blind) in phases.iter().zip(&group.blinds) {
            let bare = phase.wrapping_sub(blind >> (32 - M)) & modulus_mask;
            view.unblinded.push(bare);
            // a blind of the top 8 bits only
            let coarse = bare.wrapping_add(blind >> 24 << (M - 8)) & modulus_mask;
            view.coarse.push(coarse);
        }
        view.phases.extend(&phases);
        view.masks.extend(&group.masks[..64]);
    }
    view
}

#[test]
fn the_client_sees_uniform_numbers_independent_of_weights_and_inputs() {
    let bits = u32::from(M);
    let low = |values: &[u32]| -> Vec<u32> { values.iter().map(|x| x & 0xfff).collect() };
    let a = view(31, Sent::Feature(0));
    let b = view(31, Sent::Feature(7));
    let c = view(32, Sent::Feature(7));
    let d = view(31, Sent::ZeroBody);

    // the real path
    for values in [
        &a.phases, &b.phases, &c.phases, &d.phases, &a.masks, &d.masks,
    ] {
        assert!(values.len() >= 1_000_000);
        assert!(uniform(values, bits, 12), "top bits");
        assert!(uniform(&low(values), 12, 12), "low bits");
        assert!(uncorrelated(values, bits));
    }
    for (x, y, what) in [(&a, &b, "inputs"), (&b, &c, "weights"), (&a, &d, "malice")] {
        assert!(alike(&x.phases, &y.phases, bits), "{what}");
        assert!(alike(&low(&x.phases), &low(&y.phases), 12), "{what}");
        assert!(alike(&x.masks, &y.masks, bits), "{what}");
    }

    // the same statistics see what unprotected variants show
    for values in [&a.unblinded, &b.unblinded, &c.unblinded] {
        assert!(!uniform(values, bits, 12));
    }
    assert!(!uncorrelated(&a.unblinded, bits));
    assert!(
        !alike(&a.unblinded, &b.unblinded, bits),
        "no blind: inputs show"
    );
    assert!(
        !alike(&b.unblinded, &c.unblinded, bits),
        "no blind: weights show"
    );
    // a blind of the top bits only hides them, but not the low ones
    assert!(uniform(&b.coarse, bits, 8) && !uniform(&low(&b.coarse), 12, 12));
    assert!(!alike(&low(&a.coarse), &low(&b.coarse), 12));
    assert!(!alike(&low(&b.coarse), &low(&c.coarse), 12));
}

/// The statistics alone: uniform data pass, slightly biased data do not.
#[test]
fn the_statistics_see_a_bias_of_a_few_per_mille() {
    let mut mask = vec![0u32; VALUES];
    MaskRng::new(Purpose::Ciphertexts, &[3; 16]).fill(&mut mask);
    let bits = u32::from(M);
    let fair: Vec<u32> = mask.iter().map(|x| x >> (32 - M)).collect();
    assert!(uniform(&fair, bits, 12) && uncorrelated(&fair, bits));
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let biased: Vec<u32> = fair
        .iter()
        .map(|x| if rng.random_bool(0.03) { x / 2 } else { *x })
        .collect();
    assert!(!uniform(&biased, bits, 8));
    assert!(!alike(&fair, &biased, bits));
    let sticky: Vec<u32> = fair
        .windows(2)
        .map(|pair| {
            if rng.random_bool(0.02) {
                pair[0]
            } else {
                pair[1]
            }
        })
        .collect();
    assert!(!uncorrelated(&sticky, bits));
}
