//! Both halves in one process: evaluate an encrypted model locally, in one call or step by step,
//! and encrypt data sets. For publishers who test a model before they publish it, and for tests;
//! nothing is private from a process that holds the key and the weights.

use std::sync::Arc;

use chemxor_core::StepGraph;

use crate::client::{ClientKey, KeyError, Progress, Query, QueryError};
use crate::network::StepWeights;
use crate::server::{Blinds, PreparedStep, PublicKeys, SeedLog, StepError};
use crate::wire::{WireError, decode_reply};

/// Why a local evaluation stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The client's half.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The worker's half.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Not one set of weights for each step.
    #[error("the graph has {steps} steps, got weights for {weights}")]
    Weights {
        /// Steps of the graph.
        steps: usize,
        /// Weights given.
        weights: usize,
    },
}

/// A model with a client key, ready for encrypted queries in this process.
#[derive(Debug)]
pub struct LocalModel {
    graph: StepGraph,
    steps: Vec<PreparedStep>,
    key: Arc<ClientKey>,
    public: PublicKeys,
    seeds: SeedLog,
}

/// A query between two steps.
#[derive(Debug)]
pub struct LocalQuery<'a> {
    model: &'a LocalModel,
    query: Query,
    message: Vec<u8>,
    blinds: Option<Blinds>,
}

/// What a step of a local query gave.
#[derive(Debug)]
pub struct LocalStep {
    /// Its number.
    pub step: usize,
    /// Bytes from client to server.
    pub bytes_up: usize,
    /// The reply, as the client received it.
    pub reply: Vec<u8>,
    /// Blinds of the step, which only the server knows; none after the last.
    pub blinds: Option<Blinds>,
    /// The released B-bit codes, after the last step.
    pub codes: Option<Vec<u32>>,
}

impl LocalModel {
    /// Prepares every step, with a fresh key.
    pub fn new(graph: StepGraph, weights: Vec<StepWeights>) -> Result<Self, LocalError> {
        let key = Arc::new(ClientKey::generate(&graph.rings())?);
        Self::with_key(graph, weights, key)
    }

    /// Prepares every step, for a given key.
    pub fn with_key(
        graph: StepGraph,
        weights: Vec<StepWeights>,
        key: Arc<ClientKey>,
    ) -> Result<Self, LocalError> {
        let count = graph.steps().len();
        if weights.len() != count {
            return Err(LocalError::Weights {
                steps: count,
                weights: weights.len(),
            });
        }
        let steps = graph
            .steps()
            .iter()
            .zip(weights)
            .enumerate()
            .map(|(index, (spec, weights))| PreparedStep::new(spec, index + 1 == count, weights))
            .collect::<Result<_, _>>()?;
        let seeds = SeedLog::default();
        let public =
            PublicKeys::from_bytes(&key.public_keys(&graph.rings())?, &graph.rings(), &seeds)?;
        Ok(Self {
            graph,
            steps,
            key,
            public,
            seeds,
        })
    }

    /// The graph.
    pub fn graph(&self) -> &StepGraph {
        &self.graph
    }

    /// The prepared steps.
    pub fn steps(&self) -> &[PreparedStep] {
        &self.steps
    }

    /// The client's key.
    pub fn key(&self) -> &Arc<ClientKey> {
        &self.key
    }

    /// The released codes for one molecule, in one call.
    pub fn evaluate(&self, features: &[u16]) -> Result<Vec<u32>, LocalError> {
        let mut query = self.query(features)?;
        loop {
            if let Some(codes) = query.advance()?.codes {
                return Ok(codes);
            }
        }
    }

    /// A query that runs step by step.
    pub fn query(&self, features: &[u16]) -> Result<LocalQuery<'_>, LocalError> {
        let (query, message) = Query::start(&self.key, &self.graph, features)?;
        Ok(LocalQuery {
            model: self,
            query,
            message,
            blinds: None,
        })
    }

    /// Encrypts a data set: the input message of step 0 for each molecule, in order. Lazy, so that
    /// memory does not grow with the data set.
    pub fn encrypt<'a, F: AsRef<[u16]>>(
        &'a self,
        molecules: impl IntoIterator<Item = F> + 'a,
    ) -> impl Iterator<Item = Result<Vec<u8>, LocalError>> + 'a {
        molecules.into_iter().map(|features| {
            let (_, message) = Query::start(&self.key, &self.graph, features.as_ref())?;
            Ok(message)
        })
    }
}

impl LocalStep {
    /// The rounded pre-activations of a step between two, from reply, key and blinds: what nobody
    /// sees outside this process. Empty after the last step, whose codes are released.
    pub fn rounded(&self, model: &LocalModel) -> Result<Vec<u32>, LocalError> {
        let (Some(blinds), Some(step)) = (&self.blinds, model.steps.get(self.step)) else {
            return Ok(Vec::new());
        };
        let shape = step.shape();
        let reply = decode_reply(shape, &self.reply)?;
        let ring = model.key.ring(shape.ring.name)?;
        let bits = ring.secret_bits();
        let (size, k) = (shape.ring.size, shape.ring.dimension);
        let (m, b) = (shape.spec.switch_bits, shape.spec.output_bits);
        let mut out = vec![0; shape.layout.outputs()];
        let mut bodies = reply.bodies.iter();
        for group in 0..shape.layout.output_count() {
            let masks = &reply.masks[group * k * size..][..k * size];
            for ((output, at), body) in shape.layout.group(group).zip(&mut bodies) {
                let mut phase = *body;
                // coefficient `at` of mask times secret modulo X^N + 1
                for (number, mask) in masks.iter().enumerate() {
                    let (polynomial, i) = (number / size, number % size);
                    let (j, negative) = if i <= at {
                        (at - i, false)
                    } else {
                        (size + at - i, true)
                    };
                    if bits[polynomial * size + j] == 1 {
                        phase = if negative {
                            phase.wrapping_add(*mask)
                        } else {
                            phase.wrapping_sub(*mask)
                        };
                    }
                }
                let top = (phase & ((1 << m) - 1)) >> (m - b);
                out[output] = top.wrapping_sub(blinds.values()[output].into()) & ((1 << b) - 1);
            }
        }
        Ok(out)
    }
}

impl LocalQuery<'_> {
    /// The message that the next step takes.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Evaluates the next step. After the step that gives codes the query is over, and further
    /// calls are refused.
    pub fn advance(&mut self) -> Result<LocalStep, LocalError> {
        let step = self.query.step();
        let prepared = self.model.steps.get(step).ok_or(StepError::State)?;
        let done = prepared.evaluate(
            &self.model.public,
            self.blinds.as_ref(),
            &self.message,
            &self.model.seeds,
        )?;
        let bytes_up = self.message.len();
        let codes = match self.query.receive(&done.reply)? {
            Progress::Next(message) => {
                self.message = message;
                None
            }
            Progress::Done(codes) => Some(codes),
        };
        self.blinds.clone_from(&done.blinds);
        Ok(LocalStep {
            step,
            bytes_up,
            reply: done.reply,
            blinds: done.blinds,
            codes,
        })
    }
}
