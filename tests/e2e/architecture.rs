//! The dependency arrows of docs/architecture.md, checked against what cargo resolves.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Names of everything that `package` depends on in a normal build, with only the features that
/// this package itself asks for.
fn dependencies(package: &str) -> BTreeSet<String> {
    let manifest = format!("{}/../Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let output = std::process::Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .args([
            "--format",
            "{lib}",
            "--manifest-path",
            &manifest,
            "--package",
            package,
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

#[test]
fn registry_and_gateway_know_neither_cryptography_of_models_nor_learning() {
    for package in ["chemxor-registry", "chemxor-gateway"] {
        let found = dependencies(package);
        assert!(
            found.contains("tonic"),
            "the tree of {package} was not read: {found:?}"
        );
        for forbidden in ["tfhe", "burn", "chemxor_fhe", "chemxor_nets"] {
            assert!(
                !found.contains(forbidden),
                "{package} depends on {forbidden}"
            );
        }
    }
}

#[test]
fn pure_crates_build_without_an_async_runtime() {
    for package in ["chemxor-core", "chemxor-fhe", "chemxor-chem"] {
        let found = dependencies(package);
        assert!(
            found.contains("thiserror"),
            "the tree of {package} was not read: {found:?}"
        );
        assert!(!found.contains("tokio"), "{package} depends on tokio");
    }
}

/// Arrows between our own crates; what is not here is not allowed.
#[test]
fn our_crates_depend_on_each_other_only_along_the_arrows() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("chemxor-proto", [].as_slice()),
        ("chemxor-core", &["chemxor-proto"]),
        ("chemxor-fhe", &["chemxor-core"]),
        ("chemxor-chem", &["chemxor-core"]),
        (
            "chemxor-nets",
            &["chemxor-core", "chemxor-fhe", "chemxor-chem"],
        ),
        ("chemxor-runtime", &["chemxor-core", "chemxor-proto"]),
        (
            "chemxor-registry",
            &["chemxor-core", "chemxor-proto", "chemxor-runtime"],
        ),
        (
            "chemxor-gateway",
            &["chemxor-core", "chemxor-proto", "chemxor-runtime"],
        ),
        (
            "chemxor-worker",
            &[
                "chemxor-core",
                "chemxor-fhe",
                "chemxor-proto",
                "chemxor-runtime",
            ],
        ),
        (
            "chemxor-client",
            &[
                "chemxor-core",
                "chemxor-fhe",
                "chemxor-chem",
                "chemxor-proto",
                "chemxor-runtime",
            ],
        ),
    ]);
    let metadata = MetadataCommand::new()
        .manifest_path(format!("{}/../Cargo.toml", env!("CARGO_MANIFEST_DIR")))
        .no_deps()
        .other_options(["--offline".to_owned(), "--locked".to_owned()])
        .exec()
        .unwrap();
    let mut checked = 0;
    for package in &metadata.packages {
        let Some(allowed) = allowed.get(package.name.as_str()) else {
            continue;
        };
        let normal = package
            .dependencies
            .iter()
            .filter(|d| d.kind == DependencyKind::Normal);
        for dependency in normal.filter(|d| d.path.is_some()) {
            let other = dependency.name.as_str();
            assert!(
                allowed.contains(&other),
                "{} must not depend on {other}",
                package.name
            );
        }
        checked += 1;
    }
    assert_eq!(checked, allowed.len());
}
