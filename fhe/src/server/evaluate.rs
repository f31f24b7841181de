//! Evaluation of one step: decode, multiply, re-randomise, blind, switch, encode.

use num_complex::Complex64;
use rayon::prelude::*;
use zeroize::Zeroize;

use crate::fft::{Negacyclic, multiply_add};
use crate::network::WeightsError;
use crate::rng::{MaskRng, Purpose, RandomnessError, SecretRng};
use crate::server::prepared::RotatedTables;
use crate::server::{Blinds, PreparedStep, PublicKeys, SeedLog, SeedReused};
use crate::torus::{Torus, fourier_zero, switch_down};
use crate::wire::{self, Reply, WireError};

/// Why a step was not evaluated. Holds no value derived from a ciphertext or a weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// Malformed message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The weights do not belong to the step.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A ciphertext's seed was used before.
    #[error(transparent)]
    Seed(#[from] SeedReused),
    /// The state does not belong to this step: none for step 0, one value a neuron afterwards.
    #[error("the state of the previous step does not fit this step")]
    State,
    /// No randomness.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
}

/// Result of a step.
#[derive(Debug)]
pub struct Evaluation {
    /// For the client.
    pub reply: Vec<u8>,
    /// For the next step; none after the last, whose blinds are opened in the reply.
    pub blinds: Option<Blinds>,
}

/// What one output ciphertext contributes.
pub(super) struct Group<T> {
    pub(super) masks: Vec<u32>,
    pub(super) bodies: Vec<u32>,
    pub(super) blinds: Vec<T>,
}

impl PreparedStep {
    /// Evaluates the step on the client's message. `blinds` come from the step before (none for
    /// step 0) and must never be used for two evaluations that both reach the client.
    pub fn evaluate(
        &self,
        keys: &PublicKeys,
        blinds: Option<&Blinds>,
        message: &[u8],
        seeds: &SeedLog,
    ) -> Result<Evaluation, StepError> {
        if self.shape.ring.torus_bits == 32 {
            self.evaluate_in::<u32>(keys, blinds, message, seeds)
        } else {
            self.evaluate_in::<u64>(keys, blinds, message, seeds)
        }
    }

    fn evaluate_in<T: Torus>(
        &self,
        keys: &PublicKeys,
        blinds: Option<&Blinds>,
        message: &[u8],
        seeds: &SeedLog,
    ) -> Result<Evaluation, StepError> {
        let spec = &self.shape.spec;
        let tables = match (spec.kind, blinds) {
            (chemxor_core::StepKind::Static, None) => None,
            (chemxor_core::StepKind::Lookup, Some(blinds))
                if blinds.bits() == spec.input_bits
                    && blinds.values().len() == spec.inputs as usize =>
            {
                Some(self.rotate_tables(blinds))
            }
            _ => return Err(StepError::State),
        };
        let (seed, bodies) = wire::decode_input::<T>(&self.shape, message)?;
        seeds.record(seed)?;
        let inputs = self.transform_inputs(&seed, &bodies);
        let groups: Vec<Group<T>> = (0..self.shape.layout.output_count())
            .into_par_iter()
            .map(|group| self.output_group(group, keys, &inputs, tables.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(self.assemble(groups))
    }

    /// Each input ciphertext in the Fourier domain: `[block][mask 0 .. mask k-1, body]`.
    pub(super) fn transform_inputs<T: Torus>(
        &self,
        seed: &[u8; 16],
        bodies: &[T],
    ) -> Vec<Vec<Complex64>> {
        let (size, k) = (self.shape.ring.size, self.shape.ring.dimension);
        let mut masks = MaskRng::new(Purpose::Ciphertexts, seed);
        let blocks = self.shape.layout.input_count();
        let mut all_masks = vec![T::from_u64(0); blocks * k * size];
        masks.fill(&mut all_masks);
        let fft = Negacyclic::of(size);
        all_masks
            .par_chunks_exact(k * size)
            .zip(bodies.par_chunks_exact(size))
            .map(|(masks, body)| {
                let mut out = vec![Complex64::default(); (k + 1) * size / 2];
                let polynomials = masks.chunks_exact(size).chain(std::iter::once(body));
                for (out, polynomial) in out.chunks_exact_mut(size / 2).zip(polynomials) {
                    fft.forward_torus(out, polynomial);
                }
                out
            })
            .collect()
    }

    pub(super) fn output_group<T: Torus>(
        &self,
        group: usize,
        keys: &PublicKeys,
        inputs: &[Vec<Complex64>],
        tables: Option<&RotatedTables>,
    ) -> Result<Group<T>, StepError> {
        let ring = &self.shape.ring;
        let (size, k) = (ring.size, ring.dimension);
        let mut acc = vec![Complex64::default(); (k + 1) * size / 2];
        let mut weight = fourier_zero(size);
        let mut buffer = vec![0.0; if tables.is_some() { size } else { 0 }];
        for (block, input) in inputs.iter().enumerate() {
            let weight = self.weight_polynomial(group, block, tables, &mut buffer, &mut weight);
            let columns = acc
                .chunks_exact_mut(size / 2)
                .zip(input.chunks_exact(size / 2));
            for (acc, input) in columns {
                multiply_add(acc, input, weight);
            }
        }
        let mut ciphertext = vec![T::from_u64(0); (k + 1) * size];
        let fft = Negacyclic::of(size);
        for (acc, out) in acc
            .chunks_exact_mut(size / 2)
            .zip(ciphertext.chunks_exact_mut(size))
        {
            fft.backward(acc, out, |_, value| T::from_f64(value));
        }
        // fresh for this ciphertext, whatever thread runs it (traps 1 and 4)
        let mut rng = SecretRng::from_os()?;
        keys.add_zero(ring.name, &mut ciphertext, &mut rng)?;
        Ok(self.blind_and_switch(group, &mut ciphertext, &mut rng))
    }

    /// Adds `e1`, `e2` and the blinds, and switches to `2^m`; drops the coefficients not in use.
    fn blind_and_switch<T: Torus>(
        &self,
        group: usize,
        ciphertext: &mut [T],
        rng: &mut SecretRng,
    ) -> Group<T> {
        let (ring, layout) = (&self.shape.ring, &self.shape.layout);
        let m = u32::from(self.shape.spec.switch_bits);
        let (masks, body) = ciphertext.split_at_mut(ring.size * ring.dimension);
        rng.add_noise(masks, ring.noise_std);
        let outputs = layout.group(group).len();
        let mut used: Vec<T> = (0..outputs)
            .map(|within| body[layout.output_coefficient(within)])
            .collect();
        rng.add_noise(&mut used, ring.noise_std);
        let mut blinds = vec![T::from_u64(0); outputs];
        rng.fill_uniform(&mut blinds);
        let result = Group {
            masks: masks
                .iter()
                .map(|value| switch_down(*value, m) as u32)
                .collect(),
            bodies: used
                .iter()
                .zip(&blinds)
                .map(|(value, blind)| switch_down(value.add(*blind), m) as u32)
                .collect(),
            blinds,
        };
        // unblinded inner products must not stay in freed memory
        body.zeroize();
        used.zeroize();
        result
    }

    fn assemble<T: Torus>(&self, groups: Vec<Group<T>>) -> Evaluation {
        let b = u32::from(self.shape.spec.output_bits);
        let (mut masks, mut bodies, mut tops) = (Vec::new(), Vec::new(), Vec::new());
        for mut group in groups {
            masks.append(&mut group.masks);
            bodies.append(&mut group.bodies);
            tops.extend(
                group
                    .blinds
                    .iter()
                    .map(|blind| (blind.to_u64() >> (T::BITS - b)) as u32),
            );
            group.blinds.zeroize();
        }
        let (opening, blinds) = if self.shape.is_last {
            (Some(tops), None)
        } else {
            let values = tops.iter().map(|top| *top as u16).collect();
            tops.zeroize();
            (None, Some(Blinds::new(self.shape.spec.output_bits, values)))
        };
        let reply = wire::encode_reply(
            &self.shape,
            &Reply {
                masks,
                bodies,
                opening,
            },
        );
        Evaluation { reply, blinds }
    }
}
