//! The sample configurations: what the services read, with every key shown and explained.

use std::collections::BTreeSet;

use super::{sample, text};

/// Keys (`operations.listen`) without a comment of their own: none on their line, none directly
/// above. A key's comment ends where the next key begins.
fn unexplained(toml: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut keys, mut bare) = (BTreeSet::new(), BTreeSet::new());
    let (mut section, mut above) = (String::new(), "");
    for line in toml.lines() {
        let name = match line.strip_prefix('[') {
            Some(table) => {
                section = format!("{}.", table.split(']').next().unwrap());
                Some(section.trim_end_matches('.').to_owned())
            }
            None if line.starts_with('#') => None,
            None => line
                .split_once(" = ")
                .map(|(key, _)| format!("{section}{key}")),
        };
        if let Some(name) = name {
            if !above.starts_with('#') && !line.contains(" # ") {
                bare.insert(name.clone());
            }
            assert!(keys.insert(name.clone()), "{name} stands twice");
        }
        above = line;
    }
    (keys, bare)
}

/// Mebibytes that a gateway of the sample configuration needs: twice what its messages may take, as
/// the handbook says.
pub(super) fn gateway_mebibytes() -> u64 {
    let gateway: chemxor_gateway::GatewayConfig = sample("gateway.toml");
    2 * gateway.limits.memory_mib as u64
}

/// Field names of the structs that a configuration file is read into.
fn fields(source: &str) -> impl Iterator<Item = &str> {
    source
        .split("Deserialize)]")
        .skip(1)
        .filter_map(|after| after.split("\n}").next())
        .flat_map(str::lines)
        .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'))
        .map(|(field, _)| field)
        .filter(|field| !field.contains(' '))
}

#[test]
fn sample_configurations_parse_and_explain_every_key() {
    let registry: chemxor_registry::RegistryConfig = sample("registry.toml");
    assert_ne!(registry.listen.port(), 0);
    let gateway: chemxor_gateway::GatewayConfig = sample("gateway.toml");
    assert_eq!(
        gateway.limits,
        chemxor_gateway::Limits::default(),
        "the sample shows the defaults"
    );
    let worker: chemxor_worker::WorkerConfig = sample("worker.toml");
    assert!(worker.sealing_key.is_absolute());
    assert_eq!(
        worker.stream_memory_mib,
        chemxor_worker::STREAM_MEMORY_MIB,
        "the sample shows the default"
    );
    assert!(
        worker.organisations.is_empty(),
        "a worker as in the sample serves everybody"
    );

    let sources = [
        (
            "gateway.toml",
            include_str!("../../../gateway/src/config.rs"),
        ),
        (
            "worker.toml",
            include_str!("../../../services/worker/src/config.rs"),
        ),
        (
            "registry.toml",
            include_str!("../../../registry/src/lib.rs"),
        ),
    ];
    let shared = include_str!("../../../services/runtime/src/operations.rs");
    for (name, source) in sources {
        let (keys, bare) = unexplained(&text(name));
        assert!(bare.is_empty(), "{name}: no comment at {bare:?}");
        let mut count = 0;
        for field in fields(source)
            .chain(fields(shared))
            .chain(["ca", "cert", "key"])
        {
            let shown = keys.iter().any(|key| key.rsplit('.').next() == Some(field));
            assert!(shown, "{name} does not show {field}");
            count += 1;
        }
        assert!(count >= 12, "{name}: only {count} fields were found");
    }
}

#[test]
fn a_key_after_an_explained_one_needs_a_comment_of_its_own() {
    let toml = "# one\na = 1\nb = 2\nc = 3 # three\n\n# table\n[t]\nd = 4\n# gone\n\ne = 5\n";
    let (keys, bare) = unexplained(toml);
    assert_eq!(keys.len(), 6);
    assert_eq!(bare.into_iter().collect::<Vec<_>>(), ["b", "t.d", "t.e"]);
}
