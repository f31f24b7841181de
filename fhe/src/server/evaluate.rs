//! Evaluation of one step: decode, multiply, re-randomise, blind, switch, encode.

use chemxor_core::StepKind;
use num_complex::Complex64;
use rayon::prelude::*;
use zeroize::Zeroize;

use crate::fft::{Negacyclic, multiply_add};
use crate::network::WeightsError;
use crate::rng::{MaskRng, Purpose, RandomnessError, SecretRng};
use crate::server::prepared::{Prepared, RotatedTables, Shift};
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
    /// Output ciphertexts that the step does not have.
    #[error("the step does not have these output ciphertexts")]
    Groups,
    /// No randomness.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
}

/// Result of a step, or of a part of it.
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

/// The step's input ciphertexts, as the prepared weights take them.
pub(super) enum Inputs<T> {
    /// `[block][mask 0 .. mask k-1, body]`, N/2 values each.
    Fourier(Vec<Vec<Complex64>>),
    /// `[block][mask 0 .. mask k-1, body]`, N values each.
    Plain(Vec<Vec<T>>),
}

/// Buffers of one thread.
pub(super) struct Scratch<T> {
    acc: Vec<Complex64>,
    weight: Vec<Complex64>,
    buffer: Vec<f64>,
    ciphertext: Vec<T>,
}

impl PreparedStep {
    /// Evaluates the step, or the part of it that was prepared, on the client's message. `blinds`
    /// come from the step before (none for step 0) and must never be used for two evaluations that
    /// both reach the client.
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
            (StepKind::Static, None) => None,
            (StepKind::Lookup, Some(blinds))
                if blinds.bits() == spec.input_bits
                    && blinds.is_complete()
                    && blinds.values().len() == spec.inputs as usize =>
            {
                self.rotate_tables(blinds)
            }
            _ => return Err(StepError::State),
        };
        let (seed, bodies) = wire::decode_input::<T>(&self.shape, message)?;
        seeds.record(seed)?;
        let inputs = self.transform_inputs(&seed, &bodies);
        let groups: Vec<Group<T>> = self
            .groups
            .clone()
            .into_par_iter()
            .map_init(
                || self.scratch(),
                |scratch, group| self.output_group(group, keys, &inputs, tables.as_ref(), scratch),
            )
            .collect::<Result<_, _>>()?;
        Ok(self.assemble(groups))
    }

    pub(super) fn scratch<T: Torus>(&self) -> Scratch<T> {
        let (size, k) = (self.shape.ring.size, self.shape.ring.dimension);
        Scratch {
            acc: vec![Complex64::default(); (k + 1) * size / 2],
            weight: fourier_zero(size),
            buffer: vec![0.0; size],
            ciphertext: vec![T::from_u64(0); (k + 1) * size],
        }
    }

    pub(super) fn transform_inputs<T: Torus>(&self, seed: &[u8; 16], bodies: &[T]) -> Inputs<T> {
        let (size, k) = (self.shape.ring.size, self.shape.ring.dimension);
        let mut masks = MaskRng::new(Purpose::Ciphertexts, seed);
        let blocks = self.shape.layout.input_count();
        let mut all_masks = vec![T::from_u64(0); blocks * k * size];
        masks.fill(&mut all_masks);
        let blocks = all_masks
            .par_chunks_exact(k * size)
            .zip(bodies.par_chunks_exact(size));
        if let Prepared::Shifts(_) = self.form {
            let plain = blocks.map(|(masks, body)| [masks, body].concat()).collect();
            return Inputs::Plain(plain);
        }
        let fft = Negacyclic::of(size);
        let transform = |(masks, body): (&[T], &[T])| {
            let mut out = vec![Complex64::default(); (k + 1) * size / 2];
            let polynomials = masks.chunks_exact(size).chain(std::iter::once(body));
            for (out, polynomial) in out.chunks_exact_mut(size / 2).zip(polynomials) {
                fft.forward_torus(out, polynomial);
            }
            out
        };
        Inputs::Fourier(blocks.map(transform).collect())
    }

    pub(super) fn output_group<T: Torus>(
        &self,
        group: usize,
        keys: &PublicKeys,
        inputs: &Inputs<T>,
        tables: Option<&RotatedTables>,
        scratch: &mut Scratch<T>,
    ) -> Result<Group<T>, StepError> {
        let ring = &self.shape.ring;
        // fresh for this ciphertext, whatever thread runs it (traps 1 and 4)
        let mut rng = SecretRng::from_os()?;
        match inputs {
            Inputs::Plain(blocks) => {
                self.add_shifts(group, blocks, &mut scratch.ciphertext);
                keys.add_zero(ring.name, &mut scratch.ciphertext, &mut rng)?;
            }
            Inputs::Fourier(blocks) => {
                self.add_products(group, blocks, tables, scratch);
                let early = T::LIMBS == 1;
                if early {
                    keys.add_zero_fourier(ring.name, &mut scratch.acc, &mut rng)?;
                }
                let fft = Negacyclic::of(ring.size);
                let columns = scratch.acc.chunks_exact_mut(ring.size / 2);
                for (acc, out) in columns.zip(scratch.ciphertext.chunks_exact_mut(ring.size)) {
                    fft.backward(acc, out, |_, value| T::from_f64(value));
                }
                if !early {
                    keys.add_zero(ring.name, &mut scratch.ciphertext, &mut rng)?;
                }
            }
        }
        Ok(self.blind_and_switch(group, &mut scratch.ciphertext, &mut rng))
    }

    /// Sum of the products over the input blocks, in the Fourier domain, into `scratch.acc`.
    fn add_products<T: Torus>(
        &self,
        group: usize,
        blocks: &[Vec<Complex64>],
        tables: Option<&RotatedTables>,
        scratch: &mut Scratch<T>,
    ) {
        let half = self.shape.ring.size / 2;
        let Scratch {
            acc,
            weight,
            buffer,
            ..
        } = scratch;
        acc.fill(Complex64::default());
        let mut add = |block: usize, weight: &[Complex64]| {
            let columns = acc
                .chunks_exact_mut(half)
                .zip(blocks[block].chunks_exact(half));
            for (acc, input) in columns {
                multiply_add(acc, input, weight);
            }
        };
        let index = group - self.groups.start;
        match (&self.form, tables) {
            (Prepared::Fourier(groups), _) => {
                for (block, weight) in &groups[index] {
                    add(*block, weight);
                }
            }
            (Prepared::Tiles(tiles), Some(tables)) => {
                for tile in tiles.blocks(index) {
                    tiles.polynomial(&self.shape.layout, tile, tables, buffer, weight);
                    add(tile.1, weight);
                }
            }
            // shifts take plain inputs, and tiles come with tables
            (Prepared::Shifts(_) | Prepared::Tiles(_), _) => {}
        }
    }

    /// The same sum for single shifts. Of the body only the coefficients in use are computed.
    fn add_shifts<T: Torus>(&self, group: usize, blocks: &[Vec<T>], ciphertext: &mut [T]) {
        let size = self.shape.ring.size;
        ciphertext.fill(T::from_u64(0));
        let Prepared::Shifts(groups) = &self.form else {
            return;
        };
        let (masks, body) = ciphertext.split_at_mut(size * self.shape.ring.dimension);
        for Shift { block, at, weight } in &groups[group - self.groups.start] {
            let (input, at) = (&blocks[*block as usize], *at as usize);
            let weight = i64::from(*weight);
            for (out, input) in masks.chunks_exact_mut(size).zip(input.chunks_exact(size)) {
                let (wrapped, straight) = out.split_at_mut(at);
                let (low, high) = input.split_at(size - at);
                for (out, value) in straight.iter_mut().zip(low) {
                    *out = out.add(value.scale(weight));
                }
                for (out, value) in wrapped.iter_mut().zip(high) {
                    *out = out.add(value.scale(-weight));
                }
            }
            let input = &input[size * self.shape.ring.dimension..];
            for (_, coefficient) in self.shape.layout.group(group) {
                let (from, weight) = if coefficient >= at {
                    (coefficient - at, weight)
                } else {
                    (size + coefficient - at, -weight)
                };
                body[coefficient] = body[coefficient].add(input[from].scale(weight));
            }
        }
    }

    /// Adds `e1`, `e2`, biases and blinds, and switches to `2^m`; drops the coefficients not in use.
    pub(super) fn blind_and_switch<T: Torus>(
        &self,
        group: usize,
        ciphertext: &mut [T],
        rng: &mut SecretRng,
    ) -> Group<T> {
        let (ring, layout) = (&self.shape.ring, &self.shape.layout);
        let m = u32::from(self.shape.spec.switch_bits);
        let unit = T::BITS - u32::from(self.shape.spec.accumulator_bits);
        let (masks, body) = ciphertext.split_at_mut(ring.size * ring.dimension);
        rng.add_noise(masks, ring.noise_std);
        let mut used: Vec<T> = layout
            .group(group)
            .map(|(output, coefficient)| {
                let bias = (i64::from(self.bias(output)) as u64) << unit;
                body[coefficient].add(T::from_u64(bias))
            })
            .collect();
        rng.add_noise(&mut used, ring.noise_std);
        let mut blinds = vec![T::from_u64(0); used.len()];
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
        let spec = &self.shape.spec;
        let b = u32::from(spec.output_bits);
        let layout = &self.shape.layout;
        let mut reply = Reply::default();
        let mut blinds =
            (!self.shape.is_last).then(|| Blinds::empty(spec.output_bits, layout.outputs()));
        for (group, mut part) in self.groups.clone().zip(groups) {
            reply.masks.append(&mut part.masks);
            reply.bodies.append(&mut part.bodies);
            let tops = part
                .blinds
                .iter()
                .map(|blind| (blind.to_u64() >> (T::BITS - b)) as u32);
            match &mut blinds {
                None => reply.opening.extend(tops),
                Some(blinds) => {
                    for ((output, _), top) in layout.group(group).zip(tops) {
                        blinds.set(output, top as u16);
                    }
                }
            }
            part.blinds.zeroize();
        }
        let reply = wire::encode_reply(&self.shape, self.groups.clone(), &reply);
        Evaluation { reply, blinds }
    }
}
