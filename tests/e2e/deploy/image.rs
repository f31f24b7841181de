//! The Dockerfile: built with the Rust that the workspace asks for, from sources that are whole, run
//! by the user that compose and chart name.

use std::collections::BTreeSet;
use std::path::Path;

use cargo_metadata::MetadataCommand;

use super::{root, text};

/// Instructions with their arguments, continued lines joined.
pub(super) fn instructions() -> Vec<(String, String)> {
    let file = text("Dockerfile").replace("\\\n", " ");
    file.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
        .collect()
}

/// What the instruction `name` says where it stands last, which is in the image that is kept.
pub(super) fn last(name: &str) -> String {
    let found = instructions().into_iter().rev().find(|(n, _)| n == name);
    found.unwrap_or_else(|| panic!("no {name}")).1
}

/// Sources that are copied from the working tree; each keeps its place.
fn copied() -> BTreeSet<String> {
    let copies = instructions()
        .into_iter()
        .filter(|(name, rest)| name == "COPY" && !rest.starts_with("--from="));
    let mut found = BTreeSet::new();
    for (_, rest) in copies {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let (to, sources) = words.split_last().unwrap();
        let in_place = *to == "./" || sources == [*to];
        assert!(in_place, "{rest} moves what manifests point at");
        found.extend(sources.iter().map(|source| (*source).to_owned()));
    }
    found
}

#[test]
fn the_image_is_built_by_the_rust_of_the_workspace_from_everything_it_needs() {
    let root = root().canonicalize().unwrap();
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned(), "--locked".to_owned()])
        .exec()
        .unwrap();
    let wanted = metadata.packages[0].rust_version.as_ref().unwrap();
    let first = &instructions()[0];
    assert_eq!(first.0, "FROM");
    let version = format!("rust:{}.{}-", wanted.major, wanted.minor);
    assert!(
        first.1.starts_with(&version),
        "{} is not {version}",
        first.1
    );

    let copied = copied();
    for source in &copied {
        assert!(root.join(source).exists(), "{source} does not exist");
    }
    let inside = |path: &Path| {
        let path = path.canonicalize().unwrap();
        let path = path.strip_prefix(&root).unwrap().to_owned();
        copied.iter().any(|source| path.starts_with(source))
    };
    assert!(
        !inside(&root.join("README.md")),
        "the check finds what lacks"
    );
    for package in &metadata.packages {
        for target in &package.targets {
            let path = target.src_path.as_std_path();
            assert!(inside(path), "{} is not copied", path.display());
        }
    }
    for path in ["Cargo.lock", "migrations"] {
        assert!(inside(&root.join(path)), "{path} is not copied");
    }
}

#[test]
fn the_image_holds_the_program_alone_and_runs_it_as_nobody() {
    assert_eq!(last("ENTRYPOINT"), r#"["/usr/bin/chemxor"]"#);
    assert_eq!(last("USER"), "65532:65532");
    let from = last("FROM");
    assert!(from.ends_with("-slim"), "{from}");
    let build = &instructions()[0].1;
    let release = |image: &str| {
        let tag = image.split(':').nth(1).unwrap();
        let names = tag.split(['-', ' ']);
        let mut names = names.filter(|name| ["bookworm", "trixie"].contains(name));
        names.next().unwrap().to_owned()
    };
    assert_eq!(release(&from), release(build), "one C library in both");
    let program = "--from=build /source/target/release/chemxor /usr/bin/chemxor";
    assert_eq!(last("COPY"), program);
    let builds = instructions()
        .into_iter()
        .any(|(name, rest)| name == "RUN" && rest.contains("--locked --workspace --bin chemxor"));
    assert!(builds);
}
