//! Our seeded encryption against tfhe's `encrypt_seeded_glwe_ciphertext`: the same secret key, the
//! same ring. Masks are uniform in both; what is left is the error of the body, drawn by tfhe's
//! Gaussian sampler there and by a ziggurat here.

use chemxor_core::RingName;
use statrs::distribution::{ContinuousCDF, Normal};
use tfhe::core_crypto::prelude as tfhe_core;

use super::{ClientKey, encrypt};
use crate::rng::{MaskRng, Purpose, SecretRng};
use crate::torus::fourier_zero;

const N: usize = 1024;
const POLYNOMIALS: usize = 128;

/// tfhe's key with our bits.
fn tfhe_key(bits: &[u8]) -> tfhe_core::GlweSecretKeyOwned<u32> {
    let data: Vec<u32> = bits.iter().map(|bit| u32::from(*bit)).collect();
    tfhe_core::GlweSecretKey::from_container(data, tfhe_core::PolynomialSize(N))
}

fn tfhe_errors(bits: &[u8], std: f64) -> Vec<f64> {
    let key = tfhe_key(bits);
    let mut seeder = tfhe_core::new_seeder();
    let seeder = seeder.as_mut();
    let plain = tfhe_core::PlaintextList::new(0u32, tfhe_core::PlaintextCount(N));
    let noise = tfhe_core::Gaussian::from_dispersion_parameter(tfhe_core::StandardDev(std), 0.0);
    let mut errors = Vec::new();
    for _ in 0..POLYNOMIALS {
        let mut sealed = tfhe_core::SeededGlweCiphertext::new(
            0u32,
            tfhe_core::GlweSize(2),
            tfhe_core::PolynomialSize(N),
            seeder.seed().into(),
            tfhe_core::CiphertextModulus::new_native(),
        );
        tfhe_core::encrypt_seeded_glwe_ciphertext(&key, &mut sealed, &plain, noise, seeder);
        let opened = sealed.decompress_into_glwe_ciphertext();
        let mut out = tfhe_core::PlaintextList::new(0u32, tfhe_core::PlaintextCount(N));
        tfhe_core::decrypt_glwe_ciphertext(&key, &opened, &mut out);
        errors.extend(out.as_ref().iter().map(|phase| f64::from(*phase as i32)));
    }
    errors
}

/// Errors of our ciphertexts, decrypted by tfhe.
fn our_errors(key: &ClientKey) -> Vec<f64> {
    let ring = key.ring(RingName::N1024Q32).unwrap();
    let opener = tfhe_key(ring.secret_bits());
    let mut rng = SecretRng::from_os().unwrap();
    let mut bodies = vec![0u32; N * POLYNOMIALS];
    let seed = encrypt(ring, &mut bodies, &mut rng);
    let mut masks = MaskRng::new(Purpose::Ciphertexts, &seed);
    let mut errors = Vec::new();
    for body in bodies.chunks_exact(N) {
        let mut data = vec![0u32; N];
        masks.fill(&mut data);
        data.extend_from_slice(body);
        let ciphertext = tfhe_core::GlweCiphertext::from_container(
            data,
            tfhe_core::PolynomialSize(N),
            tfhe_core::CiphertextModulus::new_native(),
        );
        let mut out = tfhe_core::PlaintextList::new(0u32, tfhe_core::PlaintextCount(N));
        tfhe_core::decrypt_glwe_ciphertext(&opener, &ciphertext, &mut out);
        errors.extend(out.as_ref().iter().map(|phase| f64::from(*phase as i32)));
    }
    errors
}

/// Largest distance of the empirical distribution from a normal one, times the root of the count.
fn kolmogorov(errors: &mut [f64], std: f64) -> f64 {
    errors.sort_by(f64::total_cmp);
    let normal = Normal::new(0.0, std).unwrap();
    let count = errors.len() as f64;
    // errors are integers: compare in the middle of two
    let distance = |(i, x): (usize, &f64)| (normal.cdf(x + 0.5) - (i as f64 + 1.0) / count).abs();
    let last_of_its_value = |i: &usize| errors.get(i + 1).is_none_or(|next| *next > errors[*i]);
    (0..errors.len())
        .filter(last_of_its_value)
        .map(|i| distance((i, &errors[i])))
        .fold(0.0, f64::max)
        * count.sqrt()
}

/// 131,072 errors each. Kolmogorov: `P(D > x) = 2 exp(-2 x^2)`, so 3.34 is exceeded with
/// probability 2^-31; two tests alarm falsely with probability 2^-30. Standard deviations of so
/// many normal samples agree within 1.2 % (six standard errors).
#[test]
fn ciphertexts_have_the_distribution_of_tfhe() {
    let key = ClientKey::generate(&[RingName::N1024Q32]).unwrap();
    let ring = key.ring(RingName::N1024Q32).unwrap();
    let std = ring.params().noise_std;
    let mut theirs = tfhe_errors(ring.secret_bits(), std);
    let mut ours = our_errors(&key);
    assert_eq!(ours.len(), theirs.len());
    let unit = std * 32f64.exp2();
    for errors in [&mut ours, &mut theirs] {
        let statistic = kolmogorov(errors, unit);
        assert!(statistic < 3.34, "{statistic}");
    }
    let deviation =
        |errors: &[f64]| (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt();
    let ratio = deviation(&ours) / deviation(&theirs);
    assert!((0.983..1.017).contains(&ratio), "{ratio}");

    // the statistic sees noise that is 6 % too small
    let mut small: Vec<f64> = ours.iter().map(|e| (e * 0.94).round()).collect();
    assert!(kolmogorov(&mut small, unit) > 3.34);
    // and the product by FFT is the exact one: tfhe decrypted our ciphertexts above; here the same
    // mask and key give the same polynomial as tfhe's own decryption of a noiseless body
    let mask = {
        let mut mask = vec![0u32; N];
        MaskRng::new(Purpose::Ciphertexts, &[5; 16]).fill(&mut mask);
        mask
    };
    let mut body = vec![0u32; N];
    ring.add_mask_product(&mut body, &mask, &mut fourier_zero(N));
    let data = [mask, body].concat();
    let noiseless = tfhe_core::GlweCiphertext::from_container(
        data,
        tfhe_core::PolynomialSize(N),
        tfhe_core::CiphertextModulus::new_native(),
    );
    let mut out = tfhe_core::PlaintextList::new(1u32, tfhe_core::PlaintextCount(N));
    tfhe_core::decrypt_glwe_ciphertext(&tfhe_key(ring.secret_bits()), &noiseless, &mut out);
    assert!(out.as_ref().iter().all(|phase| *phase == 0));
}
