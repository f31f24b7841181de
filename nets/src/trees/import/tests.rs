use chemxor_core::{Featuriser, Task};

use super::*;

fn featuriser(size: u32) -> Featuriser {
    Featuriser::EcfpCounts {
        version: 1,
        radius: 2,
        size,
        max_count: 7,
    }
}

fn read(text: &str, size: u32) -> Result<Imported, ImportError> {
    if text.starts_with('{') {
        TreeModel::from_xgboost_json(text.as_bytes(), &featuriser(size))
    } else {
        TreeModel::from_lightgbm_text(text.as_bytes(), &featuriser(size))
    }
}

const LIGHTGBM: &str = "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nmax_feature_idx=1\nobjective=binary sigmoid:2\n\nTree=0\nnum_leaves=3\nsplit_feature=0 1\nthreshold=1.0000000180025095e-35 3.5\ndecision_type=2 2\nleft_child=-1 -2\nright_child=1 -3\nleaf_value=-1 0.5 2\nis_linear=0\n\nend of trees\n";

#[test]
fn lightgbm_thresholds_belong_to_the_left() {
    let imported = read(LIGHTGBM, 2).unwrap();
    assert_eq!(imported.task, Task::Binary);
    for (x, wanted) in [([0, 7], -2.0), ([1, 3], 1.0), ([1, 4], 4.0)] {
        assert_eq!(imported.model.predict(&x), [wanted]);
    }
}

#[test]
fn what_cannot_be_imported_is_named() {
    for (from, to, named) in [
        ("objective=binary", "objective=poisson", "poisson"),
        ("is_linear=0", "is_linear=1", "linear leaves"),
        ("version=v4", "version=v9", "v9"),
        ("decision_type=2", "decision_type=3", "categorical"),
        ("decision_type=2", "decision_type=6", "zeros"),
        ("end of trees", "", "end of trees"),
        ("left_child=-1", "left_child=0", "two parents"),
        ("left_child=-1", "left_child=-9", "-9"),
    ] {
        let error = read(&LIGHTGBM.replace(from, to), 2).unwrap_err();
        assert!(error.to_string().contains(named), "{named}: {error}");
    }
    let error = read(LIGHTGBM, 3).unwrap_err();
    assert_eq!(
        error,
        ImportError::Features {
            got: 2,
            expected: 3
        }
    );
    assert!(matches!(read("{", 1), Err(ImportError::Format { .. })));
}

/// XGBoost sends `x < t` left, so a whole threshold belongs to the right side.
#[test]
fn whole_thresholds_fall_on_the_right_side() {
    let tree = |threshold: f64| {
        format!(
            r#"{{"learner":{{"gradient_booster":{{"name":"gbtree","model":{{"tree_info":[0],"trees":[{{
            "left_children":[1,-1,-1],"right_children":[2,-1,-1],"split_conditions":[{threshold},-1.0,1.0],
            "split_indices":[0,0,0],"tree_param":{{}}}}]}}}},
            "learner_model_param":{{"base_score":"5E-1","num_class":"0","num_feature":"1"}},
            "objective":{{"name":"reg:squarederror"}}}}}}"#
        )
    };
    for threshold in [-0.5, 0.0, 0.5, 3.0, 3.5, 7.0, 7.5, 1e9] {
        let imported = read(&tree(threshold), 1).unwrap();
        for x in 0..8u16 {
            let wanted = 0.5 + if f64::from(x) < threshold { -1.0 } else { 1.0 };
            assert_eq!(imported.model.predict(&[x]), [wanted], "{x} < {threshold}");
        }
    }
}
