//! Kernels of the protocol on one thread, beside an untuned reference in the same run.

#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use chemxor_core::{RingName, StepGraph, StepKind, StepSpec};
use chemxor_fhe::client::{ClientKey, Progress, Query, encrypt};
use chemxor_fhe::local::LocalModel;
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::rng::SecretRng;
use chemxor_fhe::server::{PreparedStep, PublicKeys, SeedLog};
use chemxor_fhe::{ring::RingParams, twin};
use criterion::{Criterion, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};
use tfhe::core_crypto::prelude as core;

fn encrypt_polynomial(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("client_encrypt_one_polynomial_n1024");
    let key = ClientKey::generate(&[RingName::N1024Q32]).unwrap();
    let ring = key.ring(RingName::N1024Q32).unwrap();
    let mut rng = SecretRng::from_os().unwrap();
    let mut body = vec![0u32; 1024];
    group.bench_function("fft", |bench| {
        bench.iter(|| black_box(encrypt(ring, black_box(&mut body), &mut rng)));
    });

    let params = RingParams::of(RingName::N1024Q32);
    let mut seeder = core::new_seeder();
    let seeder = seeder.as_mut();
    let mut secrets =
        core::SecretRandomGenerator::<core::DefaultRandomGenerator>::new(seeder.seed());
    let (k, n) = (core::GlweDimension(1), core::PolynomialSize(1024));
    let secret: core::GlweSecretKeyOwned<u32> =
        core::allocate_and_generate_new_binary_glwe_secret_key(k, n, &mut secrets);
    let plain = core::PlaintextList::new(0u32, core::PlaintextCount(1024));
    let noise = core::Gaussian::from_dispersion_parameter(core::StandardDev(params.noise_std), 0.0);
    let mut sealed = core::SeededGlweCiphertext::new(
        0u32,
        k.to_glwe_size(),
        n,
        seeder.seed().into(),
        core::CiphertextModulus::new_native(),
    );
    group.bench_function("reference_tfhe_karatsuba", |bench| {
        bench.iter(|| {
            core::encrypt_seeded_glwe_ciphertext(&secret, &mut sealed, &plain, noise, seeder);
        });
    });
    group.finish();
}

fn spec(kind: StepKind, inputs: u32, outputs: u32, bits: (u8, u8), per_input: u32) -> StepSpec {
    StepSpec {
        geometry: Default::default(),
        expansion: Default::default(),
        kind,
        inputs,
        outputs,
        input_bits: bits.0,
        accumulator_bits: 14,
        output_bits: bits.1,
        ring: RingName::N1024Q32,
        inputs_per_polynomial: per_input,
        body_bits: 24,
        switch_bits: 13,
    }
}

fn server_steps(criterion: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut values = |n: usize| {
        (0..n)
            .map(|_| rng.random_range(-60i16..=60))
            .collect::<Vec<_>>()
    };
    let first = StepWeights::new_static(2048, 64, values(2048 * 64)).unwrap();
    let second = StepWeights::new_lookup(64, 1, 6, 4, values(64), values(64 * 64)).unwrap();
    let features: Vec<u16> = (0..2048).map(|i| u16::from(i % 37 == 0)).collect();
    let key = Arc::new(ClientKey::generate(&[RingName::N1024Q32]).unwrap());
    let log = SeedLog::default();
    let rings = [RingName::N1024Q32];
    let public = key.public_keys(&rings).unwrap();
    let public = PublicKeys::from_bytes(&public, &rings, &log).unwrap();

    let mut group = criterion.benchmark_group("server_2048_to_64");
    for tile in [128, 256] {
        let specs = vec![
            spec(StepKind::Static, 2048, 64, (3, 6), tile),
            spec(StepKind::Lookup, 64, 1, (6, 8), 1024),
        ];
        let graph = StepGraph::new(specs.clone()).unwrap();
        let step = PreparedStep::new(&specs[0], false, first.clone()).unwrap();
        let (_, message) = Query::start(&key, &graph, &features).unwrap();
        group.bench_function(format!("encrypted_tile_{tile}"), |bench| {
            bench.iter(|| {
                let run = || step.evaluate(&public, None, &message, &SeedLog::default());
                pool.install(|| black_box(run().unwrap()))
            });
        });
    }
    group.bench_function("reference_plain_integers", |bench| {
        bench.iter(|| black_box(twin::static_step(&first, 14, black_box(&features))));
    });
    group.finish();

    let mut group = criterion.benchmark_group("server_lookup_64_to_1_b6");
    let specs = vec![
        spec(StepKind::Static, 2048, 64, (3, 6), 256),
        spec(StepKind::Lookup, 64, 1, (6, 8), 1024),
    ];
    let graph = StepGraph::new(specs.clone()).unwrap();
    let steps = [
        PreparedStep::new(&specs[0], false, first).unwrap(),
        PreparedStep::new(&specs[1], true, second).unwrap(),
    ];
    let (query, message) = Query::start(&key, &graph, &features).unwrap();
    let done = steps[0]
        .evaluate(&public, None, &message, &SeedLog::default())
        .unwrap();
    let mut query = query;
    let Progress::Next(next) = query.receive(&done.reply).unwrap() else {
        return;
    };
    group.bench_function("encrypted", |bench| {
        bench.iter(|| {
            let blinds = done.blinds.as_ref();
            let run = || steps[1].evaluate(&public, blinds, &next, &SeedLog::default());
            pool.install(|| black_box(run().unwrap()))
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("client_start_query_2048_features");
    group.bench_function("encrypted", |bench| {
        bench.iter(|| black_box(Query::start(&key, &graph, black_box(&features)).unwrap()));
    });
    group.finish();
}

/// A lookup of 512 neurons with 16 buckets each to 256 outputs: 2,048 products with fresh tables,
/// beside the same layer in plain integers.
fn fresh_products(criterion: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let mut values = |n: usize| {
        (0..n)
            .map(|_| rng.random_range(-60i16..=60))
            .collect::<Vec<_>>()
    };
    let specs = vec![
        spec(StepKind::Static, 16, 512, (3, 4), 16),
        spec(StepKind::Lookup, 512, 256, (4, 8), 256),
    ];
    let first = StepWeights::new_static(16, 512, values(16 * 512)).unwrap();
    let second =
        StepWeights::new_lookup(512, 256, 4, 4, values(512 * 256), values(512 * 16)).unwrap();
    let graph = StepGraph::new(specs.clone()).unwrap();
    let model = LocalModel::new(graph, vec![first, second.clone()]).unwrap();
    let mut query = model.query(&[1; 16]).unwrap();
    let done = query.advance().unwrap();
    let message = query.message().to_vec();
    let rings = [RingName::N1024Q32];
    let public = model.key().public_keys(&rings).unwrap();
    let public = PublicKeys::from_bytes(&public, &rings, &SeedLog::default()).unwrap();

    let mut group = criterion.benchmark_group("server_lookup_512_to_256_b4_of_2048_products");
    group.bench_function("encrypted", |bench| {
        bench.iter(|| {
            let step = &model.steps()[1];
            let seeds = SeedLog::default();
            let run = || step.evaluate(&public, done.blinds.as_ref(), &message, &seeds);
            pool.install(|| black_box(run().unwrap()))
        });
    });
    let t: Vec<u32> = (0..512).map(|i| i % 16).collect();
    group.bench_function("reference_plain_integers", |bench| {
        bench.iter(|| black_box(twin::lookup_step(&second, 14, black_box(&t))));
    });
    group.finish();
}

criterion_group!(kernels, encrypt_polynomial, server_steps, fresh_products);
criterion_main!(kernels);
