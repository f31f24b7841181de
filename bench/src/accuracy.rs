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
/// a set that is absent is left out.
pub(crate) fn run(folder: &Path, quick: bool) -> Result<()> {
    println!("data,model,metric,float,twin,twin_over_float,aim,meets_aim,rows,seconds");
    for (name, task, aim) in SETS {
        let path = folder.join(format!("{name}.csv"));
        if !path.exists() || (quick && name != "esol") {
            eprintln!("{name}: left out");
            continue;
        }
        let featuriser = chemxor_chem::named("ecfp4-counts+descriptors").context("featuriser")?;
        let options = ReadOptions {
            task,
            featuriser,
            ..ReadOptions::default()
        };
        let dataset = Dataset::read_csv(&path, &options)?;
        let base = TrainConfig::default;
        let models = [
            (
                "linear",
                TrainConfig {
                    kind: ModelKind::Linear,
                    ..base()
                },
            ),
            ("mlp", base()),
            (
                "mlp-ensemble-5",
                TrainConfig {
                    hidden: vec![32],
                    ensemble: 5,
                    ..base()
                },
            ),
        ];
        let models = models.into_iter().chain([
            ("trees", TrainConfig::preset(ModelKind::Trees)),
            (
                "trees-ensemble-3",
                TrainConfig {
                    ensemble: 3,
                    ..TrainConfig::preset(ModelKind::Trees)
                },
            ),
            ("forest", TrainConfig::preset(ModelKind::Forest)),
        ]);
        for (model, config) in models {
            let begin = Instant::now();
            let (mut float, mut twin, mut rows) = (0.0, 0.0, 0);
            for index in 0..FOLDS {
                let config = TrainConfig {
                    fold: Some(Fold { of: FOLDS, index }),
                    ..config.clone()
                };
                let trained = train(&dataset, &config, &mut |_| {})?;
                let metrics = &trained.report.metrics;
                float += metrics.float / FOLDS as f64;
                twin += metrics.twin / FOLDS as f64;
                rows += trained.held_out.len();
            }
            let (metric, meets) = match task {
                Task::Regression => ("rmse", twin <= aim),
                Task::Binary | Task::Multiclass => ("roc-auc", twin >= aim),
            };
            println!(
                "{name},{model},{metric},{float:.4},{twin:.4},{:.4},{aim},{meets},{},{:.1}",
                twin / float,
                rows,
                begin.elapsed().as_secs_f64()
            );
        }
    }
    Ok(())
}
