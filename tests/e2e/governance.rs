//! The whole governance story with real processes: organisations, members, tokens, visibility,
//! aliases, quotas, sunset, the audit log and certificates, each through the command.

use serde_json::Value;

use crate::platform::Platform;

/// The platform's folder as text.
fn text(platform: &Platform, name: &str) -> String {
    platform.path(name).display().to_string()
}

fn names(values: &Value) -> Vec<&str> {
    let values = values.as_array().unwrap().iter();
    values
        .map(|value| value["name"].as_str().unwrap())
        .collect()
}

/// The arguments of a command that is run with a token.
fn holding<'a>(token: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &["--token-file", token]].concat()
}

#[test]
fn an_organisation_joins_is_governed_and_leaves() {
    let platform = Platform::start(1);
    let json = |arguments: &[&str]| platform.json(arguments);
    let refusal = |arguments: &[&str]| platform.refusal(arguments);

    // organisations, a member, a token that is narrowed and kept in a file
    json(&["org", "create", "acme"]);
    json(&["org", "create", "uni-basel"]);
    assert_eq!(
        names(&json(&["org", "list"])),
        ["acme", "default", "uni-basel"]
    );
    let alice = ["alice", "--org", "uni-basel", "--role", "querier"];
    json(&[&["member", "add"], &alice[..]].concat());
    let token = text(&platform, "alice.token");
    let create = [
        "token",
        "create",
        "--org",
        "uni-basel",
        "--subject",
        "alice",
        "--role",
        "querier",
    ];
    let made = json(&[&create[..], &["--model", "esol", "--output", &token]].concat());
    assert!(made.get("token").is_none(), "in the file only: {made}");
    let listed = json(&["token", "list", "--org", "uni-basel"]);
    assert_eq!(listed[0]["state"], "active");
    assert_eq!(listed[0]["models"][0], "esol");
    let far = refusal(&holding(&token, &["org", "list"]));
    assert!(far.contains("CX-A03"), "{far}");

    // a model is private until its owner says otherwise
    let first = platform.publish("esol", true);
    assert_eq!(json(&holding(&token, &["catalog"])), Value::Array(vec![]));
    let alone = refusal(&["model", "visibility", "esol", "everyone"]);
    assert!(alone.contains("--yes"), "{alone}");
    json(&["consortium", "set", "solubility", "acme", "uni-basel"]);
    let leaves = refusal(&["consortium", "set", "solubility", "acme"]);
    assert!(leaves.contains("uni-basel will no longer see"), "{leaves}");
    json(&[
        "model",
        "visibility",
        "esol",
        "consortium",
        "--consortium",
        "solubility",
    ]);
    assert_eq!(names(&json(&holding(&token, &["catalog"]))), ["esol"]);
    let shown = json(&["model", "visibility", "esol"]);
    assert_eq!(shown["consortium"], "solubility");

    // an alias moves, tells its history, and goes back
    let second = platform.publish("esol", true);
    assert_ne!(first, second);
    json(&["alias", "set", "esol", "stable", &first]);
    json(&["alias", "set", "esol", "stable", &second]);
    let shown = json(&holding(&token, &["model", "show", "esol@stable"]));
    assert_eq!(shown["version"], second.as_str());
    json(&["alias", "rollback", "esol", "stable", "--yes"]);
    let history = json(&holding(&token, &["alias", "history", "esol", "stable"]));
    let to: Vec<&str> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["to"].as_str().unwrap())
        .collect();
    assert_eq!(to, [&first, &second, &first]);
    assert_eq!(json(&["alias", "list", "esol"])[0]["to"], first.as_str());

    // limits keep what is not named
    json(&[
        "quota",
        "set",
        "esol",
        "--org",
        "uni-basel",
        "--queries-per-day",
        "100",
    ]);
    let set = json(&[
        "quota",
        "set",
        "esol",
        "--org",
        "uni-basel",
        "--lifetime-queries",
        "5000",
    ]);
    assert_eq!(
        (&set["queries_per_day"], &set["lifetime_queries"]),
        (&100.into(), &5000.into())
    );
    let lifted = json(&[
        "quota",
        "set",
        "esol",
        "--org",
        "uni-basel",
        "--queries-per-day",
        "none",
    ]);
    assert_eq!(lifted["queries_per_day"], Value::Null);
    let shown = json(&["quota", "show", "esol"]);
    assert_eq!(shown["quotas"][0]["lifetime_queries"], 5000);

    // proofs outlive the registry
    let (key, proof) = (
        text(&platform, "local/registry-signing.pub"),
        text(&platform, "esol.proof"),
    );
    let exact = format!("esol@{first}");
    let verified = json(&["verify", &exact, "--registry-key", &key, "--output", &proof]);
    assert_eq!(verified["pinned"]["registry"], true);

    // a sunset in the past ends the service, once and for all
    let exact_second = format!("esol@{second}");
    let asked = refusal(&[
        "model",
        "deprecate",
        &exact_second,
        "--reason",
        "superseded",
    ]);
    assert!(asked.contains("--yes"), "{asked}");
    let past = ["--sunset", "2026-01-01", "--reason", "superseded", "--yes"];
    let deprecated = json(&[&["model", "deprecate", &exact_second], &past[..]].concat());
    assert_eq!(deprecated["state"], "deprecated");
    let late = refusal(&holding(
        &token,
        &["query", &exact_second, "--smiles", "CCO"],
    ));
    assert!(late.contains("CX-M10"), "{late}");

    // suspended, removed, revoked: each ends the token in its own way
    json(&holding(&token, &["query", &exact, "--smiles", "CCO"]));
    json(&["org", "suspend", "uni-basel", "--yes"]);
    let refused = refusal(&holding(&token, &["catalog"]));
    assert!(refused.contains("CX-A08"), "{refused}");
    json(&["org", "resume", "uni-basel"]);
    json(&holding(&token, &["catalog"]));
    json(&["member", "remove", "alice", "--org", "uni-basel", "--yes"]);
    assert!(refusal(&holding(&token, &["catalog"])).contains("CX-A02"));
    let members = json(&["member", "list", "--org", "uni-basel"]);
    assert_eq!(members[0]["state"], "removed");
    json(&[&["member", "add"], &alice[..]].concat());
    json(&holding(&token, &["catalog"]));
    let id = made["id"].as_str().unwrap();
    json(&["token", "revoke", id, "--yes"]);
    assert!(refusal(&holding(&token, &["catalog"])).contains("CX-A02"));
    let listed = json(&["token", "list", "--org", "uni-basel"]);
    assert_eq!(listed[0]["state"], "revoked");

    // the log tells all of it, and is verified without the registry
    let events = json(&["audit", "list", "--last", "200"]);
    let actions: Vec<&str> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["action"].as_str().unwrap())
        .collect();
    for action in [
        "organisation.set",
        "consortium.set",
        "member.set",
        "member.remove",
        "token.create",
        "token.revoke",
        "token.list",
        "model.visibility",
        "alias.set",
        "quota.set",
        "version.approve",
        "version.deprecate",
        "audit.export",
    ] {
        assert!(actions.contains(&action), "{action}: {actions:?}");
    }
    let log = text(&platform, "audit.jsonl");
    json(&["audit", "export", "--output", &log]);
    let again = refusal(&["audit", "export", "--output", &log]);
    assert!(again.contains("exists"), "{again}");
    let mut platform = platform;
    platform.kill_registry();
    let summary = platform.json(&["audit", "verify", &log, "--registry-key", &key]);
    assert!(summary["rows"].as_u64().unwrap() > 30, "{summary}");
    let verified = platform.json(&["verify", &proof, "--registry-key", &key]);
    assert_eq!(verified["version"], first.as_str());

    let content = std::fs::read_to_string(&log).unwrap();
    let secret = std::fs::read_to_string(&token).unwrap();
    assert!(!content.contains(&secret));
    let broken = text(&platform, "broken.jsonl");
    let lines: Vec<&str> = content.lines().collect();
    let swapped = [&[lines[0], lines[2], lines[1]], &lines[3..]]
        .concat()
        .join("\n");
    let removed = [&lines[..5], &lines[6..]].concat().join("\n");
    let cut = lines[..lines.len() - 1].join("\n");
    let changed = content.replacen("uni-basel", "uni-bazel", 1);
    for (what, bad) in [
        ("swapped", swapped),
        ("removed", removed),
        ("cut", cut),
        ("changed", changed),
    ] {
        std::fs::write(&broken, bad).unwrap();
        let said = platform.refusal(&["audit", "verify", &broken, "--registry-key", &key]);
        assert!(said.contains("CX-G04"), "{what}: {said}");
    }
    let forged = std::fs::read_to_string(&proof)
        .unwrap()
        .replacen("esol", "esoL", 1);
    std::fs::write(&broken, forged).unwrap();
    platform.refusal(&["verify", &broken, "--registry-key", &key]);
    let unpinned = platform.refusal(&["verify", &proof]);
    assert!(unpinned.contains("--registry-key"), "{unpinned}");
    let other = platform.refusal(&["verify", &proof, "--registry-key", &"00".repeat(32)]);
    assert!(other.contains("counter-signature"), "{other}");
}
