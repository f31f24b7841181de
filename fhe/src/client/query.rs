//! One query, as the client runs it: encrypt the features, then for each reply decrypt the blinded
//! phases and send their one-hot encoding, until the last reply opens the outputs.

use std::sync::Arc;

use chemxor_core::StepGraph;
use num_complex::Complex64;
use zeroize::Zeroize;

use crate::client::{ClientKey, KeyError, RingKey, encrypt};
use crate::rng::{RandomnessError, SecretRng};
use crate::torus::{Torus, fourier_zero};
use crate::wire::{self, Reply, StepShape, WireError};

/// Why a query cannot go on. Never depends on a decrypted value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// A message of the server is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The key does not serve this model.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No randomness.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
    /// The features are not what the model takes.
    #[error("the model takes {expected} features, got {got}")]
    Features {
        /// Number of features of the model.
        expected: usize,
        /// Number given.
        got: usize,
    },
    /// A feature outside the model's grid.
    #[error("feature {index} is {value}; the model takes values below {limit}")]
    FeatureRange {
        /// Which feature.
        index: usize,
        /// Its value.
        value: u16,
        /// Bound on it.
        limit: u32,
    },
}

/// What follows a reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Send this as the input of the next step.
    Next(Vec<u8>),
    /// The released B-bit code of each output.
    Done(Vec<u32>),
}

/// A running query.
#[derive(Debug)]
pub struct Query {
    key: Arc<ClientKey>,
    shapes: Vec<StepShape>,
    step: usize,
}

impl Query {
    /// Starts a query: gives its state and the input message of step 0.
    pub fn start(
        key: &Arc<ClientKey>,
        graph: &StepGraph,
        features: &[u16],
    ) -> Result<(Self, Vec<u8>), QueryError> {
        let steps = graph.steps();
        let shapes = steps
            .iter()
            .enumerate()
            .map(|(i, spec)| StepShape::new(spec, i + 1 == steps.len()))
            .collect::<Result<Vec<_>, _>>()?;
        let first = &shapes[0];
        if features.len() != first.spec.features() {
            return Err(QueryError::Features {
                expected: first.spec.features(),
                got: features.len(),
            });
        }
        for (index, value) in features.iter().copied().enumerate() {
            let limit = first.spec.feature_limit(index);
            if u32::from(value) >= limit {
                return Err(QueryError::FeatureRange {
                    index,
                    value,
                    limit,
                });
            }
        }
        let inputs = first.spec.expansion.expand(features);
        let values = inputs
            .iter()
            .enumerate()
            .map(|(i, x)| (i, 0, u64::from(*x)));
        let message = encrypt_step(key, first, values)?;
        Ok((
            Self {
                key: key.clone(),
                shapes,
                step: 0,
            },
            message,
        ))
    }

    /// Step whose reply is awaited.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Takes the reply of the awaited step. After [`Progress::Done`] the query is over.
    pub fn receive(&mut self, reply: &[u8]) -> Result<Progress, QueryError> {
        let shape = &self.shapes[self.step];
        let reply = wire::decode_reply(shape, reply)?;
        let key = self.key.ring(shape.ring.name)?;
        let mut phases = blinded_phases(key, shape, &reply);
        let (b, m) = (shape.spec.output_bits, shape.spec.switch_bits);
        // keep the top b bits: uniform, because the blind is uniform over the whole torus
        for phase in &mut phases {
            *phase >>= m - b;
        }
        let outputs = (0..shape.layout.output_count()).flat_map(|group| shape.layout.group(group));
        let outputs = outputs.map(|(output, _)| output);
        if shape.is_last {
            let mask = (1u32 << b) - 1;
            let mut codes = vec![0; shape.layout.outputs()];
            for (output, (phase, blind)) in outputs.zip(phases.iter().zip(&reply.opening)) {
                codes[output] = phase.wrapping_sub(*blind) & mask;
            }
            return Ok(Progress::Done(codes));
        }
        self.step += 1;
        let next = &self.shapes[self.step];
        let hot = outputs.zip(&phases).map(|(i, c)| (i, *c as usize, 1));
        let message = encrypt_step(&self.key, next, hot)?;
        phases.zeroize();
        Ok(Progress::Next(message))
    }
}

/// Encrypts the given integers, each at (input number, offset in a one-hot input); all other
/// coefficients are zero.
fn encrypt_step(
    key: &ClientKey,
    shape: &StepShape,
    values: impl Iterator<Item = (usize, usize, u64)>,
) -> Result<Vec<u8>, QueryError> {
    let key = key.ring(shape.ring.name)?;
    let mut rng = SecretRng::from_os()?;
    if shape.ring.torus_bits == 32 {
        Ok(encrypt_values::<u32>(key, shape, values, &mut rng))
    } else {
        Ok(encrypt_values::<u64>(key, shape, values, &mut rng))
    }
}

fn encrypt_values<T: Torus>(
    key: &RingKey,
    shape: &StepShape,
    values: impl Iterator<Item = (usize, usize, u64)>,
    rng: &mut SecretRng,
) -> Vec<u8> {
    let layout = &shape.layout;
    let scale = T::BITS - u32::from(shape.spec.accumulator_bits);
    let mut bodies = vec![T::from_u64(0); layout.input_count() * layout.size()];
    for (input, offset, value) in values {
        if let Some((block, at)) = layout.input_place(input) {
            bodies[block * layout.size() + at + offset] = T::from_u64(value << scale);
        }
    }
    let seed = encrypt(key, &mut bodies, rng);
    let message = wire::encode_input(shape, &seed, &bodies);
    bodies.zeroize();
    message
}

/// The phase of each output modulo 2^m, in the order of the reply: body minus (mask times secret)
/// at the output's coefficient.
fn blinded_phases(key: &RingKey, shape: &StepShape, reply: &Reply) -> Vec<u32> {
    let layout = &shape.layout;
    let (size, k) = (layout.size(), shape.ring.dimension);
    let mask = (1u32 << shape.spec.switch_bits) - 1;
    let mut scratch: Vec<Complex64> = fourier_zero(size);
    let mut product = vec![0u32; size];
    let mut phases = Vec::with_capacity(layout.outputs());
    let mut bodies = reply.bodies.iter();
    for (group, masks) in reply.masks.chunks_exact(k * size).enumerate() {
        product.fill(0);
        key.add_mask_product(&mut product, masks, &mut scratch);
        let parts = layout
            .group(group)
            .map(|(_, coefficient)| product[coefficient]);
        phases.extend(
            parts
                .zip(&mut bodies)
                .map(|(part, body)| body.wrapping_sub(part) & mask),
        );
    }
    product.zeroize();
    phases
}
