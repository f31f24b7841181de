//! What a run will take, before it is started: bytes, rounds, queries and bits from the plan, time
//! from a short probe with the first molecules.

use std::time::{Duration, Instant};

use chemxor_core::Manifest;
use chemxor_fhe::wire::{StepShape, public_keys_bytes};
use futures::stream::{self, StreamExt};
use serde::Serialize;

use crate::ClientError;
use crate::batch::Oracle;

/// What one molecule costs, from the plan alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct QueryCost {
    /// Round trips.
    pub rounds: u32,
    /// Bytes of step messages sent.
    pub bytes_up: u64,
    /// Bytes of step messages received.
    pub bytes_down: u64,
    /// Bytes of the public keys, once for each session.
    pub public_key_bytes: u64,
    /// Bits that one query releases about the weights, at most.
    pub leakage_bits: u64,
}

impl QueryCost {
    /// The cost of a query to this model.
    pub fn of(manifest: &Manifest) -> Result<Self, ClientError> {
        let steps = manifest.graph.steps();
        let (mut up, mut down) = (0, 0);
        for (at, spec) in steps.iter().enumerate() {
            let shape = StepShape::new(spec, at + 1 == steps.len())?;
            up += shape.input_bytes() as u64;
            down += shape.reply_bytes() as u64;
        }
        Ok(Self {
            rounds: steps.len() as u32,
            bytes_up: up,
            bytes_down: down,
            public_key_bytes: public_keys_bytes(&manifest.graph.rings()) as u64,
            leakage_bits: manifest.leakage_bits_per_query,
        })
    }
}

/// What a probe measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Probe {
    /// Queries that the probe asked; they count like any other.
    pub queries: u64,
    /// Molecules a second.
    pub rate: f64,
}

/// What a run will take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Rows that are left to do.
    pub rows: u64,
    /// Round trips of one molecule; those of different molecules overlap.
    pub rounds: u32,
    /// Bytes that go up, public keys included.
    pub bytes_up: u64,
    /// Bytes that come down.
    pub bytes_down: u64,
    /// Seconds; without a probe not known.
    pub seconds: Option<f64>,
    /// Bits that the run releases about the weights, at most.
    pub leakage_bits: u64,
}

impl Estimate {
    /// For `rows` molecules at the rate of a probe.
    pub fn new(cost: &QueryCost, rows: u64, rate: Option<f64>) -> Self {
        Self {
            rows,
            rounds: cost.rounds,
            bytes_up: rows * cost.bytes_up + cost.public_key_bytes,
            bytes_down: rows * cost.bytes_down,
            seconds: rate.map(|rate| rows as f64 / rate),
            leakage_bits: rows * cost.leakage_bits,
        }
    }
}

/// How long a probe measures, and how many molecules it asks for at most.
#[derive(Debug, Clone, Copy)]
pub struct ProbeLimits {
    /// Time.
    pub time: Duration,
    /// Queries.
    pub queries: u64,
}

impl Default for ProbeLimits {
    fn default() -> Self {
        Self {
            time: Duration::from_millis(1500),
            queries: 2000,
        }
    }
}

/// Measures the rate with `molecules`, over and over, `in_flight` at the same time. The first
/// `in_flight` answers warm up and are not timed. Molecules that cannot be read are skipped; `None`
/// when none can.
pub async fn probe(
    oracle: &impl Oracle,
    molecules: &[String],
    in_flight: usize,
    limits: ProbeLimits,
) -> Result<Option<Probe>, ClientError> {
    let readable = |smiles: &&String| oracle.featurise(smiles).is_ok();
    let readable: Vec<&String> = molecules.iter().filter(readable).collect();
    if readable.is_empty() {
        return Ok(None);
    }
    let in_flight = in_flight.max(1);
    let share = readable.len() as f64 / molecules.len() as f64;
    let started = Instant::now();
    let warm = in_flight as u64;
    let asked = readable
        .into_iter()
        .cycle()
        .take((limits.queries.max(2 * warm)) as usize);
    let mut answers = stream::iter(asked)
        // featurising is part of the work
        .map(|smiles| async { oracle.predict(oracle.featurise(smiles)?).await })
        .buffered(in_flight);
    let (mut queries, mut since) = (0u64, started);
    while let Some(answer) = answers.next().await {
        answer?;
        queries += 1;
        if queries == warm {
            since = Instant::now();
        }
        if queries > warm && since.elapsed() >= limits.time {
            break;
        }
    }
    let timed = (queries.saturating_sub(warm)).max(1);
    // rows without a molecule take no time worth counting
    let rate = timed as f64 / since.elapsed().as_secs_f64().max(1e-9) / share;
    Ok(Some(Probe { queries, rate }))
}
