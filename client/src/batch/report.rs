//! What a batch did, in memory that does not grow with it.

use std::time::Duration;

use super::Answer;

/// What a batch did. Bytes and times are of this run; rows include those of earlier runs.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct BatchReport {
    /// Whether the output has its final name.
    pub complete: bool,
    /// Rows read and written.
    pub rows: u64,
    /// Of these, written by earlier runs.
    pub resumed: u64,
    /// Rows with a prediction.
    pub predicted: u64,
    /// Of these, the same as an equal molecule's and not asked for.
    pub repeated: u64,
    /// Rows with a molecule that could not be read.
    pub bad_molecules: u64,
    /// Rows that do not have the header's columns.
    pub bad_rows: u64,
    /// Molecules that could not be encoded for the model.
    pub failed: u64,
    /// Bytes of step messages sent.
    pub bytes_up: u64,
    /// Bytes of step messages received.
    pub bytes_down: u64,
    /// Time of each predicted molecule.
    #[serde(skip)]
    pub latencies: Latencies,
}

impl BatchReport {
    pub(super) fn count(&mut self, answer: &Answer) {
        match answer {
            Answer::Predicted(_, Some(prediction)) => {
                self.predicted += 1;
                self.bytes_up += prediction.bytes_up;
                self.bytes_down += prediction.bytes_down;
                self.latencies.add(prediction.elapsed);
            }
            Answer::Predicted(_, None) => {
                self.predicted += 1;
                self.repeated += 1;
            }
            Answer::Fault(status, _) => self.count_status(status.as_bytes()),
        }
    }

    pub(super) fn count_status(&mut self, status: &[u8]) {
        match status {
            b"ok" => self.predicted += 1,
            b"bad-molecule" => self.bad_molecules += 1,
            b"bad-row" => self.bad_rows += 1,
            _ => self.failed += 1,
        }
    }
}

/// Times in buckets that are 1 % wide, from 1 µs to a quarter of an hour.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latencies {
    buckets: Vec<u64>,
    count: u64,
}

const BUCKETS: usize = 2100;
const WIDTH: f64 = 1.01;

impl Latencies {
    /// Counts one.
    pub fn add(&mut self, time: Duration) {
        self.buckets.resize(BUCKETS, 0);
        let micros = (time.as_secs_f64() * 1e6).max(1.0);
        let bucket = (micros.ln() / WIDTH.ln()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
    }

    /// The time, in milliseconds, that a `share` of all stayed within; 0 when there are none.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let wanted = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return WIDTH.powf(bucket as f64 + 0.5) / 1e3;
            }
        }
        0.0
    }
}

/// Milliseconds of a duration.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Median and 95th percentile of a sample; zeros when it is empty.
pub fn percentiles(sample: &[f64]) -> (f64, f64) {
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(index).copied().unwrap_or(0.0)
    };
    (at(0.5), at(0.95))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile_ms(0.5), 0.0);
        for micros in 1..=10_000 {
            latencies.add(Duration::from_micros(micros));
        }
        for (share, ms) in [(0.5, 5.0), (0.95, 9.5), (1.0, 10.0)] {
            let found = latencies.quantile_ms(share);
            assert!((found / ms - 1.0).abs() < 0.011, "{share}: {found}");
        }
    }
}
