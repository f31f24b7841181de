//! Bytes between client and server. Every message is read against the step it belongs to, so its
//! length is known before anything is allocated; a shorter or longer one is refused.
//!
//! Numbers are little endian; packed numbers are laid bit after bit, least significant first, and
//! each section ends at a byte boundary, its last bits zero.
//!
//! | message | bytes |
//! |---|---|
//! | public keys | `CXPK`, version u8 = 1, rings u8, u16 = 0; for each ring, sorted: ring u8, u24 = 0, seed 16 B, k·N body elements of w/8 bytes for each of k rows (k = 1: N elements; k = 3: 3 rows of N) |
//! | step input | `CXIN`, version u8 = 1, ring u8, body bits u8, u8 = 0, ciphertexts u32, seed 16 B, ciphertexts × N bodies, packed |
//! | step reply | `CXRE`, version u8 = 2, ring u8, m u8, B u8 (0 = not the last step), first ciphertext u32, ciphertexts u32; for each ciphertext: k × N mask elements packed at m bits, one body element for each of its outputs packed at m bits, last step: one opening for each of its outputs packed at B bits |
//!
//! A reply of several workers is the concatenation of their parts ([`chemxor_core::join_replies`]).

use chemxor_core::{REPLY_HEAD, RingName, StepSpec, reply_header};

use crate::layout::Layout;
use crate::ring::RingParams;
use crate::rng::Seed;
use crate::torus::Torus;

/// Why bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Wrong magic or version.
    #[error("not a {0} of version 1")]
    Format(&'static str),
    /// Wrong length for the step.
    #[error("{what} has {got} bytes, this step takes {expected}")]
    Length {
        /// Which message.
        what: &'static str,
        /// Length found.
        got: usize,
        /// Length expected.
        expected: usize,
    },
    /// A header field that is not what the step asks for.
    #[error("{what} has a wrong {field}")]
    Field {
        /// Which message.
        what: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// A step of the graph cannot be laid out in its ring.
    #[error("the step's {0} does not fit its ring")]
    Step(&'static str),
    /// The public keys lack a ring of the model, or hold others.
    #[error("the public keys are not for the rings of this model")]
    Rings,
}

/// A step with its ring and layout, checked to fit together.
#[derive(Debug, Clone, PartialEq)]
pub struct StepShape {
    /// From the manifest.
    pub spec: StepSpec,
    /// Parameters of its ring.
    pub ring: RingParams,
    /// Where inputs and outputs sit.
    pub layout: Layout,
    /// Whether its outputs are opened to the client.
    pub is_last: bool,
}

impl StepShape {
    /// Checks what the graph alone cannot: that moduli and tiling fit the ring.
    pub fn new(spec: &StepSpec, is_last: bool) -> Result<Self, WireError> {
        let ring = RingParams::of(spec.ring);
        let layout = Layout::new(spec, ring.size).ok_or(WireError::Step("tiling"))?;
        let bits = |bits: u8| u32::from(bits) <= ring.torus_bits;
        if !bits(spec.body_bits) || !bits(spec.switch_bits) || !bits(spec.accumulator_bits) {
            return Err(WireError::Step("moduli"));
        }
        Ok(Self {
            spec: spec.clone(),
            ring,
            layout,
            is_last,
        })
    }

    /// Bytes of the step's input message.
    pub fn input_bytes(&self) -> usize {
        let values = self.layout.input_count() * self.ring.size;
        INPUT_HEAD + packed_bytes(values, self.spec.body_bits)
    }

    /// Bytes of the step's whole reply.
    pub fn reply_bytes(&self) -> usize {
        self.part_bytes(0..self.layout.output_count())
    }

    /// Bytes of the part of a reply that holds these output ciphertexts.
    pub fn part_bytes(&self, groups: std::ops::Range<usize>) -> usize {
        REPLY_HEAD + groups.map(|group| self.group_bytes(group)).sum::<usize>()
    }

    fn group_bytes(&self, group: usize) -> usize {
        let (m, outputs) = (self.spec.switch_bits, self.layout.group_len(group));
        packed_bytes(self.ring.lwe_dimension(), m)
            + packed_bytes(outputs, m)
            + packed_bytes(outputs, self.released_bits())
    }

    /// B in the last step, else 0.
    fn released_bits(&self) -> u8 {
        if self.is_last {
            self.spec.output_bits
        } else {
            0
        }
    }
}

const VERSION: u8 = 1;
const KEYS_HEAD: usize = 8;
const INPUT_HEAD: usize = 28;
const REPLY_VERSION: u8 = 2;

fn ring_code(ring: RingName) -> u8 {
    match ring {
        RingName::N1024Q32 => 1,
        RingName::N1536Q64 => 2,
        RingName::N2048Q64 => 3,
    }
}

/// Bytes that `count` numbers of `bits` bits take.
pub fn packed_bytes(count: usize, bits: u8) -> usize {
    (count * usize::from(bits)).div_ceil(8)
}

/// Appends numbers of `bits` bits each.
pub fn pack(out: &mut Vec<u8>, values: impl IntoIterator<Item = u64>, bits: u8) {
    let (mut pending, mut held) = (0u128, 0u32);
    for value in values {
        pending |= u128::from(value) << held;
        held += u32::from(bits);
        while held >= 32 {
            out.extend_from_slice(&(pending as u32).to_le_bytes());
            pending >>= 32;
            held -= 32;
        }
    }
    let rest = pending.to_le_bytes();
    out.extend_from_slice(&rest[..held.div_ceil(8) as usize]);
}

/// Reads numbers of `bits` bits each; as many as the bytes hold.
pub fn unpack(bytes: &[u8], bits: u8) -> impl Iterator<Item = u64> + '_ {
    let mask = if bits == 64 {
        u64::MAX
    } else {
        (1 << bits) - 1
    };
    let count = bytes.len() * 8 / usize::from(bits);
    let (mut pending, mut held, mut at) = (0u128, 0u32, 0usize);
    (0..count).map(move |_| {
        while held < u32::from(bits) {
            if let Some(word) = bytes.get(at..at + 4) {
                let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                pending |= u128::from(word) << held;
                held += 32;
                at += 4;
            } else {
                // `count` guarantees that a byte is left here
                pending |= u128::from(bytes.get(at).copied().unwrap_or(0)) << held;
                held += 8;
                at += 1;
            }
        }
        let value = pending as u64 & mask;
        pending >>= bits;
        held -= u32::from(bits);
        value
    })
}

fn padding_is_zero(section: &[u8], count: usize, bits: u8) -> bool {
    let used = count * usize::from(bits) % 8;
    used == 0 || section.last().is_none_or(|last| last >> used == 0)
}

/// The public key of one ring: k rows of k masks expanded from the seed, one body each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeyBytes<'a> {
    /// Which ring.
    pub ring: RingName,
    /// The masks' seed.
    pub seed: Seed,
    /// k·N torus elements, little endian.
    pub bodies: &'a [u8],
}

/// Bytes of a set of public keys.
pub fn encode_public_keys(keys: &[(RingName, Seed, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(b"CXPK");
    // three rings exist
    out.extend_from_slice(&[VERSION, keys.len() as u8, 0, 0]);
    for (ring, seed, bodies) in keys {
        out.extend_from_slice(&[ring_code(*ring), 0, 0, 0]);
        out.extend_from_slice(seed);
        out.extend_from_slice(bodies);
    }
    out
}

/// Bytes of the public keys of these rings.
pub fn public_keys_bytes(rings: &[RingName]) -> usize {
    let ring = |ring: &RingName| {
        let params = RingParams::of(*ring);
        20 + params.lwe_dimension() * params.torus_bits as usize / 8
    };
    KEYS_HEAD + rings.iter().map(ring).sum::<usize>()
}

/// Reads public keys for exactly `rings` (sorted).
pub fn decode_public_keys<'a>(
    bytes: &'a [u8],
    rings: &[RingName],
) -> Result<Vec<PublicKeyBytes<'a>>, WireError> {
    const WHAT: &str = "public key set";
    if bytes.len() < KEYS_HEAD || &bytes[..4] != b"CXPK" || bytes[4] != VERSION {
        return Err(WireError::Format(WHAT));
    }
    if usize::from(bytes[5]) != rings.len() || bytes[6..8] != [0, 0] {
        return Err(WireError::Rings);
    }
    let expected = public_keys_bytes(rings);
    if bytes.len() != expected {
        return Err(WireError::Length {
            what: WHAT,
            got: bytes.len(),
            expected,
        });
    }
    let mut rest = &bytes[KEYS_HEAD..];
    let mut keys = Vec::with_capacity(rings.len());
    for ring in rings {
        let params = RingParams::of(*ring);
        let (head, after) = rest.split_at(20);
        if head[..4] != [ring_code(*ring), 0, 0, 0] {
            return Err(WireError::Rings);
        }
        let (bodies, after) =
            after.split_at(params.lwe_dimension() * params.torus_bits as usize / 8);
        let mut seed = Seed::default();
        seed.copy_from_slice(&head[4..]);
        keys.push(PublicKeyBytes {
            ring: *ring,
            seed,
            bodies,
        });
        rest = after;
    }
    Ok(keys)
}

/// Writes the input of a step: the bodies' top bits, rounded.
pub fn encode_input<T: Torus>(shape: &StepShape, seed: &Seed, bodies: &[T]) -> Vec<u8> {
    let bits = shape.spec.body_bits;
    let mut out = Vec::with_capacity(shape.input_bytes());
    out.extend_from_slice(b"CXIN");
    out.extend_from_slice(&[VERSION, ring_code(shape.ring.name), bits, 0]);
    out.extend_from_slice(&(shape.layout.input_count() as u32).to_le_bytes());
    out.extend_from_slice(seed);
    let top = |body: &T| crate::torus::switch_down(*body, bits.into());
    pack(&mut out, bodies.iter().map(top), bits);
    out
}

/// Reads the input of a step: seed and bodies.
pub fn decode_input<T: Torus>(
    shape: &StepShape,
    bytes: &[u8],
) -> Result<(Seed, Vec<T>), WireError> {
    const WHAT: &str = "step input";
    let field = |field| WireError::Field { what: WHAT, field };
    if bytes.len() < INPUT_HEAD || &bytes[..4] != b"CXIN" || bytes[4] != VERSION {
        return Err(WireError::Format(WHAT));
    }
    let bits = shape.spec.body_bits;
    if bytes[5] != ring_code(shape.ring.name) {
        return Err(field("ring"));
    }
    if bytes[6..8] != [bits, 0] {
        return Err(field("precision"));
    }
    if bytes[8..12] != (shape.layout.input_count() as u32).to_le_bytes() {
        return Err(field("ciphertext count"));
    }
    if bytes.len() != shape.input_bytes() {
        return Err(WireError::Length {
            what: WHAT,
            got: bytes.len(),
            expected: shape.input_bytes(),
        });
    }
    let mut seed = Seed::default();
    seed.copy_from_slice(&bytes[12..28]);
    let section = &bytes[INPUT_HEAD..];
    let count = shape.layout.input_count() * shape.ring.size;
    if !padding_is_zero(section, count, bits) {
        return Err(field("padding"));
    }
    let shift = T::BITS - u32::from(bits);
    let bodies = unpack(section, bits)
        .take(count)
        .map(|top| T::from_u64(top << shift))
        .collect();
    Ok((seed, bodies))
}

/// The sections of a reply or of a part of it, as numbers, in the order of the output ciphertexts
/// and of the outputs in each ([`Layout::group`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// ciphertexts × k × N mask elements modulo 2^m.
    pub masks: Vec<u32>,
    /// One body element modulo 2^m for each output.
    pub bodies: Vec<u32>,
    /// Last step: the top B bits of each blind; else empty.
    pub opening: Vec<u32>,
}

/// Writes the part of a reply that holds the output ciphertexts `groups`.
pub fn encode_reply(shape: &StepShape, groups: std::ops::Range<usize>, reply: &Reply) -> Vec<u8> {
    let (m, released) = (shape.spec.switch_bits, shape.released_bits());
    let mut out = Vec::with_capacity(shape.part_bytes(groups.clone()));
    let ring = ring_code(shape.ring.name);
    let head = [b'C', b'X', b'R', b'E', REPLY_VERSION, ring, m, released];
    out.extend_from_slice(&reply_header(
        head,
        groups.start as u32,
        groups.len() as u32,
    ));
    let (mut bodies, mut opening) = (reply.bodies.as_slice(), reply.opening.as_slice());
    let mut masks = reply.masks.chunks_exact(shape.ring.lwe_dimension());
    for group in groups {
        let (first, rest) = bodies.split_at(shape.layout.group_len(group));
        pack(
            &mut out,
            masks.next().into_iter().flatten().map(|v| u64::from(*v)),
            m,
        );
        pack(&mut out, first.iter().map(|v| u64::from(*v)), m);
        bodies = rest;
        if shape.is_last {
            let (first, rest) = opening.split_at(first.len());
            pack(&mut out, first.iter().map(|v| u64::from(*v)), released);
            opening = rest;
        }
    }
    out
}

/// Reads the reply of a whole step.
pub fn decode_reply(shape: &StepShape, bytes: &[u8]) -> Result<Reply, WireError> {
    const WHAT: &str = "step reply";
    let field = |field| WireError::Field { what: WHAT, field };
    if bytes.len() < REPLY_HEAD || &bytes[..4] != b"CXRE" || bytes[4] != REPLY_VERSION {
        return Err(WireError::Format(WHAT));
    }
    let (m, released) = (shape.spec.switch_bits, shape.released_bits());
    if bytes[5] != ring_code(shape.ring.name) {
        return Err(field("ring"));
    }
    if bytes[6..8] != [m, released] {
        return Err(field("precision"));
    }
    let groups = shape.layout.output_count();
    if bytes[8..12] != [0; 4] || bytes[12..16] != (groups as u32).to_le_bytes() {
        return Err(field("ciphertext count"));
    }
    let expected = shape.reply_bytes();
    if bytes.len() != expected {
        return Err(WireError::Length {
            what: WHAT,
            got: bytes.len(),
            expected,
        });
    }
    let mut rest = &bytes[REPLY_HEAD..];
    let mut section = |out: &mut Vec<u32>, count: usize, bits: u8| {
        let (section, after) = rest.split_at(packed_bytes(count, bits));
        rest = after;
        if !padding_is_zero(section, count, bits) {
            return Err(field("padding"));
        }
        out.extend(unpack(section, bits).take(count).map(|value| value as u32));
        Ok(())
    };
    let n = shape.ring.lwe_dimension();
    let mut reply = Reply {
        masks: Vec::with_capacity(groups * n),
        bodies: Vec::with_capacity(shape.layout.outputs()),
        opening: Vec::new(),
    };
    for group in 0..groups {
        let outputs = shape.layout.group_len(group);
        section(&mut reply.masks, n, m)?;
        section(&mut reply.bodies, outputs, m)?;
        if shape.is_last {
            section(&mut reply.opening, outputs, released)?;
        }
    }
    Ok(reply)
}

#[cfg(test)]
mod tests;
