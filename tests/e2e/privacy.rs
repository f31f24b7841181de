//! Canaries: what must stay with one party is looked for in everything that the others keep.

use crate::platform::Platform;

/// A molecule that no training set holds.
const CANARY: &str = "CC(C)(F)c1ccc(cc1)C(=O)NCCSCc1ccco1";

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty()
        && haystack
            .windows(needle.len())
            .any(|window| window == needle)
}

#[test]
fn servers_keep_no_molecule_no_secret_key_and_no_token() {
    let platform = Platform::start(2);
    platform.publish("esol", true);
    let one = platform.json(&["query", "esol", "--smiles", CANARY]);
    assert!(one["values"][0].is_number());

    // beside initdb, or on PATH where initdb is a link
    let beside = platform.cluster.bin().join("pg_dump");
    let program = if beside.exists() {
        beside
    } else {
        "pg_dump".into()
    };
    let dump = std::process::Command::new(program)
        .args(["--dbname", &platform.cluster.url("postgres")])
        .output()
        .unwrap();
    assert!(
        dump.status.success(),
        "{}",
        String::from_utf8_lossy(&dump.stderr)
    );
    let dump = dump.stdout;
    assert!(
        contains(&dump, b"aqueous") || contains(&dump, b"esol"),
        "the dump holds the catalogue"
    );
    let logs: Vec<(String, Vec<u8>)> = ["registry", "gateway", "worker-1", "worker-2"]
        .iter()
        .map(|name| ((*name).to_owned(), platform.log(name).into_bytes()))
        .collect();
    assert!(
        logs.iter().all(|(_, log)| log.len() > 100),
        "the logs were kept"
    );

    let key = std::fs::read(platform.path("keys/default.key")).unwrap();
    let fragment = &key[64..96];
    let hex: String = fragment.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = std::fs::read(platform.path("local/querier.token")).unwrap();
    let bundle = std::fs::read(platform.path("esol.cxb")).unwrap();
    // weights near the end of the bundle, raw and as PostgreSQL dumps bytes
    let weights = &bundle[bundle.len() - 300..bundle.len() - 260];
    let weights_hex: String = weights.iter().map(|byte| format!("{byte:02x}")).collect();
    let places = logs.iter().map(|(name, log)| (name.as_str(), log));
    for (place, bytes) in places.chain([("database", &dump)]) {
        let secrets: [(&str, &[u8]); 6] = [
            ("the molecule", CANARY.as_bytes()),
            ("the secret key", fragment),
            ("the secret key in hex", hex.as_bytes()),
            ("the token", &token),
            ("weights", weights),
            ("weights in hex", weights_hex.as_bytes()),
        ];
        for (what, secret) in secrets {
            assert!(!contains(bytes, secret), "{place} holds {what}");
        }
    }
    // the search itself works: it finds what is there
    assert!(contains(&bundle, weights) && contains(&key, fragment));
}
