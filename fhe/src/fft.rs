//! Negacyclic products modulo `X^N + 1` in double precision, on tfhe's unordered FFT.
//!
//! A real polynomial of N coefficients is folded to N/2 complex numbers `lo[i] + i hi[i]`
//! (`X^(N/2) = i`), twisted by the 2N-th roots of unity and transformed. Products are elementwise.
//! Results are exact when every coefficient stays well below `2^51` (see `torus.rs`).

use std::cell::RefCell;
use std::sync::OnceLock;

use dyn_stack::{PodBuffer, PodStack};
use num_complex::Complex64;
use tfhe_fft::ordered::FftAlgo;
use tfhe_fft::unordered::{Method, Plan};

use crate::torus::Torus;

/// Transform for polynomials of one size.
pub struct Negacyclic {
    plan: Plan,
    twist: Vec<Complex64>,
    untwist: Vec<Complex64>,
}

thread_local! {
    /// Scratch of the FFT, one for each thread; grows to the largest transform used.
    static SCRATCH: RefCell<Option<PodBuffer>> = const { RefCell::new(None) };
}

impl Negacyclic {
    /// The transform for `size` coefficients (512, 1024 or 2048), made once for the process.
    ///
    /// # Panics
    /// For any other size, which no [`crate::ring::RingParams`] has.
    pub fn of(size: usize) -> &'static Self {
        static PLANS: [OnceLock<Negacyclic>; 3] =
            [OnceLock::new(), OnceLock::new(), OnceLock::new()];
        assert!(
            matches!(size, 512 | 1024 | 2048),
            "no ring has {size} coefficients"
        );
        let index = size.trailing_zeros() as usize - 9;
        PLANS[index].get_or_init(|| Self::new(size))
    }

    fn new(size: usize) -> Self {
        let half = size / 2;
        // what measuring finds on AVX-512 machines, within a few per cent elsewhere; measuring costs
        // each process 40 to 75 ms a size at its first query
        let method = Method::UserProvided {
            base_algo: FftAlgo::Dif8,
            base_n: half.min(512),
        };
        let plan = Plan::new(half, method);
        let root =
            |i: usize| Complex64::from_polar(1.0, std::f64::consts::PI * i as f64 / size as f64);
        let twist: Vec<_> = (0..half).map(root).collect();
        let untwist = twist.iter().map(|w| w.conj() / half as f64).collect();
        Self {
            plan,
            twist,
            untwist,
        }
    }

    /// N.
    pub fn size(&self) -> usize {
        2 * self.twist.len()
    }

    /// Transforms the polynomial whose coefficient i is `coefficient(i)` into `out` (N/2 values).
    #[inline]
    pub fn forward(&self, out: &mut [Complex64], coefficient: impl Fn(usize) -> f64) {
        let half = self.twist.len();
        debug_assert_eq!(out.len(), half);
        for (i, (out, w)) in out.iter_mut().zip(&self.twist).enumerate() {
            *out = Complex64::new(coefficient(i), coefficient(i + half)) * w;
        }
        self.with_stack(|plan, stack| plan.fwd(out, stack));
    }

    /// Transforms `low[i] + i high[i]` given as the two halves of a slice of N doubles.
    pub fn forward_slice(&self, out: &mut [Complex64], coefficients: &[f64]) {
        let (low, high) = coefficients.split_at(self.twist.len());
        pulp::Arch::new().dispatch(|| {
            for (((out, w), low), high) in out.iter_mut().zip(&self.twist).zip(low).zip(high) {
                *out = Complex64::new(low * w.re - high * w.im, low * w.im + high * w.re);
            }
        });
        self.with_stack(|plan, stack| plan.fwd(out, stack));
    }

    /// Transforms torus elements, read as signed integers.
    pub fn forward_torus<T: Torus>(&self, out: &mut [Complex64], values: &[T]) {
        self.forward_limb_with(out, values, |value| value.to_f64());
    }

    /// Transforms limb `index` of torus elements.
    pub fn forward_limb<T: Torus>(&self, out: &mut [Complex64], values: &[T], index: usize) {
        self.forward_limb_with(out, values, |value| value.limb(index));
    }

    #[inline(always)]
    fn forward_limb_with<T: Torus>(
        &self,
        out: &mut [Complex64],
        values: &[T],
        convert: impl Fn(T) -> f64,
    ) {
        let (low, high) = values.split_at(self.twist.len());
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (((out, w), low), high) in out.iter_mut().zip(&self.twist).zip(low).zip(high) {
                    let (low, high) = (convert(*low), convert(*high));
                    *out = Complex64::new(low * w.re - high * w.im, low * w.im + high * w.re);
                }
            },
        );
        self.with_stack(|plan, stack| plan.fwd(out, stack));
    }

    /// Inverse transform in place, then `sink[i] = merge(sink[i], coefficient i)`.
    #[inline]
    pub fn backward<T: Torus>(
        &self,
        values: &mut [Complex64],
        sink: &mut [T],
        merge: impl Fn(T, f64) -> T,
    ) {
        self.with_stack(|plan, stack| plan.inv(values, stack));
        let (low, high) = sink.split_at_mut(self.twist.len());
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (((value, w), low), high) in values.iter().zip(&self.untwist).zip(low).zip(high)
                {
                    let re = value.re * w.re - value.im * w.im;
                    let im = value.re * w.im + value.im * w.re;
                    *low = merge(*low, re);
                    *high = merge(*high, im);
                }
            },
        );
    }

    fn with_stack<R>(&self, work: impl FnOnce(&Plan, &mut PodStack) -> R) -> R {
        let need = self.plan.fft_scratch();
        SCRATCH.with_borrow_mut(|slot| {
            let fits = slot
                .as_mut()
                .is_some_and(|buffer| PodStack::new(buffer).can_hold(need));
            if !fits {
                *slot = None;
            }
            let buffer = slot.get_or_insert_with(|| PodBuffer::new(need));
            work(&self.plan, PodStack::new(buffer))
        })
    }
}

/// `acc += a * b`, elementwise.
#[inline]
pub fn multiply_add(acc: &mut [Complex64], a: &[Complex64], b: &[Complex64]) {
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for ((acc, a), b) in acc.iter_mut().zip(a).zip(b) {
                acc.re += a.re * b.re - a.im * b.im;
                acc.im += a.re * b.im + a.im * b.re;
            }
        },
    );
}

/// `sink += mask * binary` modulo `X^N + 1` and `2^w`, exactly, for a polynomial `binary` of zeros
/// and ones given in the Fourier domain. `scratch` holds N/2 values.
pub fn add_binary_product<T: Torus>(
    sink: &mut [T],
    mask: &[T],
    binary: &[Complex64],
    scratch: &mut [Complex64],
) {
    let fft = Negacyclic::of(mask.len());
    for limb in 0..T::LIMBS {
        fft.forward_limb(scratch, mask, limb);
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (a, b) in scratch.iter_mut().zip(binary) {
                    *a = Complex64::new(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re);
                }
            },
        );
        fft.backward(scratch, sink, |old, value| {
            old.add(T::from_limb(value, limb))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torus::fourier_zero;
    use rand::{Rng, SeedableRng, rngs::ChaCha20Rng};

    fn schoolbook<T: Torus>(a: &[T], binary: &[bool]) -> Vec<T> {
        let n = a.len();
        let mut out = vec![T::from_u64(0); n];
        for (j, _) in binary.iter().enumerate().filter(|(_, bit)| **bit) {
            for (i, a) in a.iter().enumerate() {
                let k = i + j;
                out[k % n] = if k < n {
                    out[k].add(*a)
                } else {
                    out[k - n].sub(*a)
                };
            }
        }
        out
    }

    fn check<T: Torus>(size: usize, seed: u64) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let a: Vec<T> = (0..size).map(|_| T::from_u64(rng.next_u64())).collect();
        let binary: Vec<bool> = (0..size).map(|_| rng.next_u32() & 1 == 1).collect();
        let mut fourier = fourier_zero(size);
        Negacyclic::of(size).forward(&mut fourier, |i| f64::from(u8::from(binary[i])));
        let mut out = vec![T::from_u64(0); size];
        add_binary_product(&mut out, &a, &fourier, &mut fourier_zero(size));
        assert_eq!(out, schoolbook(&a, &binary));
    }

    #[test]
    fn products_with_binary_polynomials_are_exact() {
        for seed in 0..5 {
            check::<u32>(1024, seed);
            check::<u64>(512, seed);
            check::<u64>(2048, seed);
        }
    }
}
