//! One query, as the client runs it: encrypt the features, then for each reply decrypt the blinded
//! phases and send their one-hot encoding, until the last reply opens the outputs.

use std::sync::Arc;

use chemxor_core::{StepGraph, StepKind};
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
    #[error("the model takes {expected} features below {below}, got {got} with maximum {max}")]
    Features {
        /// Number of features of the model.
        expected: usize,
        /// Bound on each.
        below: u32,
        /// Number given.
        got: usize,
        /// Largest given.
        max: u16,
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
        let below = 1u32 << first.spec.input_bits;
        let max = features.iter().copied().max().unwrap_or(0);
        if features.len() != first.layout.inputs || u32::from(max) >= below {
            let expected = first.layout.inputs;
            return Err(QueryError::Features {
                expected,
                below,
                got: features.len(),
                max,
            });
        }
        let values = features.iter().enumerate().map(|(i, x)| (i, u64::from(*x)));
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
        if let Some(opening) = &reply.opening {
            let mask = (1u32 << b) - 1;
            let open = |(phase, blind): (&u32, &u32)| phase.wrapping_sub(*blind) & mask;
            return Ok(Progress::Done(
                phases.iter().zip(opening).map(open).collect(),
            ));
        }
        self.step += 1;
        let next = &self.shapes[self.step];
        let hot = phases
            .iter()
            .enumerate()
            .map(|(i, c)| ((i << b) + *c as usize, 1));
        let message = encrypt_step(&self.key, next, hot)?;
        phases.zeroize();
        Ok(Progress::Next(message))
    }
}

/// Encrypts the given (input number, integer) pairs, all other inputs zero.
fn encrypt_step(
    key: &ClientKey,
    shape: &StepShape,
    values: impl Iterator<Item = (usize, u64)>,
) -> Result<Vec<u8>, QueryError> {
    debug_assert!(shape.spec.kind == StepKind::Static || shape.layout.per_input >= 8);
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
    values: impl Iterator<Item = (usize, u64)>,
    rng: &mut SecretRng,
) -> Vec<u8> {
    let layout = &shape.layout;
    let scale = T::BITS - u32::from(shape.spec.accumulator_bits);
    let mut bodies = vec![T::from_u64(0); layout.input_count() * layout.size];
    for (input, value) in values {
        let (block, within) = (input / layout.per_input, input % layout.per_input);
        bodies[block * layout.size + within] = T::from_u64(value << scale);
    }
    let seed = encrypt(key, &mut bodies, rng);
    let message = wire::encode_input(shape, &seed, &bodies);
    bodies.zeroize();
    message
}

/// The phase of each output modulo 2^m: body minus (mask times secret) at the output's coefficient.
fn blinded_phases(key: &RingKey, shape: &StepShape, reply: &Reply) -> Vec<u32> {
    let layout = &shape.layout;
    let (size, k) = (layout.size, shape.ring.dimension);
    let mask = (1u32 << shape.spec.switch_bits) - 1;
    let mut scratch: Vec<Complex64> = fourier_zero(size);
    let mut product = vec![0u32; size];
    let mut phases = Vec::with_capacity(layout.outputs);
    for (group, masks) in reply.masks.chunks_exact(k * size).enumerate() {
        product.fill(0);
        key.add_mask_product(&mut product, masks, &mut scratch);
        for (within, output) in layout.group(group).enumerate() {
            let part = product[layout.output_coefficient(within)];
            phases.push(reply.bodies[output].wrapping_sub(part) & mask);
        }
    }
    product.zeroize();
    phases
}
