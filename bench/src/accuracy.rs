//! Accuracy by five-fold cross-validation: the float model and the integers that run encrypted (the
//! clear twin with the protocol's stochastic rounding), as means over the folds.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use chemxor_core::Task;
use chemxor_nets::{Dataset, Fold, ModelKind, ReadOptions, TrainConfig, train};

const FOLDS: usize = 5;
/// Name, task, and the aim for the encrypted model.
const SETS: [(&str, Task, f64); 6] = [
    ("esol", Task::Regression, 0.66),
    ("lipophilicity", Task::Regression, 0.70),
    ("bace_pic50", Task::Regression, 0.69),
    ("bace", Task::Binary, 0.90),
    ("bbbp", Task::Binary, 0.92),
    ("herg", Task::Binary, 0.87),
];

/// Prints one row a data set and model. `folder` holds `NAME.csv` with columns smiles and target;
/// a set that is absent is left out. The Olinda nets are trained on ESOL only, on the first fold.
pub(crate) fn run(folder: &Path, quick: bool) -> Result<()> {
    println!(
        "data,model,featuriser,metric,float,twin,twin_over_float,aim,meets_aim,rows,\
         estimated_ms,bytes,training_s"
    );
    for (name, task, aim) in SETS {
        let path = folder.join(format!("{name}.csv"));
        if !path.exists() || (quick && name != "esol") {
            eprintln!("{name}: left out");
            continue;
        }
        for (featuriser, models) in models(name == "esol" && !quick) {
            // minutes for each fold: the first one only
            let folds = if featuriser == "image32" { 1 } else { FOLDS };
            let options = ReadOptions {
                task,
                featuriser: chemxor_chem::named(featuriser).context("featuriser")?,
                ..ReadOptions::default()
            };
            let dataset = Dataset::read_csv(&path, &options)?;
            for (model, config) in models {
                let row = cross_validate(&dataset, &config, folds)?;
                let (metric, meets) = match task {
                    Task::Regression => ("rmse", row.twin <= aim),
                    Task::Binary | Task::Multiclass => ("roc-auc", row.twin >= aim),
                };
                println!(
                    "{name},{model},{featuriser},{metric},{:.4},{:.4},{:.4},{aim},{meets},{},{:.1},{},{:.1}",
                    row.float,
                    row.twin,
                    row.twin / row.float,
                    row.rows,
                    row.milliseconds,
                    row.bytes,
                    row.seconds
                );
            }
        }
    }
    Ok(())
}

/// Names and settings under the featuriser they use.
type Models = (&'static str, Vec<(&'static str, TrainConfig)>);

fn models(olinda: bool) -> Vec<Models> {
    let preset = TrainConfig::preset;
    let ensemble = |kind, members| TrainConfig {
        ensemble: members,
        ..preset(kind)
    };
    let networks = TrainConfig {
        hidden: vec![32],
        ..ensemble(ModelKind::Mlp, 5)
    };
    let mut models = vec![(
        "ecfp4-counts+descriptors",
        vec![
            ("linear", preset(ModelKind::Linear)),
            ("mlp", preset(ModelKind::Mlp)),
            ("mlp-ensemble-5", networks),
            ("trees", preset(ModelKind::Trees)),
            ("trees-ensemble-3", ensemble(ModelKind::Trees, 3)),
            ("forest", preset(ModelKind::Forest)),
        ],
    )];
    if olinda {
        models.push((
            "image32",
            vec![
                ("linear", preset(ModelKind::Linear)),
                ("mlp", preset(ModelKind::Mlp)),
                ("olinda-zero", preset(ModelKind::OlindaZero)),
                ("olinda", preset(ModelKind::Olinda)),
                ("olinda-one", preset(ModelKind::OlindaOne)),
            ],
        ));
    }
    models
}

/// Means over the folds.
#[derive(Default)]
struct Row {
    float: f64,
    twin: f64,
    rows: usize,
    milliseconds: f64,
    bytes: usize,
    /// Of all folds together.
    seconds: f64,
}

/// Over the first `folds` of five.
fn cross_validate(dataset: &Dataset, config: &TrainConfig, folds: usize) -> Result<Row> {
    let begin = Instant::now();
    let mut row = Row::default();
    for index in 0..folds {
        let config = TrainConfig {
            fold: Some(Fold { of: FOLDS, index }),
            ..config.clone()
        };
        let trained = train(dataset, &config, &mut |_| {})?;
        let metrics = &trained.report.metrics;
        let costs = &trained.report.costs;
        row.float += metrics.float / folds as f64;
        row.twin += metrics.twin / folds as f64;
        row.rows += trained.held_out.len();
        row.milliseconds += costs.estimated_ms / folds as f64;
        row.bytes += (costs.bytes_up + costs.bytes_down) / folds;
    }
    row.seconds = begin.elapsed().as_secs_f64();
    Ok(row)
}
