//! Average pooling as part of the layer after it: no step of its own.

use chemxor_core::Conv2d;

use super::FloatMap;

/// Average pooling of `pool × pool` (stride `pool`) before a layer, folded into its weights: a dense
/// layer on `channels × height × width` pixels before pooling, or a convolution with a larger
/// kernel and stride. Rows and columns that fill no pool are left out, as PyTorch does.
pub fn fold_average_pool(
    map: &FloatMap,
    channels: u32,
    height: u32,
    width: u32,
    pool: u32,
) -> FloatMap {
    let share = 1.0 / f64::from(pool * pool);
    let [c, h, w, p] = [channels, height, width, pool].map(|n| n as usize);
    let (ph, pw) = (h / p, w / p);
    match map {
        FloatMap::Dense(weights) => {
            let row = |row: &[f64]| -> Vec<f64> {
                let pixel = |i: usize| {
                    let (channel, y, x) = (i / (h * w), i / w % h, i % w);
                    let inside = y / p < ph && x / p < pw;
                    if inside {
                        row[(channel * ph + y / p) * pw + x / p] * share
                    } else {
                        0.0
                    }
                };
                (0..c * h * w).map(pixel).collect()
            };
            FloatMap::Dense(weights.chunks_exact(c * ph * pw).flat_map(row).collect())
        }
        FloatMap::Conv2d(conv, weights) => {
            let kernel = (conv.kernel * pool) as usize;
            let folded = Conv2d {
                height,
                width,
                kernel: conv.kernel * pool,
                stride: conv.stride * pool,
                padding: conv.padding * pool,
                ..*conv
            };
            let old = conv.kernel as usize;
            let plane = |plane: &[f64]| -> Vec<f64> {
                let tap = |i: usize| plane[i / kernel / p * old + i % kernel / p] * share;
                (0..kernel * kernel).map(tap).collect()
            };
            FloatMap::Conv2d(
                folded,
                weights.chunks_exact(old * old).flat_map(plane).collect(),
            )
        }
    }
}
