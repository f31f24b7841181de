//! Operators on images: reshaping, convolution, average pooling.

use chemxor_core::Conv2d;
use chemxor_fhe::network::float::FloatMap;

use super::build::Builder;
use super::proto::Node;
use super::{Constant, MOST_NUMBERS, OnnxError, attribute, refuse};

impl Builder {
    pub(super) fn reshape(&mut self, node: &Node, shape: &Constant) -> Result<(), OnnxError> {
        let dims: Vec<i64> = shape.values.iter().map(|v| *v as i64).collect();
        let size = self.size as i64;
        match dims[..] {
            [_, n] if n == -1 || n == size => self.image = None,
            [n] if n == -1 && size == 1 => self.image = None,
            [_, c, h, w]
                if c > 0 && h > 0 && w > 0 && c.saturating_mul(h).saturating_mul(w) == size =>
            {
                self.image = Some([c as usize, h as usize, w as usize]);
            }
            _ => {
                return Err(refuse(
                    node,
                    "only [batch, numbers] and [batch, channels, height, width] are supported shapes; use one of them",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn convolve(
        &mut self,
        node: &Node,
        filters: &Constant,
        biases: Option<&Constant>,
    ) -> Result<(), OnnxError> {
        let Some(image) = self.image else {
            return Err(refuse(
                node,
                "it takes no image; put a Reshape to [batch, channels, height, width] before it",
            ));
        };
        let [count, channels, kernel, width] = filters.dims[..] else {
            return Err(refuse(
                node,
                "only convolutions in two dimensions are supported; export such ones",
            ));
        };
        let stride = same(node, "strides", 1)?;
        let padding = same(node, "pads", 0)?;
        let group = attribute(node, "group").map_or(1, |a| a.int);
        if kernel != width
            || channels != image[0]
            || group != 1
            || same(node, "dilations", 1)? != 1
            || automatic(node)
        {
            return Err(refuse(
                node,
                "groups, dilation, automatic padding and kernels that are not square are not supported; retrain without them",
            ));
        }
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let conv = Conv2d {
            channels: narrow(image[0]),
            height: narrow(image[1]),
            width: narrow(image[2]),
            filters: narrow(count),
            kernel: narrow(kernel),
            stride: narrow(stride),
            padding: narrow(padding),
        };
        if !conv.is_sound() || conv.outputs() > MOST_NUMBERS as u64 {
            return Err(refuse(
                node,
                "its sizes do not fit the image; export the model again",
            ));
        }
        let mut map = filters.values.clone();
        let mut sums = match biases {
            Some(c) if c.values.len() == count => c.values.clone(),
            None => vec![0.0; count],
            Some(_) => {
                return Err(refuse(
                    node,
                    "it has not one bias for each filter; export the model again",
                ));
            }
        };
        if let Some((scale, shift)) = self.affine.take() {
            let plane = image[1] * image[2];
            let shared = |v: &[f64]| {
                v.chunks(plane)
                    .all(|part| part.iter().all(|x| *x == part[0]))
            };
            if !(shared(&scale) && shared(&shift))
                || (padding > 0 && shift.iter().any(|t| *t != 0.0))
            {
                return Err(refuse(
                    node,
                    "the shift before it cannot be folded through padding or differs within a channel; normalise after the convolution",
                ));
            }
            for (at, weight) in map.iter_mut().enumerate() {
                let channel = at / (kernel * kernel) % channels;
                sums[at / (kernel * kernel * channels)] += *weight * shift[channel * plane];
                *weight *= scale[channel * plane];
            }
        }
        let side = [count, conv.out_height() as usize, conv.out_width() as usize];
        self.push(FloatMap::Conv2d(conv, map), sums);
        self.size = side.iter().product();
        self.image = Some(side);
        Ok(())
    }

    pub(super) fn average(&mut self, node: &Node) -> Result<(), OnnxError> {
        let Some(image) = self.image else {
            return Err(refuse(node, "it takes no image; put a Reshape before it"));
        };
        let pool = same(node, "kernel_shape", 0)?;
        let fits = pool > 0 && pool <= image[1].min(image[2]);
        let plain =
            same(node, "strides", 1)? == pool && same(node, "pads", 0)? == 0 && !automatic(node);
        let round_up = attribute(node, "ceil_mode").is_some_and(|a| a.int != 0);
        if !fits || !plain || round_up || self.pool.is_some() || self.affine.is_some() || self.open
        {
            return Err(refuse(
                node,
                "only square pools without padding, whose stride is their size, right after an activation are supported; retrain with such",
            ));
        }
        self.pool = Some((image, pool));
        let pooled = [image[0], image[1] / pool, image[2] / pool];
        self.image = Some(pooled);
        self.size = pooled.iter().product();
        Ok(())
    }
}

/// The one value of an attribute that lists it for each direction.
fn same(node: &Node, name: &str, default: usize) -> Result<usize, OnnxError> {
    let Some(found) = attribute(node, name) else {
        return Ok(default);
    };
    let first = found.ints.first().copied().unwrap_or(default as i64);
    if found.ints.iter().any(|v| *v != first) || !(0..=1 << 10).contains(&first) {
        return Err(refuse(
            node,
            &format!(
                "{name} differ between the directions or are out of range; retrain with equal ones"
            ),
        ));
    }
    Ok(first as usize)
}

fn automatic(node: &Node) -> bool {
    attribute(node, "auto_pad").is_some_and(|a| !matches!(&a.string[..], b"NOTSET" | b""))
}
