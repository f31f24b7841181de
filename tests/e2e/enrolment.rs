//! Certificates and cards through the command: a lab joins with a key that it made itself, renews,
//! and is shut out; a publisher writes a card.

use std::os::unix::fs::PermissionsExt;

use crate::platform::Platform;

fn text(platform: &Platform, name: &str) -> String {
    platform.path(name).display().to_string()
}

/// The arguments of a command that is run by a profile.
fn by<'a>(profile: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &["--profile", profile]].concat()
}

#[test]
fn a_lab_joins_renews_and_is_denied() {
    let platform = Platform::start(1);
    platform.publish("esol", true);
    let json = |arguments: &[&str]| platform.json(arguments);
    let refusal = |arguments: &[&str]| platform.refusal(arguments);
    let (here, ca) = (text(&platform, "lab-7"), text(&platform, "local"));

    // the key is made here and stays; only the request goes to the administrator
    let made = json(&["join", "lab-7", "--output", &here]);
    let again = refusal(&["join", "lab-7", "--output", &here]);
    assert!(again.contains("exists"), "{again}");
    let key = text(&platform, "lab-7/lab-7.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (csr, pem) = (
        text(&platform, "lab-7/lab-7.csr"),
        text(&platform, "lab-7/lab-7.pem"),
    );
    let signed = json(&[
        "cert",
        "sign",
        &csr,
        "--authority",
        &ca,
        "--days",
        "7",
        "--output",
        &pem,
    ]);
    assert_eq!(signed["subject"], "chemxor://client/lab-7");
    assert_eq!(signed["fingerprint"], made["fingerprint"]);
    let token = format!("querier={}", text(&platform, "local/querier.token"));
    let (registry, gateway) = (
        platform.registry.as_ref().unwrap().address.clone(),
        platform.gateway.as_ref().unwrap().address.clone(),
    );
    let authority = text(&platform, "local/ca.pem");
    json(&[
        "profiles",
        "add",
        "lab",
        "--registry",
        &registry,
        "--gateway",
        &gateway,
        "--ca",
        &authority,
        "--cert",
        &pem,
        "--key",
        &key,
        "--token",
        &token,
    ]);
    json(&by("lab", &["query", "esol", "--smiles", "CCO"]));

    // renewal: a new key, a request, a signature, and the new pair is in place
    let first = json(&by("lab", &["cert", "renew"]));
    assert_eq!(first["state"], "waiting");
    let same = json(&by("lab", &["cert", "renew"]));
    assert_eq!(same["id"], first["id"]);
    let id = first["id"].as_str().unwrap();
    assert_eq!(json(&["cert", "list", "--waiting"])[0]["id"], id);
    json(&["cert", "sign", id, "--authority", &ca]);
    let renewed = json(&by("lab", &["cert", "renew"]));
    assert_eq!(renewed["state"], "issued");
    assert_ne!(renewed["serial"], signed["serial"]);
    json(&by("lab", &["query", "esol", "--smiles", "CCO"]));

    // a request that is refused leaves the old pair as it is
    let second = json(&by("lab", &["cert", "renew"]));
    let id = second["id"].as_str().unwrap();
    json(&["cert", "refuse", id, "--reason", "too early", "--yes"]);
    let told = refusal(&by("lab", &["cert", "renew"]));
    assert!(told.contains("too early"), "{told}");
    json(&by("lab", &["catalog"]));
    let states: Vec<String> = json(&["cert", "list"])
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states, ["refused", "issued", "issued"]);

    // denied, it is refused; another authority's certificate never was welcome
    let asked = refusal(&["cert", "deny", "chemxor://client/lab-7", "--reason", "lost"]);
    assert!(asked.contains("--yes"), "{asked}");
    json(&[
        "cert",
        "deny",
        "chemxor://client/lab-7",
        "--reason",
        "lost",
        "--yes",
    ]);
    assert_eq!(
        json(&["cert", "denied"])[0]["subject"],
        "chemxor://client/lab-7"
    );
    let refused = refusal(&by("lab", &["catalog"]));
    assert!(refused.contains("CX-A04"), "{refused}");
    let (foreign, stranger) = (text(&platform, "foreign"), text(&platform, "stranger"));
    json(&["cert", "authority", &foreign, "--name", "foreign"]);
    json(&["join", "lab-8", "--output", &stranger]);
    let csr = text(&platform, "stranger/lab-8.csr");
    let unrecorded = refusal(&["cert", "sign", &csr, "--authority", &foreign]);
    assert!(unrecorded.contains("authority"), "{unrecorded}");
    let pem = text(&platform, "stranger/lab-8.pem");
    json(&[
        "cert",
        "sign",
        &csr,
        "--authority",
        &foreign,
        "--offline",
        "--output",
        &pem,
    ]);
    let key = text(&platform, "stranger/lab-8.key");
    json(&[
        "profiles",
        "add",
        "far",
        "--registry",
        &registry,
        "--gateway",
        &gateway,
        "--ca",
        &authority,
        "--cert",
        &pem,
        "--key",
        &key,
        "--token",
        &token,
    ]);
    refusal(&by("far", &["catalog"]));
    let no_host = refusal(&["join", "w9", "--as", "worker", "--output", &stranger]);
    assert!(no_host.contains("--host"), "{no_host}");
}

#[test]
fn a_card_is_drafted_checked_signed_and_shown() {
    let platform = Platform::start(1);
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/esol.csv");
    let bundle = text(&platform, "esol.cxb");
    platform.json(&[
        "train",
        "--input",
        data,
        "--name",
        "esol",
        "--model",
        "linear",
        "--unit",
        "log10 mol/L",
        "--output",
        &bundle,
    ]);
    platform.publish_bundle("esol", &bundle, true, "steps");
    let (bundle, card) = (text(&platform, "esol.cxb"), text(&platform, "card.json"));
    platform.json(&["card", "draft", &bundle, "--output", &card]);
    let lint = ["card", "lint", &card, "--bundle", &bundle];
    let open = platform.run(&lint);
    let said = String::from_utf8(open.stdout).unwrap();
    assert!(
        !open.status.success() && said.contains("still says TODO"),
        "{said}"
    );
    platform.run(&["card", "set", &card]);
    let none = platform.refusal(&["card", "show", "esol"]);
    assert!(
        none.contains("CX-M20"),
        "a card with errors is not uploaded: {none}"
    );

    let draft = std::fs::read_to_string(&card).unwrap();
    let mut draft: serde_json::Value = serde_json::from_str(&draft).unwrap();
    draft["metrics"][0]["low"] = 0.1.into();
    draft["metrics"][0]["high"] = 2.0.into();
    let written = serde_json::to_string_pretty(&draft)
        .unwrap()
        .replace(
            "\"contact\": \"TODO\"",
            "\"contact\": \"models@acme.example\"",
        )
        .replace("TODO", "Measured by shaking flask, as Delaney 2004 says.");
    std::fs::write(&card, &written).unwrap();
    assert_eq!(platform.json(&lint)["ready"], true);
    assert_eq!(platform.json(&["card", "set", &card])["revision"], 1);
    let shown = platform.json(&["card", "show", "esol"]);
    assert_eq!(shown["card"]["contact"], "models@acme.example");
    let page = String::from_utf8(platform.run(&["card", "show", "esol"]).stdout).unwrap();
    assert!(page.starts_with('#') && page.contains("Delaney"), "{page}");

    // what contradicts the version is found before and by the registry
    let bits = shown["card"]["leakage"]["bits_per_query"].to_string();
    let wrong = written.replace(
        &format!("\"bits_per_query\": {bits}"),
        "\"bits_per_query\": 1",
    );
    assert_ne!(wrong, written);
    std::fs::write(&card, wrong).unwrap();
    assert!(!platform.run(&lint).status.success());
    let refused = platform.refusal(&["card", "set", &card]);
    assert!(refused.contains("CX-M21"), "{refused}");
}
