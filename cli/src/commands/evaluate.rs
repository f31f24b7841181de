//! `evaluate`: encrypted predictions beside measured values and the publisher's plain predictions.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use chemxor_client::batch::{millis, percentiles};
use serde::Deserialize;
use serde_json::json;

use crate::args::{EvaluateArgs, Format};
use crate::commands::card_figures::{CardFigures, Measured};
use crate::commands::publish::read_bundle;
use crate::commands::query::predictor;
use crate::home::Home;
use crate::output;

#[derive(Debug, Deserialize)]
struct Row {
    smiles: String,
    measured: f64,
    plain: f64,
    twin: f64,
}

struct Done {
    row: Row,
    encrypted: f64,
    ms: f64,
}

fn rmse(done: &[Done], value: impl Fn(&Done) -> f64) -> f64 {
    let squares: f64 = done
        .iter()
        .map(|done| (value(done) - done.row.measured).powi(2))
        .sum();
    (squares / done.len() as f64).sqrt()
}

pub(crate) async fn run(home: &Home, format: Format, args: &EvaluateArgs) -> Result<()> {
    let context = || args.holdout.display().to_string();
    let mut reader = csv::Reader::from_path(&args.holdout).with_context(context)?;
    let rows: Vec<Row> = reader
        .deserialize()
        .take(args.rows.unwrap_or(usize::MAX))
        .collect::<csv::Result<_>>()
        .with_context(context)?;
    if rows.is_empty() {
        bail!(
            "{}: no rows; write one with `chemxor train --holdout`",
            context()
        );
    }
    let predictor = predictor(home, &args.model, &args.key).await?;
    // the first query pays for the connection; it is counted apart
    let opening = std::time::Instant::now();
    let session = predictor.session().await?;
    let open_ms = millis(opening.elapsed());
    let key_bytes = session.public_key_bytes();
    let card = match (&args.update_card, &args.bundle) {
        (Some(card), Some(bundle)) => Some(CardFigures::open(
            card,
            &read_bundle(bundle)?,
            session.version(),
        )?),
        _ => None,
    };
    let (mut done, mut up, mut down, mut rounds) = (Vec::new(), 0, 0, 0);
    for row in rows {
        let prediction = predictor.predict(&row.smiles).await?;
        up += prediction.bytes_up;
        down += prediction.bytes_down;
        rounds = prediction.rounds;
        let ms = millis(prediction.elapsed);
        done.push(Done {
            row,
            encrypted: prediction.values[0],
            ms,
        });
    }
    let count = done.len() as u64;
    let latencies: Vec<f64> = done.iter().map(|done| done.ms).collect();
    let (p50, p95) = percentiles(&latencies);
    let difference = done
        .iter()
        .map(|d| (d.encrypted - d.row.plain).abs())
        .sum::<f64>()
        / count as f64;
    let summary: HashMap<&str, f64> = HashMap::from([
        ("rmse_plain", rmse(&done, |d| d.row.plain)),
        ("rmse_twin", rmse(&done, |d| d.row.twin)),
        ("rmse_encrypted", rmse(&done, |d| d.encrypted)),
        ("mean_difference_to_plain", difference),
        ("p50_ms", p50),
        ("p95_ms", p95),
        ("open_ms", open_ms),
    ]);
    if let Some(card) = card {
        card.write(Measured {
            rounds,
            bytes_up: up / count,
            bytes_down: down / count,
            public_key_bytes: key_bytes as u64,
            p50_ms: p50,
            p95_ms: p95,
            molecules: count,
            rmse_clear: rmse(&done, |d| d.row.plain),
            rmse_encrypted: rmse(&done, |d| d.encrypted),
            command: format!(
                "chemxor evaluate {} --holdout {}",
                args.model,
                args.holdout.display()
            ),
        })?;
    }
    let molecules: Vec<_> = done
        .iter()
        .map(|d| {
            json!({
                "smiles": d.row.smiles, "measured": d.row.measured, "plain": d.row.plain,
                "twin": d.row.twin, "encrypted": d.encrypted, "ms": d.ms,
            })
        })
        .collect();
    let value = json!({
        "summary": summary, "molecules": molecules, "count": count, "rounds": rounds,
        "bytes_up": up / count, "bytes_down": down / count, "public_key_bytes": key_bytes,
    });
    output::print(format, &value, || {
        let rows: Vec<Vec<String>> = done
            .iter()
            .map(|d| {
                let smiles: String = d.row.smiles.chars().take(44).collect();
                let number = |value: f64| format!("{value:8.3}");
                vec![
                    smiles,
                    number(d.row.measured),
                    number(d.row.plain),
                    number(d.row.twin),
                    number(d.encrypted),
                    format!("{:6.1}", d.ms),
                ]
            })
            .collect();
        let header = [
            "molecule",
            "measured",
            "   plain",
            "clear twin",
            "encrypted",
            "ms",
        ];
        output::table(&header, &rows);
        let get = |key| summary.get(key).copied().unwrap_or(f64::NAN);
        say!();
        say!(
            "RMSE against the measured values, {count} molecules: plain {:.3}, clear twin {:.3}, encrypted {:.3}",
            get("rmse_plain"),
            get("rmse_twin"),
            get("rmse_encrypted")
        );
        say!(
            "mean |encrypted - plain|: {difference:.4} {}",
            predictor.manifest().unit
        );
        say!(
            "time a molecule: p50 {p50:.1} ms, p95 {p95:.1} ms, {rounds} rounds; opening the session: {open_ms:.1} ms"
        );
        say!(
            "bytes a molecule: {} up, {} down; public keys once a session: {key_bytes}",
            up / count,
            down / count
        );
        if let Some(card) = &args.update_card {
            say!("{} has these figures now", card.display());
        }
    })
}
