//! What keeps training molecules from being recognised, and what it costs: quality on held-out molecules
//! beside membership inference, for models with and without regularisation, label smoothing and
//! differential privacy.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use chemxor_core::Task;
use chemxor_nets::{
    Attack, AuditOptions, Dataset, ModelKind, Operating, PrivacyAudit, PrivateSettings,
    ReadOptions, Schedule, Target, TrainConfig, audit, train,
};

/// Possible solubilities, log10 mol/L: from a molecule in a cubic metre to pure liquids. Known without the
/// data, as a private training asks.
const SOLUBILITIES: [f64; 2] = [-12.0, 2.0];
/// Soluble or not.
const THRESHOLD: f64 = -3.0;

/// Prints one row a data set, featuriser and model.
pub(crate) fn run(file: &Path, quick: bool) -> Result<()> {
    println!(
        "data,task,featuriser,model,epsilon,delta,metric,twin,shadows,\
         auc,auc_low,auc_high,tpr_at_0,tpr_at_0_low,tpr_at_0_high,\
         recipe_auc,recipe_auc_low,recipe_auc_high,recipe_tpr_at_0.001,recipe_tpr_at_0.001_low,\
         recipe_tpr_at_0.001_high,rare_recipe_tpr_at_0.001,seconds"
    );
    for (task, featuriser) in [
        (Task::Regression, "ecfp4-counts+descriptors"),
        (Task::Regression, "descriptors"),
        (Task::Binary, "ecfp4-counts+descriptors"),
    ] {
        let options = ReadOptions {
            task,
            featuriser: chemxor_chem::named(featuriser).context("featuriser")?,
            thresholds: match task {
                Task::Binary => vec![THRESHOLD],
                Task::Regression | Task::Multiclass => Vec::new(),
            },
            ..ReadOptions::default()
        };
        let dataset = Dataset::read_csv(file, &options)?;
        for (model, config) in models(task, featuriser) {
            eprintln!("{task:?}, {featuriser}: {model}");
            row(&dataset, &config, featuriser, model, quick)?;
        }
    }
    Ok(())
}

fn models(task: Task, featuriser: &str) -> Vec<(&'static str, TrainConfig)> {
    let preset = TrainConfig::preset;
    let mlp = TrainConfig {
        hidden: vec![32],
        activation_bits: Some(6),
        ..preset(ModelKind::Mlp)
    };
    let private = |epsilon| TrainConfig {
        hidden: vec![16],
        epochs: 60,
        patience: 60,
        batch: 256,
        learning_rate: 1e-2,
        schedule: Schedule::Constant,
        weight_decay: 0.0,
        dropout: 0.0,
        private: Some(PrivateSettings {
            epsilon,
            delta: Some(1e-5),
            clip: 1.0,
            target_range: (task == Task::Regression).then_some(SOLUBILITIES),
        }),
        ..mlp.clone()
    };
    let overfitted = TrainConfig {
        patience: 200,
        epochs: 200,
        weight_decay: 0.0,
        dropout: 0.0,
        ..mlp.clone()
    };
    let mut models = vec![("linear", preset(ModelKind::Linear)), ("mlp", mlp.clone())];
    match (task, featuriser) {
        (Task::Binary, _) => models.extend([
            ("mlp, no regularisation", overfitted),
            (
                "mlp, label smoothing 0.2",
                TrainConfig {
                    label_smoothing: 0.2,
                    ..mlp.clone()
                },
            ),
            ("mlp, private", private(8.0)),
        ]),
        (_, "descriptors") => models.extend([
            ("mlp, private", private(16.0)),
            ("mlp, private", private(4.0)),
            ("mlp, private", private(1.0)),
        ]),
        _ => models.extend([
            ("trees", preset(ModelKind::Trees)),
            ("mlp, no regularisation", overfitted),
            (
                "mlp, weight decay 8",
                TrainConfig {
                    weight_decay: 8.0,
                    ..mlp.clone()
                },
            ),
            ("mlp, private", private(16.0)),
        ]),
    }
    models
}

fn row(
    dataset: &Dataset,
    config: &TrainConfig,
    featuriser: &str,
    model: &str,
    quick: bool,
) -> Result<()> {
    let begin = Instant::now();
    let trained = train(dataset, config, &mut |_| {})?;
    let options = AuditOptions {
        shadows: if quick { 4 } else { 16 },
        budget: None,
    };
    let found = audit(dataset, config, &trained.bundle, &options, &mut |_| {})?;
    let (published, at_0) = found
        .worst(Target::Published, 0.0)
        .context("no attack on the model")?;
    let (recipe, at_0001) = found
        .worst(Target::Procedure, 1e-3)
        .context("no attack on the recipe")?;
    let area = |attack: &Attack| {
        let [low, high] = attack.auc_interval;
        format!("{:.4},{low:.4},{high:.4}", attack.auc)
    };
    let rate = |point: &Operating| {
        let p = point.true_positives;
        format!("{:.4},{:.4},{:.4}", p.value, p.low, p.high)
    };
    let (epsilon, delta) = trained
        .bundle
        .manifest()
        .privacy
        .as_ref()
        .and_then(|privacy| privacy.differential.as_ref())
        .map_or_else(Default::default, |dp| {
            (format!("{:.3}", dp.epsilon), dp.delta.to_string())
        });
    let task = match dataset.task() {
        Task::Regression => "regression",
        Task::Binary => "binary",
        Task::Multiclass => "multiclass",
    };
    println!(
        "esol,{task},{featuriser},\"{model}\",{epsilon},{delta},{},{:.4},{},{},{},{},{},{},{:.0}",
        trained.report.metrics.metric,
        trained.report.metrics.twin,
        found.shadows,
        area(published),
        rate(at_0),
        area(recipe),
        rate(at_0001),
        rare(&found, &recipe.group),
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Of the group that models remember best, by the strongest attack on the recipe.
fn rare(found: &PrivacyAudit, whole: &str) -> String {
    found
        .attacks
        .iter()
        .filter(|attack| attack.target == Target::Procedure && attack.group != whole)
        .filter_map(|attack| attack.points.iter().find(|point| point.at == 1e-3))
        .map(|point| point.true_positives.value)
        .max_by(f64::total_cmp)
        .map_or_else(String::new, |value| format!("{value:.4}"))
}
