//! Instruction counts of the kernels under valgrind, which do not depend on the machine's load.
//! Limits are about 10 % above what the present code takes with AVX2 (valgrind 3.19 knows no
//! AVX-512): going beyond one fails the run. Lower a limit when a kernel gets faster.
//!
//! `./bench/run instructions` installs what it needs.

#![allow(clippy::unwrap_used, missing_docs, unused_qualifications)]

use std::hint::black_box;
use std::sync::Arc;

use chemxor_core::{RingName, StepGraph, StepKind, StepSpec};
use chemxor_fhe::client::{ClientKey, Progress, Query, encrypt};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::rng::SecretRng;
use chemxor_fhe::server::{Blinds, PreparedStep, PublicKeys, SeedLog};
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};

struct Kernel {
    key: Arc<ClientKey>,
    rng: SecretRng,
    body: Vec<u32>,
}

fn key() -> Kernel {
    let kernel = Kernel {
        key: Arc::new(ClientKey::generate(&[RingName::N1024Q32]).unwrap()),
        rng: SecretRng::from_os().unwrap(),
        body: vec![0; 1024],
    };
    // tables of the FFT are made at first use
    let mut warm = kernel.body.clone();
    let mut rng = SecretRng::from_os().unwrap();
    encrypt(
        kernel.key.ring(RingName::N1024Q32).unwrap(),
        &mut warm,
        &mut rng,
    );
    kernel
}

struct Step {
    step: PreparedStep,
    public: PublicKeys,
    blinds: Option<Blinds>,
    message: Vec<u8>,
    query: Query,
    reply: Vec<u8>,
    pool: rayon::ThreadPool,
}

fn weights(count: usize) -> Vec<i16> {
    (0..count).map(|i| (i * 37 % 121) as i16 - 60).collect()
}

/// Step `index` of a 1024 -> 64 -> 32 network, ready to run on this thread.
fn step(index: usize) -> Step {
    let spec = |kind, inputs, outputs, bits: (u8, u8), per_input| StepSpec {
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
    };
    let specs = vec![
        spec(StepKind::Static, 1024, 64, (3, 4), 128),
        spec(StepKind::Lookup, 64, 32, (4, 8), 256),
    ];
    let networks = [
        StepWeights::new_static(1024, 64, weights(1024 * 64)).unwrap(),
        StepWeights::new_lookup(64, 32, 4, 4, weights(64 * 32), weights(64 * 16)).unwrap(),
    ];
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build()
        .unwrap();
    let graph = StepGraph::new(specs.clone()).unwrap();
    let key = Arc::new(ClientKey::generate(&[RingName::N1024Q32]).unwrap());
    let seeds = SeedLog::default();
    let public = key.public_keys(&[RingName::N1024Q32]).unwrap();
    let public = PublicKeys::from_bytes(&public, &[RingName::N1024Q32], &seeds).unwrap();
    let features: Vec<u16> = (0..1024).map(|i| u16::from(i % 37 == 0)).collect();
    let (mut query, mut message) = Query::start(&key, &graph, &features).unwrap();
    let mut blinds = None;
    let [first, second] = networks;
    let prepared = [
        PreparedStep::new(&specs[0], false, first).unwrap(),
        PreparedStep::new(&specs[1], true, second).unwrap(),
    ];
    let done = pool
        .install(|| prepared[0].evaluate(&public, None, &message, &seeds))
        .unwrap();
    let reply = done.reply;
    if index == 1 {
        if let Progress::Next(next) = query.receive(&reply).unwrap() {
            message = next;
        }
        blinds = done.blinds;
    }
    let [first, second] = prepared;
    Step {
        step: if index == 0 { first } else { second },
        public,
        blinds,
        message,
        query,
        reply,
        pool,
    }
}

fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    LibraryBenchmarkConfig::default()
        .tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)]))
        .clone()
}

#[library_benchmark]
#[bench::n1024(args = (key()), config = at_most(260_000))]
fn client_encrypts_a_polynomial(mut kernel: Kernel) -> Kernel {
    let ring = kernel.key.ring(RingName::N1024Q32).unwrap();
    black_box(encrypt(ring, &mut kernel.body, &mut kernel.rng));
    kernel
}

#[library_benchmark]
#[bench::static_1024_to_64(args = (step(0)), config = at_most(3_960_000))]
#[bench::lookup_64_to_32_b4(args = (step(1)), config = at_most(3_800_000))]
fn server_evaluates_a_step(step: Step) -> Step {
    let seeds = SeedLog::default();
    let run = || {
        step.step
            .evaluate(&step.public, step.blinds.as_ref(), &step.message, &seeds)
    };
    black_box(step.pool.install(run).unwrap());
    step
}

#[library_benchmark]
#[bench::reply_of_64(args = (step(0)), config = at_most(1_550_000))]
fn client_answers_a_reply(mut step: Step) -> Step {
    black_box(step.query.receive(&step.reply).unwrap());
    step
}

library_benchmark_group!(
    name = kernels,
    benchmarks = [
        client_encrypts_a_polynomial,
        server_evaluates_a_step,
        client_answers_a_reply
    ]
);
main!(library_benchmark_groups = kernels);
