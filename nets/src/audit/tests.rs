use chemxor_core::Featuriser;
use rand_distr::{Distribution, StandardNormal};

use super::*;
use crate::config::{ModelKind, PrivateSettings};
use crate::dataset::ReadOptions;
use crate::train::train;
use crate::trees::TreeSettings;

/// Molecules with a weak signal and much noise, so that whoever fits them exactly remembers them.
fn noisy(rows: usize) -> Dataset {
    let counts = Featuriser::EcfpCounts {
        version: 1,
        radius: 2,
        size: 1024,
        max_count: 7,
    };
    noisy_as(rows, counts)
}

fn noisy_as(rows: usize, featuriser: Featuriser) -> Dataset {
    let mut rng = generator(5, 1);
    let atoms = ["C", "N", "O", "S", "CC", "C(=O)", "C(C)", "c1ccccc1"];
    let mut text = "smiles,target\n".to_owned();
    for _ in 0..rows {
        let smiles: String = (0..8)
            .map(|_| atoms[rng.random_range(0..atoms.len() - 1)])
            .collect();
        let noise: f64 = StandardNormal.sample(&mut rng);
        let class = u8::from(smiles.matches('O').count() as f64 + 2.0 * noise > 2.0);
        text += &format!("C{smiles}C,{class}\n");
    }
    let options = ReadOptions {
        task: Task::Binary,
        featuriser,
        ..ReadOptions::default()
    };
    Dataset::from_csv("noisy.csv", text.as_bytes(), &options).unwrap()
}

fn attacked(dataset: &Dataset, config: &TrainConfig) -> PrivacyAudit {
    let trained = train(dataset, config, &mut |_| {}).unwrap();
    let options = AuditOptions {
        shadows: 12,
        budget: None,
    };
    let mut seen = Vec::new();
    let found = audit(
        dataset,
        config,
        &trained.bundle,
        &options,
        &mut |progress| {
            seen.push(progress.done);
        },
    );
    assert_eq!(seen.last(), Some(&12));
    found.unwrap()
}

/// Trees so deep and unpenalised that they fit noise.
fn memorising() -> TrainConfig {
    TrainConfig {
        kind: ModelKind::Forest,
        trees: TreeSettings {
            trees: 20,
            depth: 10,
            least_leaf: 1,
            columns: 1.0,
            penalty: 0.0,
            ..TreeSettings::forest()
        },
        test_fraction: 0.5,
        ..TrainConfig::default()
    }
}

#[test]
fn a_model_that_memorises_is_attacked_and_one_of_eleven_numbers_much_less() {
    let dataset = noisy(300);
    let deep = attacked(&dataset, &memorising());
    // ten descriptors and an offset: too few numbers to remember 150 molecules
    let few = noisy_as(300, chemxor_chem::named("descriptors").unwrap());
    let small = attacked(
        &few,
        &TrainConfig {
            kind: ModelKind::Linear,
            test_fraction: 0.5,
            ..TrainConfig::default()
        },
    );
    let area = |audit: &PrivacyAudit, target| {
        let (attack, _) = audit.worst(target, 0.0).unwrap();
        (attack.auc, attack.auc_interval)
    };
    for target in [Target::Published, Target::Procedure] {
        let (deep_area, interval) = area(&deep, target);
        assert!(interval[0] > 0.6, "{target:?} {deep_area} {interval:?}");
        let small_area = area(&small, target).0;
        assert!(
            small_area < deep_area - 0.1,
            "{target:?} {small_area} {deep_area}"
        );
    }
    // the operating points say what they rest on
    for attack in deep.attacks.iter().chain(&small.attacks) {
        for point in &attack.points {
            let p = point.false_positives;
            assert_eq!(p.of, attack.others);
            assert!(p.count as f64 <= point.at * p.of as f64);
            assert!(p.high > 0.0 && point.true_positives.of == attack.members);
        }
        let ends = (attack.roc[0], attack.roc[attack.roc.len() - 1]);
        assert!(ends.0[0] == 0.0 && ends.1 == [1.0, 1.0]);
    }
    let groups: Vec<&str> = deep
        .attacks
        .iter()
        .map(|attack| attack.group.as_str())
        .collect();
    assert!(
        groups
            .iter()
            .any(|group| group.starts_with("minority class"))
    );
    // twelve shadows attacked in turn: every molecule as often a member as not
    let recipe = deep.worst(Target::Procedure, 0.0).unwrap().0;
    assert_eq!((recipe.members, recipe.others), (6 * 300, 6 * 300));

    let json = serde_json::to_vec(&deep).unwrap();
    let read = PrivacyAudit::from_json("a.json", &json).unwrap();
    // the text of a number may differ from it in the last bit
    let (a, b) = (
        area(&read, Target::Published),
        area(&deep, Target::Published),
    );
    assert!((a.0 - b.0).abs() < 1e-12);
    assert_eq!(
        (read.shadows, read.attacks.len(), &read.version),
        (deep.shadows, deep.attacks.len(), &deep.version)
    );
    assert!(matches!(
        PrivacyAudit::from_json("a.json", b"{}"),
        Err(NetsError::Audit { .. })
    ));
}

/// Models that know nothing: the attack must find nothing either, at the stated false alarm rate.
/// With pure noise as confidence every interval holds what guessing gives.
#[test]
fn guessing_is_not_taken_for_an_attack() {
    let mut rng = generator(9, 1);
    let mut model = |pair: usize, second: bool| {
        let mut halves = generator(11, pair as u64);
        Observed {
            learned: (0..400)
                .map(|_| halves.random_bool(0.5) != second)
                .collect(),
            confidence: (0..400)
                .map(|_| vec![StandardNormal.sample(&mut rng)])
                .collect(),
        }
    };
    let shadows: Vec<Observed> = (0..16)
        .map(|number| model(number / 2, number % 2 == 1))
        .collect();
    let target = model(99, false);
    let everybody = vec![true; 400];
    for (target, attacked) in [
        (Target::Published, attack::on_target(&target, &shadows)),
        (Target::Procedure, attack::on_procedure(&shadows)),
    ] {
        for Attacked { variant, pairs } in &attacked {
            let found = attack::judge(target, EVERYBODY, variant, pairs, &everybody, 1).unwrap();
            // four standard errors of the area of guesses
            let (m, n) = (found.members as f64, found.others as f64);
            let error = ((m + n + 1.0) / (12.0 * m * n)).sqrt();
            assert!(
                (found.auc - 0.5).abs() < 4.0 * error,
                "{target:?} {variant} {}",
                found.auc
            );
            let point = &found.points[1];
            assert!(point.true_positives.low <= 0.005, "{point:?}");
        }
    }
}

#[test]
fn an_audit_needs_the_very_data_and_options_of_the_training() {
    let dataset = noisy(120);
    let config = TrainConfig {
        kind: ModelKind::Linear,
        ..TrainConfig::default()
    };
    let trained = train(&dataset, &config, &mut |_| {}).unwrap();
    let refused = |dataset: &Dataset, config: &TrainConfig, shadows| {
        let options = AuditOptions {
            shadows,
            budget: None,
        };
        audit(dataset, config, &trained.bundle, &options, &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&noisy(121), &config, 4).contains("the very training file"));
    let other = TrainConfig {
        test_fraction: 0.4,
        ..config.clone()
    };
    assert!(refused(&dataset, &other, 4).contains("--test-fraction"));
    for shadows in [0, 2, 5, 514] {
        assert!(refused(&dataset, &config, shadows).contains("even number from 4 to 512"));
    }
    // a spent budget still gives the least that can be judged
    let options = AuditOptions {
        shadows: 40,
        budget: Some(Duration::ZERO),
    };
    let found = audit(&dataset, &config, &trained.bundle, &options, &mut |_| {}).unwrap();
    assert!((4..40).contains(&found.shadows), "{}", found.shadows);
}

/// Noisy gradients bring the attack down; the guarantee stands in the manifest, and only what was
/// not covered shaped the rest.
#[test]
fn noisy_gradients_keep_a_network_from_memorising() {
    let dataset = noisy(240);
    let network = |private| TrainConfig {
        kind: ModelKind::Mlp,
        hidden: vec![32],
        epochs: 60,
        patience: 60,
        batch: 32,
        weight_decay: 0.0,
        learning_rate: 1e-2,
        activation_bits: Some(6),
        test_fraction: 0.4,
        private,
        ..TrainConfig::default()
    };
    let settings = PrivateSettings {
        epsilon: 2.0,
        delta: Some(1e-4),
        clip: 1.0,
        target_range: None,
    };
    let private = network(Some(settings));
    let trained = train(&dataset, &private, &mut |_| {}).unwrap();
    let manifest = trained.bundle.manifest();
    let said = manifest.privacy.clone().unwrap().differential.unwrap();
    assert!(
        said.epsilon <= 2.0 && said.epsilon > 1.9 && said.delta == 1e-4,
        "{said:?}"
    );
    let covered = (manifest.data.train_rows as f64 * 0.85).round() as u64;
    assert!(said.rows.abs_diff(covered) <= 2, "{said:?}");
    let again = train(&dataset, &private, &mut |_| {}).unwrap();
    assert!(
        trained.weights != again.weights,
        "the noise is not from the public seed"
    );

    let area = |config: &TrainConfig| {
        let found = attacked(&dataset, config);
        found.worst(Target::Procedure, 0.0).unwrap().0.auc
    };
    let (plain, noisy) = (area(&network(None)), area(&private));
    assert!(plain > 0.6, "{plain}");
    assert!(noisy < 0.57 && noisy < plain - 0.05, "{noisy} {plain}");
}

#[test]
fn private_training_refuses_what_would_break_its_guarantee() {
    let dataset = noisy(120);
    let settings = PrivateSettings {
        epsilon: 3.0,
        delta: None,
        clip: 1.0,
        target_range: None,
    };
    let base = TrainConfig {
        private: Some(settings),
        ..TrainConfig::default()
    };
    for config in [
        TrainConfig {
            kind: ModelKind::Trees,
            ..base.clone()
        },
        TrainConfig {
            ensemble: 2,
            ..base.clone()
        },
        TrainConfig {
            class_weights: crate::config::ClassWeights::Balanced,
            ..base.clone()
        },
        TrainConfig {
            checkpoints: Some("x".into()),
            ..base.clone()
        },
        TrainConfig {
            private: Some(PrivateSettings {
                epsilon: 0.0,
                ..settings
            }),
            ..base.clone()
        },
        TrainConfig {
            private: Some(PrivateSettings {
                clip: f64::NAN,
                ..settings
            }),
            ..base.clone()
        },
        TrainConfig {
            private: Some(PrivateSettings {
                target_range: Some([2.0, 1.0]),
                ..settings
            }),
            ..base.clone()
        },
    ] {
        let error = train(&dataset, &config, &mut |_| {}).unwrap_err();
        assert!(matches!(error, NetsError::Config { .. }), "{error}");
    }
    // numbers have no range that could be known without looking
    let text = "smiles,target\n".to_owned()
        + &(1..60)
            .map(|n| format!("{},{n}\n", "C".repeat(n)))
            .collect::<String>();
    let numbers = Dataset::from_csv("n.csv", text.as_bytes(), &ReadOptions::default()).unwrap();
    let error = train(&numbers, &base, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("--dp-target-range"), "{error}");
    let ranged = TrainConfig {
        epochs: 3,
        hidden: vec![4],
        private: Some(PrivateSettings {
            target_range: Some([0.0, 100.0]),
            ..settings
        }),
        ..base
    };
    assert!(train(&numbers, &ranged, &mut |_| {}).is_ok());
}
