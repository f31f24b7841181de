//! `query --estimate`, and the question before a long run.

use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use chemxor_client::catalog::Allowance;
use chemxor_client::predictor::Predictor;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde_json::json;

use crate::args::{Format, QueryArgs};
use crate::commands::query::probed;
use crate::output;

/// How long the first rows of a run are watched before its time is estimated.
const WATCHED: Duration = Duration::from_secs(3);

/// `--estimate`: says what a run will take.
pub(crate) async fn run(
    predictor: &Predictor,
    format: Format,
    args: &QueryArgs,
    input: &Path,
    allowance: &Allowance,
) -> Result<()> {
    let left = allowance.queries_left();
    let (estimate, cost, probe) = probed(predictor, args, input, left).await?;
    let asked = probe["queries"].as_u64().unwrap_or_default();
    let left = left.map(|left| left.saturating_sub(asked));
    let budget_bits = allowance.lifetime_queries.left.map(|left| {
        let left = left.saturating_sub(asked);
        left.saturating_mul(cost.leakage_bits)
    });
    let fits = left.is_none_or(|left| estimate.rows <= left);
    let value = json!({
        "model": predictor.model(), "estimate": estimate, "molecule": cost, "probe": probe,
        // as it was before the probe
        "allowance": allowance, "queries_left": left, "leakage_bits_left": budget_bits, "fits": fits,
    });
    output::print(format, &value, || {
        say!("rows       {}", HumanCount(estimate.rows));
        match estimate.seconds {
            Some(seconds) => say!("time       {}", time(seconds)),
            None => say!(
                "time       not known: there was no molecule to probe with, or too little quota"
            ),
        }
        say!("rounds     {} a molecule", estimate.rounds);
        say!(
            "bytes      {} up, {} down ({} and {} a molecule)",
            HumanBytes(estimate.bytes_up),
            HumanBytes(estimate.bytes_down),
            HumanCount(cost.bytes_up),
            HumanCount(cost.bytes_down)
        );
        let quota = match left {
            None => "no quota limits them".to_owned(),
            Some(left) => format!(
                "{} are left for {}",
                HumanCount(left),
                allowance.organisation
            ),
        };
        say!("queries    {}; {quota}", HumanCount(estimate.rows));
        say!(
            "leakage    at most {} bits about the weights ({} a query); {}",
            HumanCount(estimate.leakage_bits),
            cost.leakage_bits,
            budget_bits.map_or("no budget limits them".to_owned(), |bits| format!(
                "a budget of {} is left",
                HumanCount(bits)
            ))
        );
        if !fits {
            say!(
                "quota      the run does not fit: it stops when the quota is used up, and goes on with --resume"
            );
        }
        if let Some(queries) = probe["queries"].as_u64() {
            say!(
                "probe      {} queries were asked for this estimate",
                HumanCount(queries)
            );
        }
    })
}

fn time(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{seconds:.1} seconds")
    } else {
        HumanDuration(Duration::from_secs_f64(seconds)).to_string()
    }
}

/// Watches the first rows of a run. Where the platform was away meanwhile it begins again: what a run
/// waits for it is not what the run will take.
pub(crate) struct Watch {
    total: u64,
    limit: f64,
    started: Option<Begun>,
    found: Option<f64>,
}

/// Where the watch began.
#[derive(Clone, Copy)]
struct Begun {
    at: Instant,
    rows: u64,
    outages: u64,
}

impl Watch {
    /// For a run of `total` rows; `limit` in seconds.
    pub(crate) fn new(total: u64, limit: f64) -> Self {
        Self {
            total,
            limit,
            started: None,
            found: None,
        }
    }

    /// Hears that `rows` are done, and how often the platform was found away; whether the run must
    /// wait for an answer.
    pub(crate) fn hears(&mut self, rows: u64, outages: u64) -> bool {
        let now = Begun {
            at: Instant::now(),
            rows,
            outages,
        };
        // the first call comes before the first answer
        let begun = *self.started.get_or_insert(now);
        if begun.outages != outages {
            self.started = Some(now);
            return false;
        }
        let time = now.at - begun.at;
        if self.found.is_some() || begun.rows == rows || time < WATCHED {
            return false;
        }
        let rate = (rows - begun.rows) as f64 / time.as_secs_f64();
        let left = self.total.saturating_sub(rows) as f64 / rate;
        self.found = Some(left);
        left > self.limit
    }

    /// The seconds that are left, when they are more than the limit.
    pub(crate) fn too_long(&self) -> Option<f64> {
        self.found.filter(|left| *left > self.limit)
    }
}

/// Asks whether a long run shall go on.
pub(crate) fn ask(left: f64, limit_minutes: f64, resume: &str) -> Result<()> {
    let about = time(left);
    if !std::io::stdin().is_terminal() {
        bail!(
            "the run will take about {about}, more than --ask-above {limit_minutes} minutes; go on with `{resume} --yes`"
        );
    }
    eprint!("the run will take about {about}. Go on? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if !["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        bail!("stopped; the rows so far are kept: `{resume}`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Watch {
        /// As if so much time had passed.
        fn ages(&mut self, time: Duration) {
            let begun = self.started.as_mut().unwrap();
            begun.at = begun.at.checked_sub(time).unwrap();
        }
    }

    #[test]
    fn only_a_long_run_waits_for_an_answer() {
        for (rows, waits) in [(4_000, false), (1_000_000, true)] {
            let mut watch = Watch::new(rows, 60.0);
            assert!(!watch.hears(0, 0));
            watch.ages(WATCHED);
            // about a hundred rows a second
            assert_eq!(watch.hears(300, 0), waits);
            assert_eq!(watch.too_long().is_some(), waits);
            assert!(!watch.hears(400, 0), "it asks once");
        }
    }

    #[test]
    fn a_platform_that_was_away_makes_no_run_long() {
        for (outages, waits) in [(0, true), (9, false)] {
            let mut watch = Watch::new(4_000, 60.0);
            assert!(!watch.hears(0, 0));
            watch.ages(Duration::from_secs(100));
            assert_eq!(watch.hears(50, outages), waits, "{outages} outages");
        }
        // what comes after it is watched from there
        let mut watch = Watch::new(4_000, 60.0);
        assert!(!watch.hears(0, 0));
        watch.ages(Duration::from_secs(100));
        assert!(!watch.hears(50, 9));
        watch.ages(WATCHED);
        assert!(watch.hears(53, 9), "a row a second is slow");
    }
}
