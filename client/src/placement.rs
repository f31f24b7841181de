//! Which worker serves what of a version: runs of steps, whole replicas, or shares of steps.

use chemxor_core::StepGraph;
use chemxor_fhe::wire::StepShape;
use chemxor_proto::v1;

use crate::ClientError;

/// How the steps of a version are spread over its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spread {
    /// Each worker holds a run of consecutive steps, as even as possible and in order; workers
    /// beyond the number of steps are replicas of the first ones.
    #[default]
    Steps,
    /// Each worker holds every step.
    Replicas,
    /// Each worker computes some output ciphertexts of one step; the gateway joins them.
    Shares,
}

/// Spreads the steps of `graph` over `workers`.
pub fn place(
    graph: &StepGraph,
    workers: &[v1::Worker],
    spread: Spread,
) -> Result<Vec<v1::Placement>, ClientError> {
    let steps = graph.steps().len() as u32;
    let count = workers.len() as u32;
    if count == 0 {
        let reason = "no registered worker serves your organisation (`organisations` in a worker.toml \
                      says whom it serves); start one with `chemxor worker` and try again";
        return Err(ClientError::Placement(reason.to_owned()));
    }
    let whole = |worker: &v1::Worker, first_step: u32, end_step: u32| v1::Placement {
        worker: worker.name.clone(),
        first_step,
        end_step,
        first_group: 0,
        end_group: 0,
    };
    match spread {
        Spread::Replicas => Ok(workers.iter().map(|w| whole(w, 0, steps)).collect()),
        Spread::Steps => {
            let parts = count.min(steps);
            let place = |(index, worker): (u32, &v1::Worker)| {
                let part = index % parts;
                whole(worker, part * steps / parts, (part + 1) * steps / parts)
            };
            Ok((0..).zip(workers).map(place).collect())
        }
        Spread::Shares => {
            if count < steps {
                return Err(ClientError::Placement(format!(
                    "the model has {steps} steps, so sharing them takes at least {steps} workers; {count} are given: start more, or spread by steps"
                )));
            }
            let mut placements = Vec::new();
            for (step, spec) in (0..).zip(graph.steps()) {
                let shape = StepShape::new(spec, step + 1 == steps)
                    .map_err(|error| ClientError::Placement(format!("step {step}: {error}")))?;
                let groups = shape.layout.output_count() as u32;
                let sharing: Vec<&v1::Worker> = workers
                    .iter()
                    .skip(step as usize)
                    .step_by(steps as usize)
                    .collect();
                // workers beyond the number of output ciphertexts are replicas of the first shares
                let parts = (sharing.len() as u32).min(groups);
                for (index, worker) in (0..).zip(sharing) {
                    let part: u32 = index % parts;
                    let mut place = whole(worker, step, step + 1);
                    if parts > 1 {
                        place.first_group = part * groups / parts;
                        place.end_group = (part + 1) * groups / parts;
                    }
                    placements.push(place);
                }
            }
            Ok(placements)
        }
    }
}

#[cfg(test)]
mod tests {
    use chemxor_core::{RingName, StepKind, StepSpec};

    use super::*;

    fn graph(steps: u32) -> StepGraph {
        let step = |index: u32| StepSpec {
            geometry: Default::default(),
            expansion: Default::default(),
            kind: match index {
                0 => StepKind::Static,
                _ => StepKind::Lookup,
            },
            inputs: 64,
            outputs: if index + 1 == steps { 1 } else { 64 },
            input_bits: 4,
            accumulator_bits: 12,
            output_bits: if index + 1 == steps { 8 } else { 4 },
            ring: RingName::N1024Q32,
            inputs_per_polynomial: 64,
            body_bits: 24,
            switch_bits: 12,
        };
        StepGraph::new((0..steps).map(step).collect()).unwrap()
    }

    fn workers(count: usize) -> Vec<v1::Worker> {
        let worker = |i: usize| v1::Worker {
            name: format!("w{i}"),
            ..Default::default()
        };
        (0..count).map(worker).collect()
    }

    #[test]
    fn every_step_is_served_and_every_worker_used_once() {
        for (steps, count) in (1..6).flat_map(|s| (1..9usize).map(move |c| (s, c))) {
            for spread in [Spread::Steps, Spread::Replicas, Spread::Shares] {
                let graph = graph(steps);
                let placed = place(&graph, &workers(count), spread);
                let Ok(placed) = placed else {
                    assert!(spread == Spread::Shares && (count as u32) < steps);
                    continue;
                };
                assert_eq!(placed.len(), count);
                for step in 0..steps {
                    let mut shares: Vec<(u32, u32)> = placed
                        .iter()
                        .filter(|p| (p.first_step..p.end_step).contains(&step))
                        .map(|p| (p.first_group, p.end_group))
                        .collect();
                    shares.sort_unstable();
                    shares.dedup();
                    if shares != [(0, 0)] {
                        let spec = &graph.steps()[step as usize];
                        let shape = StepShape::new(spec, step + 1 == steps).unwrap();
                        let mut next = 0;
                        for (first, end) in shares {
                            assert!(first == next && end > first);
                            next = end;
                        }
                        assert_eq!(next as usize, shape.layout.output_count());
                    }
                }
            }
        }
        assert!(place(&graph(1), &[], Spread::Steps).is_err());
    }
}
