//! What the reply of a step must look like, from the public graph alone: header, numbers of the
//! output ciphertexts, exact length (docs/wire.md). What a ciphertext holds stays opaque here: the gateway
//! checks with it, and knows nothing of the cryptography.

use std::ops::Range;

use crate::{Conv2d, Geometry, REPLY_HEAD, RingName, StepGraph, StepKind, StepSpec, reply_groups};

/// Things laid out so many to a group; the last group may hold fewer.
#[derive(Debug, Clone, Copy)]
struct Span {
    count: usize,
    each: usize,
}

impl Span {
    fn new(count: usize, each: usize) -> Self {
        let each = each.max(1);
        Self { count, each }
    }

    fn groups(self) -> usize {
        self.count.div_ceil(self.each)
    }

    fn len(self, group: usize) -> usize {
        self.each.min(self.count.saturating_sub(group * self.each))
    }
}

/// The reply of one step.
#[derive(Debug, Clone)]
pub struct ReplyShape {
    /// Bytes of the mask of one output ciphertext.
    mask: usize,
    switch_bits: u8,
    /// B in the last step, else 0.
    released_bits: u8,
    /// A group holds a run of these and, of each, a run of the next; inner runs go first.
    outer: Span,
    inner: Span,
    /// Outputs that each pair of them stands for.
    outputs: usize,
}

fn packed(count: usize, bits: u8) -> usize {
    (count * usize::from(bits)).div_ceil(8)
}

impl ReplyShape {
    /// One for each step.
    pub fn all(graph: &StepGraph) -> Vec<Self> {
        let steps = graph.steps();
        let of = |(index, spec)| Self::new(spec, index + 1 == steps.len());
        steps.iter().enumerate().map(of).collect()
    }

    fn new(spec: &StepSpec, is_last: bool) -> Self {
        // coefficients of a polynomial, and of a mask
        let (size, mask) = match spec.ring {
            RingName::N1024Q32 => (1024, 1024),
            RingName::N1536Q64 => (512, 1536),
            RingName::N2048Q64 => (2048, 2048),
        };
        let per_input = (spec.inputs_per_polynomial as usize).max(1);
        let slots = size / per_input;
        let windows = |conv: &Conv2d| (conv.out_height() * conv.out_width()) as usize;
        let one = Span::new(1, 1);
        let (outer, inner, outputs) = match (&spec.geometry, spec.kind) {
            (Geometry::Dense, _) => (one, Span::new(spec.outputs as usize, slots), 1),
            (Geometry::Conv2d(conv), StepKind::Lookup) => (
                Span::new(windows(conv), 1),
                Span::new(conv.filters as usize, slots),
                1,
            ),
            (Geometry::Conv2d(conv), StepKind::Static)
                if conv.stride == conv.kernel && conv.padding == 0 =>
            {
                let taps = conv.taps().max(1);
                let patches = (per_input / taps).max(1);
                (
                    Span::new(windows(conv), patches),
                    Span::new(conv.filters as usize, size / patches / taps),
                    1,
                )
            }
            (Geometry::Conv2d(conv), StepKind::Static) => {
                (one, Span::new(conv.filters as usize, slots), windows(conv))
            }
        };
        Self {
            mask: packed(mask, spec.switch_bits),
            switch_bits: spec.switch_bits,
            released_bits: if is_last { spec.output_bits } else { 0 },
            outer,
            inner,
            outputs,
        }
    }

    /// Output ciphertexts of the whole step.
    pub fn groups(&self) -> usize {
        self.outer.groups() * self.inner.groups()
    }

    /// Bytes of the part that holds these output ciphertexts.
    fn part_bytes(&self, groups: Range<usize>) -> usize {
        let inner = self.inner.groups().max(1);
        let group = |group: usize| {
            let runs = self.outer.len(group / inner) * self.inner.len(group % inner);
            let outputs = runs * self.outputs;
            self.mask + packed(outputs, self.switch_bits) + packed(outputs, self.released_bits)
        };
        REPLY_HEAD + groups.map(group).sum::<usize>()
    }

    /// Bytes of the reply of the whole step.
    pub fn bytes(&self) -> usize {
        self.part_bytes(0..self.groups())
    }

    /// Whether `reply` is that of the whole step, or of the share of these output ciphertexts; what
    /// is wrong with it otherwise.
    pub fn check(&self, reply: &[u8], share: Option<&Range<u32>>) -> Result<(), &'static str> {
        let Some(groups) = reply_groups(reply) else {
            return Err("the worker answered something else than a reply");
        };
        if reply[6..8] != [self.switch_bits, self.released_bits] {
            return Err("the worker answered in another precision");
        }
        let all = 0..self.groups() as u32;
        if groups != *share.unwrap_or(&all) || groups.end > all.end {
            return Err("the worker answered another share");
        }
        if reply.len() != self.part_bytes(groups.start as usize..groups.end as usize) {
            return Err("the worker's reply is too short or too long");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Expansion, reply_header};

    fn spec(outputs: u32) -> StepSpec {
        StepSpec {
            kind: StepKind::Lookup,
            geometry: Geometry::Dense,
            expansion: Expansion::None,
            inputs: 8,
            outputs,
            input_bits: 4,
            accumulator_bits: 12,
            output_bits: 8,
            ring: RingName::N1024Q32,
            inputs_per_polynomial: 64,
            body_bits: 24,
            switch_bits: 13,
        }
    }

    fn reply(first: u32, count: u32, bytes: usize) -> Vec<u8> {
        let mut reply = reply_header(*b"CXRE\x02\x01\x0d\x08", first, count).to_vec();
        reply.resize(bytes, 7);
        reply
    }

    #[test]
    fn only_the_exact_reply_of_a_whole_step_passes() {
        // 16 outputs in a ciphertext: two full ones and one of five
        let shape = ReplyShape::new(&spec(37), true);
        let full = 1664 + 26 + 16;
        let bytes = 16 + 2 * full + 1664 + 9 + 5;
        assert_eq!(shape.bytes(), bytes);
        assert_eq!(shape.check(&reply(0, 3, bytes), None), Ok(()));
        for wrong in [
            reply(0, 3, bytes - 1),
            reply(0, 3, bytes + 1),
            reply(0, 2, bytes),
            reply(1, 2, bytes),
            reply(0, 4, bytes),
            vec![7; bytes],
            Vec::new(),
        ] {
            assert!(shape.check(&wrong, None).is_err());
        }
        let mut precision = reply(0, 3, bytes);
        precision[7] = 0;
        assert!(shape.check(&precision, None).is_err());
        assert_eq!(
            shape.check(&reply(0, 2, 16 + 2 * full), Some(&(0..2))),
            Ok(())
        );
        assert!(
            shape
                .check(&reply(0, 2, 16 + 2 * full), Some(&(0..3)))
                .is_err()
        );
        assert!(shape.check(&reply(3, 2, bytes), Some(&(3..5))).is_err());
    }

    #[test]
    fn convolutions_are_laid_out_as_windows_patches_or_images() {
        let conv = Conv2d {
            channels: 1,
            height: 32,
            width: 32,
            filters: 32,
            kernel: 3,
            stride: 3,
            padding: 0,
        };
        let shaped = |conv: Conv2d, kind, per_input| {
            ReplyShape::new(
                &StepSpec {
                    kind,
                    geometry: Geometry::Conv2d(conv),
                    inputs: conv.inputs() as u32,
                    inputs_per_polynomial: per_input,
                    ..spec(conv.outputs() as u32)
                },
                false,
            )
        };
        // ten patches of nine taps: 1024 / 10 / 9 filters each
        let patches = shaped(conv, StepKind::Static, 90);
        assert_eq!(patches.groups(), 10 * 32usize.div_ceil(11));
        let image = shaped(Conv2d { stride: 1, ..conv }, StepKind::Static, 1024);
        assert_eq!(image.groups(), 32);
        assert_eq!(
            image.bytes(),
            16 + 32 * (1664 + (900 * 13usize).div_ceil(8))
        );
        let windows = shaped(conv, StepKind::Lookup, 64);
        assert_eq!(windows.groups(), 100 * 2);
        assert_eq!(windows.bytes(), 16 + 200 * (1664 + 26));
    }
}
