//! The likelihood-ratio attack and how well it does.

use super::{Attack, Operating, Proportion, Target};
use crate::metrics::{Bootstrap, cumulative, roc_auc};

/// Observations of a molecule from which its own spread is estimated; with fewer the spread is that
/// of all molecules (Carlini et al. 2022, section VI).
const OWN_SPREAD: usize = 32;
/// Most points of a curve.
const MOST_POINTS: usize = 300;
/// Draws for the interval of an area.
const DRAWS: usize = 200;
/// Operating points.
const RATES: [f64; 3] = [0.0, 1e-3, 1e-2];

/// One model: which rows it learned, and how well it predicts each.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) learned: Vec<bool>,
    /// `[rows][outputs]`, NaN where nothing was measured.
    pub(super) confidence: Vec<Vec<f64>>,
}

/// A row, whether it was learned, and the score of the attack.
type Pair = (usize, bool, f64);

/// The scores of one variant.
pub(super) struct Attacked {
    pub(super) variant: &'static str,
    pub(super) pairs: Vec<Pair>,
}

/// The published model against all shadows.
pub(super) fn on_target(target: &Observed, shadows: &[Observed]) -> Vec<Attacked> {
    let all: Vec<&Observed> = shadows.iter().collect();
    let [offline, online] = scores(target, &all);
    vec![
        Attacked {
            variant: "offline",
            pairs: offline,
        },
        Attacked {
            variant: "online",
            pairs: online,
        },
    ]
}

/// Each shadow against those outside its own pair, so that every row was learned by half of them
/// whichever side it is on.
pub(super) fn on_procedure(shadows: &[Observed]) -> Vec<Attacked> {
    let (mut offline, mut online) = (Vec::new(), Vec::new());
    for (number, target) in shadows.iter().enumerate() {
        let others: Vec<&Observed> = shadows
            .iter()
            .enumerate()
            .filter(|(other, _)| other / 2 != number / 2)
            .map(|(_, other)| other)
            .collect();
        let [off, on] = scores(target, &others);
        offline.extend(off);
        online.extend(on);
    }
    vec![
        Attacked {
            variant: "offline",
            pairs: offline,
        },
        Attacked {
            variant: "online",
            pairs: online,
        },
    ]
}

/// Count, mean and sum of squared deviations.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut moments = Self::default();
        for value in values.filter(|value| value.is_finite()) {
            moments.count += 1.0;
            let from = value - moments.mean;
            moments.mean += from / moments.count;
            moments.squares += from * (value - moments.mean);
        }
        moments
    }

    /// Standard deviation: its own, or the common one where there are few observations.
    fn spread(&self, common: f64) -> f64 {
        if self.count >= OWN_SPREAD as f64 {
            (self.squares / (self.count - 1.0)).sqrt().max(1e-9)
        } else {
            common
        }
    }
}

/// Of the offline and of the online attack.
fn scores(target: &Observed, shadows: &[&Observed]) -> [Vec<Pair>; 2] {
    let outputs = target.confidence.first().map_or(0, Vec::len);
    let rows = target.learned.len();
    let mut offline = vec![0.0; rows];
    let mut online = vec![0.0; rows];
    let mut measured = vec![false; rows];
    for output in 0..outputs {
        let side = |row: usize, learned: bool| {
            let models = shadows.iter().filter(|model| model.learned[row] == learned);
            Moments::of(models.map(|model| model.confidence[row][output]))
        };
        let out: Vec<Moments> = (0..rows).map(|row| side(row, false)).collect();
        let own: Vec<Moments> = (0..rows).map(|row| side(row, true)).collect();
        let common = |sides: &[Moments]| {
            let squares: f64 = sides.iter().map(|side| side.squares).sum();
            let freedom: f64 = sides.iter().map(|side| (side.count - 1.0).max(0.0)).sum();
            (squares / freedom.max(1.0)).sqrt().max(1e-9)
        };
        let (common_out, common_own) = (common(&out), common(&own));
        for row in 0..rows {
            let value = target.confidence[row][output];
            if !value.is_finite() || out[row].count == 0.0 || own[row].count == 0.0 {
                continue;
            }
            measured[row] = true;
            let (spread_out, spread_own) =
                (out[row].spread(common_out), own[row].spread(common_own));
            let from_out = (value - out[row].mean) / spread_out;
            let from_own = (value - own[row].mean) / spread_own;
            offline[row] += from_out;
            online[row] +=
                (from_out.powi(2) - from_own.powi(2)) / 2.0 + (spread_out / spread_own).ln();
        }
    }
    let pairs = |scores: Vec<f64>| -> Vec<Pair> {
        let all = scores.into_iter().enumerate();
        all.filter(|(row, _)| measured[*row])
            .map(|(row, score)| (row, target.learned[row], score))
            .collect()
    };
    [pairs(offline), pairs(online)]
}

/// Figures of an attack on the rows of a group; none where a side is empty.
pub(super) fn judge(
    target: Target,
    group: &str,
    variant: &str,
    pairs: &[Pair],
    rows: &[bool],
    seed: u64,
) -> Option<Attack> {
    let pairs: Vec<(bool, f64)> = pairs
        .iter()
        .filter(|(row, ..)| rows[*row])
        .map(|(_, member, score)| (*member, *score))
        .collect();
    let members = pairs.iter().filter(|(member, _)| *member).count();
    let others = pairs.len() - members;
    if members == 0 || others == 0 {
        return None;
    }
    let counts = cumulative(pairs.iter().copied());
    let points = RATES
        .iter()
        .map(|at| {
            let allowed = (at * others as f64).floor() as usize;
            // the last threshold that takes no more others than allowed
            let best = counts.iter().rfind(|(_, wrong)| *wrong <= allowed);
            let (right, wrong) = best.copied().unwrap_or_default();
            Operating {
                at: *at,
                true_positives: Proportion::new(right, members),
                false_positives: Proportion::new(wrong, others),
            }
        })
        .collect();
    let (labels, scores): (Vec<f64>, Vec<f64>) = pairs
        .iter()
        .map(|(member, score)| (f64::from(u8::from(*member)), *score))
        .unzip();
    let bootstrap = Bootstrap {
        draws: DRAWS,
        seed,
        ..Bootstrap::default()
    };
    let area = bootstrap.interval(&labels, &scores, roc_auc);
    let curve = counts.iter().map(|(right, wrong)| {
        [
            *wrong as f64 / others as f64,
            *right as f64 / members as f64,
        ]
    });
    Some(Attack {
        target,
        group: group.to_owned(),
        variant: variant.to_owned(),
        members,
        others,
        auc: area.value,
        auc_interval: [area.low, area.high],
        points,
        roc: thin(&curve.collect::<Vec<_>>()),
    })
}

/// Fewer points, evenly over the logarithm of the false positive rate.
fn thin(curve: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let Some(last) = curve.last() else {
        return Vec::new();
    };
    let smallest = curve
        .iter()
        .map(|[fpr, _]| *fpr)
        .find(|fpr| *fpr > 0.0)
        .unwrap_or(1.0);
    let bin = |[fpr, _]: &[f64; 2]| {
        let part = 1.0 - (fpr.max(smallest / 2.0)).ln() / (smallest / 2.0).ln().min(-1e-9);
        (part * MOST_POINTS as f64) as i64
    };
    let mut thinned: Vec<[f64; 2]> = Vec::new();
    for run in curve.chunk_by(|a, b| bin(a) == bin(b)) {
        thinned.extend(run.last());
    }
    if thinned.last() != Some(last) {
        thinned.push(*last);
    }
    thinned
}
