//! Nothing of a version's weights stays in the memory of the process once it is unloaded.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use chemxor_fhe::fft::Negacyclic;
use chemxor_fhe::torus::fourier_zero;
use chemxor_fhe::wire::StepShape;

use super::model::Model;
use super::platform::{Options, PATIENCE, Platform};

/// Bytes of memory that are read together.
const CHUNK: usize = 1 << 20;

/// A piece of the first weight polynomial in the form in which a worker keeps it, all its bits inverted:
/// this test must not hold what it looks for.
fn inverted_piece(model: &Model) -> Vec<u64> {
    let spec = &model.manifest.graph.steps()[0];
    let shape = StepShape::new(spec, false).unwrap();
    let layout = &shape.layout;
    let mut polynomial = vec![0.0; layout.size()];
    for (output, at) in layout.group(0) {
        model.weights[0].visit_row(output, |input, weight| {
            if let Some((0, from)) = layout.input_place(input) {
                polynomial[at - from] = f64::from(weight);
            }
        });
    }
    let mut transformed = fourier_zero(layout.size());
    Negacyclic::of(layout.size()).forward_slice(&mut transformed, &polynomial);
    let numbers = transformed[64..72].iter();
    let numbers = numbers.flat_map(|number| [number.re, number.im]);
    let inverted = numbers.map(|number| !number.to_bits()).collect();
    transformed.fill(Default::default());
    black_box(&transformed);
    inverted
}

/// Whether the memory of this process holds the inverse of these words anywhere.
fn is_in_memory(inverted: &[u64]) -> bool {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    // chunks overlap, so that no piece is cut
    let mut buffer = vec![0; CHUNK + 8 * inverted.len()];
    let mut found = false;
    for map in maps.lines().filter(|map| map.contains(" rw")) {
        let range = map.split_once(' ').unwrap().0;
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        for at in (start..end).step_by(CHUNK) {
            let length = buffer.len().min((end - at) as usize);
            let chunk = &mut buffer[..length];
            // what was mapped may have been given back since
            if memory.read_exact_at(chunk, at).is_ok() {
                found |= holds(chunk, inverted);
            }
        }
    }
    buffer.fill(0);
    black_box(&buffer);
    found
}

fn holds(bytes: &[u8], inverted: &[u64]) -> bool {
    let (words, _) = bytes.as_chunks::<8>();
    let is = |(word, inverted): (&[u8; 8], &u64)| !u64::from_ne_bytes(*word) == *inverted;
    let mut places = words.windows(inverted.len());
    places.any(|words| words.iter().zip(inverted).all(is))
}

#[tokio::test]
async fn weights_of_a_version_that_is_unloaded_are_nowhere_in_memory() {
    let model = Model::new("a", 1024, 80, 0b1111_0110);
    let piece = inverted_piece(&model);
    assert!(!is_in_memory(&piece), "the test itself holds them");
    let platform = Platform::serving(Options::default(), &[&model]).await;
    platform.open(&model).await.ask(&model, 1).await;
    assert!(is_in_memory(&piece), "they are found while in use");
    platform.registry.withdraw(&model);
    let wiped = async {
        while is_in_memory(&piece) {
            tokio::task::yield_now().await;
        }
    };
    let wiped = tokio::time::timeout(PATIENCE, wiped).await;
    wiped.expect("they are wiped");
}
