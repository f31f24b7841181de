//! `audit-privacy`: membership inference on a bundle.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use chemxor_client::files;
use chemxor_core::Bundle;
use chemxor_nets::{AuditOptions, PrivacyAudit, Proportion, Target, audit, state_audit};

use crate::args::{AuditPrivacyArgs, Format, KindArg};
use crate::commands::train::read;
use crate::output::{self, Bar};

pub(crate) fn run(format: Format, args: &AuditPrivacyArgs) -> Result<()> {
    if matches!(args.settings.kind, KindArg::Auto) {
        bail!("auto is no kind that can be trained again; give --model the kind that it chose");
    }
    let config = args.settings.resolve()?;
    let path = &args.bundle;
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bundle = Bundle::from_bytes(&bytes).with_context(|| path.display().to_string())?;
    let budget = match args.max_minutes {
        Some(minutes) if !(minutes > 0.0 && minutes <= 1e6) => {
            bail!("--max-minutes is {minutes}; give a number above 0")
        }
        Some(minutes) => Some(Duration::from_secs_f64(minutes * 60.0)),
        None => None,
    };
    let dataset = read(&args.data)?;
    let options = AuditOptions {
        shadows: args.shadows,
        budget,
    };
    let mut bar = Bar::new("shadow models", Some(args.shadows as u64), false);
    let found = audit(&dataset, &config, &bundle, &options, &mut |progress| {
        bar.set(progress.done as u64, String::new());
    })?;
    bar.finish();
    if let Some(path) = &args.output {
        let json = serde_json::to_vec(&found)?;
        files::replace(path, &json).context("cannot write the audit")?;
    }
    if args.update_bundle {
        let stated = state_audit(&bundle, &found)?;
        files::replace(path, &stated.to_bytes()).context("cannot write the bundle")?;
        eprintln!("{}: now version {}", path.display(), stated.version());
    }
    output::print(format, &found, || print(&found))
}

fn print(found: &PrivacyAudit) {
    let percent = |p: &Proportion| {
        format!(
            "{:.1} ({:.1} to {:.1})",
            100.0 * p.value,
            100.0 * p.low,
            100.0 * p.high
        )
    };
    let rows: Vec<Vec<String>> = found
        .attacks
        .iter()
        .map(|attack| {
            let target = match attack.target {
                Target::Published => "published",
                Target::Procedure => "recipe",
            };
            let mut row = vec![
                target.to_owned(),
                attack.variant.clone(),
                attack.group.clone(),
                format!("{} + {}", attack.members, attack.others),
                format!(
                    "{:.3} ({:.3} to {:.3})",
                    attack.auc, attack.auc_interval[0], attack.auc_interval[1]
                ),
            ];
            row.extend(
                attack
                    .points
                    .iter()
                    .map(|point| percent(&point.true_positives)),
            );
            row
        })
        .collect();
    let header = [
        "target",
        "attack",
        "molecules",
        "members + others",
        "AUC",
        "TPR % at FPR 0",
        "TPR % at FPR 0.001",
        "TPR % at FPR 0.01",
    ];
    output::table(&header, &rows);
    say!();
    say!(
        "{} shadow models, {:.0} s; intervals hold 95 %, an AUC of 0.5 is guessing",
        found.shadows,
        found.seconds
    );
    if let Some((attack, point)) = found.worst(Target::Published, 0.0) {
        say!(
            "published: without a false alarm among {} other molecules, which allows a false positive rate up to {:.4}, {} of {} training molecules are found",
            attack.others,
            point.false_positives.high,
            point.true_positives.count,
            attack.members
        );
    }
}
