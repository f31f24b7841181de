//! The layout of the `image32` featuriser. `image32-v1.txt` is data: the pixel (row times 32 plus
//! column) of each of the 1024 features, as `examples/fit_image32.rs` fitted it on the 6,684 molecules
//! of the Tox21 data set NR-AhR (Tox21 Data Challenge 2014, public domain).

use std::sync::LazyLock;

const LAYOUT: &str = include_str!("image32-v1.txt");

static PIXELS: LazyLock<Vec<usize>> = LazyLock::new(|| {
    LAYOUT
        .split_whitespace()
        .filter_map(|text| text.parse().ok())
        .collect()
});

/// Where a feature stands.
pub(crate) fn pixel(feature: usize) -> usize {
    PIXELS.get(feature).copied().unwrap_or(feature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pixel_has_one_feature() {
        let mut seen: Vec<usize> = (0..1024).map(pixel).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..1024).collect::<Vec<_>>());
        assert_eq!(PIXELS.len(), 1024);
    }
}
