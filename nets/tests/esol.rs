//! Training on real molecules (Delaney 2004): quality, agreement of float model and integers,
//! determinism, and refusals.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use chemxor_core::{Bundle, Featuriser, RingName, StepKind, Task};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::twin::nearest;
use chemxor_nets::{
    Budget, Dataset, ForeignModel, HoldOut, ModelKind, NetsError, Progress, ReadOptions,
    TrainConfig, Trained, TreeModel, choose, import, predict_twin, train,
};

fn esol() -> Dataset {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/esol.csv"));
    Dataset::read_csv(path, &ReadOptions::default()).unwrap()
}

fn config(kind: ModelKind) -> TrainConfig {
    TrainConfig {
        name: "esol".into(),
        kind,
        seed: 7,
        ..TrainConfig::default()
    }
}

fn mlp(hidden: &[usize]) -> TrainConfig {
    TrainConfig {
        hidden: hidden.to_vec(),
        ..config(ModelKind::Mlp)
    }
}

fn quiet(dataset: &Dataset, config: &TrainConfig) -> Result<Trained, NetsError> {
    train(dataset, config, &mut |_| {})
}

#[test]
fn esol_is_read_whole() {
    let dataset = esol();
    assert_eq!(
        (
            dataset.rows().len(),
            dataset.bad_rows().len(),
            dataset.duplicates().repeated
        ),
        (1128, 0, 11)
    );
    // as counted by RDKit
    assert_eq!(dataset.duplicates().conflicting.len(), 6);
}

#[test]
fn a_linear_model_predicts_solubility() {
    let trained = quiet(&esol(), &config(ModelKind::Linear)).unwrap();
    let metrics = &trained.report.metrics;
    assert!(metrics.float < 0.95, "{metrics:?}");
    assert!(
        (metrics.twin / metrics.float - 1.0).abs() < 0.01,
        "{metrics:?}"
    );
    assert_eq!(trained.bundle.manifest().graph.steps().len(), 1);
}

#[test]
fn a_network_loses_nothing_when_it_becomes_integers() {
    let mut epochs: Vec<Progress> = Vec::new();
    let kind = ModelKind::Mlp;
    let trained = train(&esol(), &config(kind), &mut |p| epochs.push(p)).unwrap();
    let report = &trained.report;
    assert!(report.metrics.float < 1.0, "{:?}", report.metrics);
    for (figures, value) in [
        (&report.float_figures, report.metrics.float),
        (&report.twin_figures, report.metrics.twin),
    ] {
        let names: Vec<&str> = figures.iter().map(|figure| figure.name).collect();
        assert_eq!(names, ["rmse", "mae", "r2", "spearman"]);
        assert_eq!(figures[0].interval.value, value);
        for figure in figures {
            let at = figure.interval;
            assert!(at.low < at.value && at.value < at.high, "{figure:?}");
        }
    }
    let change = report.metrics.twin / report.metrics.float - 1.0;
    assert!(change.abs() < 0.03, "{:?}", report.metrics);
    assert!(report.twin_mean_difference < 0.08, "{report:?}");
    assert_eq!(report.outside_range, 0);
    assert_eq!(epochs.len(), report.epochs_run);
    assert!(epochs[epochs.len() - 1].train_loss < epochs[0].train_loss);

    let steps = trained.bundle.manifest().graph.steps();
    assert_eq!(
        [steps[0].kind, steps[1].kind],
        [StepKind::Static, StepKind::Lookup]
    );
    assert_eq!(
        steps[0].ring,
        RingName::N1024Q32,
        "the wide step stays in the cheap ring"
    );
    assert_eq!(steps[1].output_bits, 12);
    let chosen: Vec<_> = report.sweep.iter().filter(|row| row.chosen).collect();
    assert_eq!(
        chosen.len(),
        1,
        "the precision is searched: {:?}",
        report.sweep
    );
    assert_eq!(chosen[0].bits, [steps[0].output_bits]);
    assert!(chosen[0].loss <= 0.01 && report.sweep.len() >= 4);
}

#[test]
fn an_ensemble_is_one_wider_network() {
    let config = TrainConfig {
        ensemble: 3,
        epochs: 20,
        ..mlp(&[16])
    };
    let mut epochs: Vec<Progress> = Vec::new();
    let trained = train(&esol(), &config, &mut |p| epochs.push(p)).unwrap();
    let (report, steps) = (&trained.report, trained.bundle.manifest().graph.steps());
    assert_eq!(
        (steps.len(), steps[0].outputs, steps[1].inputs),
        (2, 48, 48)
    );
    assert_eq!(epochs.len(), report.epochs_run);
    assert!(epochs.iter().all(|p| p.epochs == 60 && p.epoch <= 60));
    assert!(report.metrics.float < 1.0, "{:?}", report.metrics);
    let change = report.metrics.twin / report.metrics.float - 1.0;
    assert!(change.abs() < 0.03, "{:?}", report.metrics);
}

#[test]
fn the_bundle_holds_the_integers_that_were_measured() {
    let dataset = esol();
    let trained = quiet(&dataset, &mlp(&[8])).unwrap();
    let bundle = Bundle::from_bytes(&trained.bundle.to_bytes()).unwrap();
    let weights: Vec<StepWeights> = bundle
        .blobs()
        .iter()
        .map(|blob| StepWeights::from_blob(blob).unwrap())
        .collect();
    assert!(weights == trained.weights);
    for (spec, weights) in bundle.manifest().graph.steps().iter().zip(&weights) {
        weights.matches(spec).unwrap();
    }
    let mut differences: Vec<f64> = trained
        .held_out
        .iter()
        .map(|held| {
            let row = dataset
                .rows()
                .iter()
                .find(|row| row.line == held.line)
                .unwrap();
            assert_eq!((&row.smiles, &row.targets), (&held.smiles, &held.measured));
            let features = dataset.dense(row);
            let value = predict_twin(bundle.manifest(), &weights, &features, nearest());
            (value[0] - held.float_prediction[0]).abs()
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    assert!(differences[differences.len() / 2] < 0.1, "{differences:?}");
}

#[test]
fn a_seed_gives_the_same_integers_again_and_another_seed_others() {
    let dataset = esol();
    let config = |seed| TrainConfig {
        seed,
        epochs: 3,
        ..mlp(&[16])
    };
    let [first, again, other] = [7, 7, 8].map(|seed| quiet(&dataset, &config(seed)).unwrap());
    assert!(first.weights == again.weights);
    assert_eq!(first.held_out, again.held_out);
    assert!(first.weights != other.weights);
    assert_ne!(
        first.bundle.version(),
        again.bundle.version(),
        "the salt of the blobs is fresh, so that the digest hides the weights"
    );
}

/// Class 1 are the molecules more soluble than the median.
fn classes(text: &str) -> Vec<u8> {
    let class = |line: &str| {
        let (smiles, value) = line.split_once(',').unwrap();
        format!(
            "{smiles},{}\n",
            u8::from(value.parse::<f64>().unwrap() > -2.9)
        )
    };
    let rows: String = text.lines().skip(1).map(class).collect();
    format!("smiles,target\n{rows}").into_bytes()
}

#[test]
fn classes_are_learned_by_both_kinds() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/esol.csv");
    let csv = classes(&std::fs::read_to_string(path).unwrap());
    let featuriser = Featuriser::EcfpBits {
        version: 1,
        radius: 2,
        size: 1024,
    };
    let options = ReadOptions {
        task: Task::Binary,
        featuriser,
        ..ReadOptions::default()
    };
    let dataset = Dataset::from_csv("classes.csv", &csv, &options).unwrap();
    for config in [config(ModelKind::Linear), mlp(&[16])] {
        let trained = quiet(&dataset, &config).unwrap();
        let kind = config.kind;
        let metrics = &trained.report.metrics;
        assert_eq!(metrics.metric, "roc-auc");
        assert!(metrics.float > 0.84, "{kind:?} {metrics:?}");
        assert!(
            (metrics.twin - metrics.float).abs() < 0.02,
            "{kind:?} {metrics:?}"
        );
    }
}

#[test]
fn scaffolds_and_columns_hold_out_whole_groups() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/esol.csv"));
    for hold_out in [HoldOut::Scaffold, HoldOut::Column("target".to_owned())] {
        let options = ReadOptions {
            hold_out: hold_out.clone(),
            ..ReadOptions::default()
        };
        let dataset = Dataset::read_csv(path, &options).unwrap();
        let trained = quiet(&dataset, &config(ModelKind::Linear)).unwrap();
        let lines: Vec<u64> = trained.held_out.iter().map(|row| row.line).collect();
        let (aside, rest): (Vec<_>, Vec<_>) = dataset
            .rows()
            .iter()
            .partition(|row| lines.contains(&row.line));
        assert!(
            (100..=230).contains(&aside.len()),
            "{hold_out:?} {}",
            aside.len()
        );
        if hold_out == HoldOut::Scaffold {
            let scaffold = |row: &&chemxor_nets::Row| chemxor_chem::scaffold(&row.smiles).unwrap();
            let learned: std::collections::HashSet<String> = rest.iter().map(scaffold).collect();
            assert!(aside.iter().all(|row| !learned.contains(&scaffold(row))));
        } else {
            let least = aside
                .iter()
                .map(|row| row.target())
                .fold(f64::INFINITY, f64::min);
            let above = rest.iter().filter(|row| row.target() > least).count();
            assert!(above < 12, "only molecules that stand twice: {above}");
        }
    }
}

fn table(rows: impl Iterator<Item = (String, String)>, task: Task) -> Dataset {
    let rows: String = rows
        .map(|(smiles, target)| format!("{smiles},{target}\n"))
        .collect();
    let options = ReadOptions {
        task,
        ..ReadOptions::default()
    };
    Dataset::from_csv(
        "t.csv",
        format!("smiles,target\n{rows}").as_bytes(),
        &options,
    )
    .unwrap()
}

fn alkanes(count: usize, target: impl Fn(usize) -> String, task: Task) -> Dataset {
    table((1..=count).map(|n| ("C".repeat(n), target(n))), task)
}

#[test]
fn hopeless_data_is_refused_with_the_next_step() {
    let message = |dataset: &Dataset| {
        let error = quiet(dataset, &config(ModelKind::Linear))
            .unwrap_err()
            .to_string();
        assert!(error.contains("t.csv") && error.contains("; "), "{error}");
        error
    };
    let constant = alkanes(30, |_| "4.5".into(), Task::Regression);
    assert!(message(&constant).contains("has the target 4.5"));
    let few = alkanes(5, |n| n.to_string(), Task::Regression);
    assert!(message(&few).contains("has 5 usable rows, training needs at least 20"));
    let one_class = alkanes(30, |n| u8::from(n > 2).to_string(), Task::Binary);
    assert!(message(&one_class).contains("has 2 rows of class 0"));
}

#[test]
fn tiny_and_degenerate_data_still_give_a_model() {
    // the same molecule everywhere: nothing to tell the rows apart, yet no division by zero
    let same = table(
        (0..40).map(|n| ("CCO".to_owned(), n.to_string())),
        Task::Regression,
    );
    let alkanes = alkanes(20, |n| n.to_string(), Task::Regression);
    for dataset in [same, alkanes] {
        for config in [config(ModelKind::Linear), mlp(&[4])] {
            let kind = config.kind;
            match quiet(&dataset, &config) {
                Ok(trained) => {
                    assert!(
                        trained
                            .held_out
                            .iter()
                            .all(|row| row.twin_prediction[0].is_finite())
                    );
                }
                Err(
                    NetsError::NoFeature { .. }
                    | NetsError::TooFewRows { .. }
                    // one molecule everywhere cannot be split
                    | NetsError::Config { .. },
                ) => {}
                Err(other) => panic!("{kind:?}: {other}"),
            }
        }
    }
}

#[test]
fn auto_compares_within_its_budgets_and_says_why() {
    let dataset = alkanes(60, |n| format!("{}", 3 * n), Task::Regression);
    let base = config(ModelKind::Linear);
    let budget = Budget::default();
    let (chosen, table) = choose(&dataset, &base, &budget, &mut |_| {}).unwrap();
    let names: Vec<&str> = table.candidates.iter().map(|c| c.kind).collect();
    assert_eq!(names, ["linear", "trees", "mlp", "forest"]);
    assert!(
        table
            .candidates
            .iter()
            .all(|c| c.value.is_some() && !c.verdict.is_empty())
    );
    assert_eq!(table.chosen, chosen.kind.name());
    // the cheapest of those within 1 % of the smallest error
    let of = |name: &str| table.candidates.iter().find(|c| c.kind == name).unwrap();
    let least = table
        .candidates
        .iter()
        .filter_map(|c| c.value)
        .fold(f64::INFINITY, f64::min);
    let taken = of(table.chosen);
    assert!(taken.value.unwrap() <= 1.01 * least, "{table:?}");
    for other in table.candidates.iter().filter(|c| c.kind != taken.kind) {
        assert!(
            other.value.unwrap() > 1.01 * least || other.milliseconds >= taken.milliseconds,
            "{table:?}"
        );
    }
    assert_eq!(
        (chosen.name.as_str(), chosen.seed),
        ("esol", 7),
        "what is no choice stays"
    );

    let none = Budget {
        milliseconds: 1e-3,
        time: std::time::Duration::ZERO,
    };
    let error = choose(&dataset, &base, &none, &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("latency budget"), "{error}");
}

#[test]
fn trees_and_forests_are_trained_measured_and_packed() {
    for kind in [ModelKind::Trees, ModelKind::Forest] {
        let mut config = TrainConfig {
            seed: 7,
            ..TrainConfig::preset(kind)
        };
        config.trees.trees = 40;
        let trained = quiet(&esol(), &config).unwrap();
        let metrics = &trained.report.metrics;
        assert!(metrics.float < 1.2, "{kind:?} {metrics:?}");
        assert!(
            (metrics.twin / metrics.float - 1.0).abs() < 0.01,
            "{metrics:?}"
        );
        assert_eq!(trained.bundle.manifest().graph.steps().len(), 2);
        assert!(trained.bundle.manifest().outputs[0].interval90.unwrap() > 0.0);
        assert!(trained.bundle.manifest().domain.is_some());
    }
}

#[test]
fn an_imported_model_is_measured_and_packed() {
    // logS falls with the first count: one split, as XGBoost writes it
    let json = br#"{"learner":{"feature_names":[],"feature_types":[],
        "learner_model_param":{"base_score":"-3","num_class":"0","num_feature":"2048","num_target":"1"},
        "objective":{"name":"reg:squarederror","reg_loss_param":{"scale_pos_weight":"1"}},
        "gradient_booster":{"name":"gbtree","model":{"gbtree_model_param":{"num_trees":"1","num_parallel_tree":"1"},
        "tree_info":[0],"trees":[{"tree_param":{"num_nodes":"3","size_leaf_vector":"1","num_feature":"2048"},
        "left_children":[1,-1,-1],"right_children":[2,-1,-1],"parents":[2147483647,0,0],
        "split_indices":[378,0,0],"split_conditions":[0.5,1.0,-1.0],"split_type":[0,0,0],
        "default_left":[0,0,0],"base_weights":[0,1.0,-1.0]}]}}},"version":[2,1,0]}"#;
    let dataset = esol();
    let imported = TreeModel::from_xgboost_json(json, dataset.featuriser()).unwrap();
    let model = ForeignModel::Trees(imported);
    let trained = import(&dataset, &config(ModelKind::Trees), model).unwrap();
    for row in &trained.held_out {
        let float = row.float_prediction[0];
        assert!(float == -2.0 || float == -4.0, "{float}");
        assert!((row.twin_prediction[0] - float).abs() < 0.01);
    }
}

#[test]
fn impossible_settings_are_refused_before_training() {
    let dataset = alkanes(30, |n| n.to_string(), Task::Regression);
    let base = config(ModelKind::Linear);
    for config in [
        TrainConfig {
            output_bits: 17,
            ..base.clone()
        },
        TrainConfig {
            activation_bits: Some(2),
            ..base.clone()
        },
        TrainConfig {
            test_fraction: 1.0,
            ..base.clone()
        },
        TrainConfig {
            test_fraction: f64::NAN,
            ..base.clone()
        },
        TrainConfig {
            learning_rate: f64::NAN,
            ..base.clone()
        },
        TrainConfig {
            ensemble: 0,
            ..base.clone()
        },
        TrainConfig {
            ensemble: 5,
            kind: ModelKind::Mlp,
            hidden: vec![300],
            ..base.clone()
        },
        TrainConfig {
            kind: ModelKind::Mlp,
            hidden: vec![0],
            ..base.clone()
        },
    ] {
        let error = quiet(&dataset, &config).unwrap_err();
        assert!(matches!(error, NetsError::Config { .. }), "{error}");
    }
    let unnamed = TrainConfig {
        name: "Not A Name".into(),
        ..base
    };
    assert!(matches!(quiet(&dataset, &unnamed), Err(NetsError::Name(_))));
}

#[test]
fn a_huge_learning_rate_is_named() {
    let config = TrainConfig {
        learning_rate: 1.0,
        weight_decay: 0.0,
        epochs: 5,
        ..mlp(&[4])
    };
    // it either diverges, and says so, or ends with finite numbers
    match quiet(&esol(), &config) {
        Ok(trained) => assert!(trained.report.twin_mean_difference < 1.0),
        Err(error) => assert!(matches!(error, NetsError::Diverged { .. }), "{error}"),
    }
}
