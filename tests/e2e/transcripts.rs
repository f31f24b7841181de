//! Transcripts of the commands, human and JSON (`tests/transcripts`). `TRYCMD=overwrite` writes what the
//! commands say now; then put `[..]` where it differs from run to run.

use std::path::Path;

use trycmd::TestCases;

use crate::platform::Platform;

/// Runs the transcripts of `cases`, one after the other, in this home.
fn follow(cases: &[&str], home: &Path) {
    for case in cases {
        let tests = TestCases::new();
        tests.register_bin("chemxor", Path::new(env!("CARGO_BIN_EXE_chemxor")));
        for (name, value) in [("HOME", home), ("CHEMXOR_HOME", home)] {
            tests.env(name, value.display().to_string());
        }
        tests
            .insert_var("[HOME]", home.display().to_string())
            .unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/transcripts");
        assert!(folder.join(case).exists(), "{case}");
        tests.case(folder.join(case));
        tests.run();
    }
}

/// Runs transcripts that name what only a running platform knows: `{NAME}` stands for a value.
fn follow_filled(case: &str, home: &Path, values: &[(&str, &str)]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/transcripts");
    let mut text = std::fs::read_to_string(folder.join(case)).unwrap();
    for (name, value) in values {
        text = text.replace(&format!("{{{name}}}"), value);
    }
    let filled = home.join(case.rsplit('/').next().unwrap());
    std::fs::write(&filled, text).unwrap();
    follow(&[filled.to_str().unwrap()], home);
}

fn home() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new()
        .prefix("cxcmd")
        .tempdir_in("/tmp")
        .unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn commands_that_need_no_platform() {
    let home = home();
    for (name, text) in [
        ("ca.pem", "ca"),
        ("lab.pem", "cert"),
        ("lab.key", "key"),
        ("token", "secret"),
    ] {
        chemxor_client::files::create_secret(&home.path().join(name), text.as_bytes()).unwrap();
    }
    let cases = [
        "local/help.trycmd",
        "local/keys.trycmd",
        "local/copies.trycmd",
        "local/profiles.trycmd",
        "local/down.trycmd",
    ];
    follow(&cases, home.path());
    let values = [("HOME", home.path().to_str().unwrap())];
    follow_filled("local/added.trycmd", home.path(), &values);
}

#[test]
fn commands_of_a_lab() {
    let platform = Platform::start(2);
    platform.publish("esol", true);
    follow(&["platform/query.trycmd"], &platform.path(""));
}

#[test]
fn commands_of_a_publisher() {
    let platform = Platform::start(2);
    follow(&["platform/publisher.trycmd"], &platform.path(""));
}

#[test]
fn commands_of_administrators() {
    let platform = Platform::start(1);
    platform.publish("esol", true);
    follow(&["platform/governance.trycmd"], &platform.path(""));
    follow(&["platform/enrolment.trycmd"], &platform.path(""));
}

/// A card with everything that only people know.
fn written_card(platform: &Platform, bundle: &str) {
    let path = platform.path("card.json");
    platform.json(&["card", "draft", bundle, "--output", path.to_str().unwrap()]);
    let mut card: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for field in [
        "/unit",
        "/contact",
        "/assay/description",
        "/assay/species",
        "/assay/target",
        "/training_data/licence",
        "/training_data/preparation",
        "/training_data/split",
        "/training_data/sources/0",
        "/applicability/description",
        "/intended_use/purpose",
        "/intended_use/out_of_scope/0",
    ] {
        *card.pointer_mut(field).unwrap() = "written by a person".into();
    }
    // the unit is the manifest's
    let inspected = platform.json(&["inspect", bundle]);
    card["unit"] = inspected["manifest"]["unit"].clone();
    let value = card["metrics"][0]["value"].as_f64().unwrap();
    card["metrics"][0]["low"] = (value - 0.1).into();
    card["metrics"][0]["high"] = (value + 0.1).into();
    std::fs::write(&path, card.to_string()).unwrap();
}

#[test]
fn commands_that_change_what_is_served_and_who_may_ask() {
    let platform = Platform::start(1);
    let place = |name: &str| platform.path(name).display().to_string();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/esol.csv");
    let train = |epochs: &str, bundle: &str| {
        let holdout = place("holdout.csv");
        let what = [
            "train",
            "--input",
            data,
            "--name",
            "esol",
            "--unit",
            "log10 mol/L",
        ];
        let how = [
            "--epochs",
            epochs,
            "--output",
            bundle,
            "--holdout",
            &holdout,
        ];
        platform.json(&[&what[..], &how].concat());
    };
    train("9", &place("second.cxb"));
    train("8", &place("esol.cxb"));
    let first = platform.publish_bundle("esol", &place("esol.cxb"), true, "steps");
    let config = place("worker-1.toml");
    let shown = platform.json(&["worker", "--config", &config, "--fingerprint"]);
    let digits = &shown["fingerprint"].as_str().unwrap()[..32];
    let pin = chemxor_client::known_workers::grouped(digits);
    // a pinned key counts more than what was sealed to before
    let lie = format!("worker-1 {}\n", "0".repeat(64));
    let known = platform.path("local/known_workers");
    std::fs::write(&known, &lie).unwrap();
    let pinned = format!("worker-1={pin}");
    let published = platform.json(&["publish", &place("second.cxb"), "--worker", &pinned]);
    let second = published["version"].as_str().unwrap();
    platform.json(&["approve", "esol"]);
    std::fs::write(&known, &lie).unwrap();
    written_card(&platform, &place("esol.cxb"));
    let who = ["--org", "default", "--subject", "paul", "--role", "querier"];
    platform.json(&[
        "member", "add", "paul", "--org", "default", "--role", "querier",
    ]);
    let token = platform.json(&[&["token", "create"][..], &who].concat());
    let home = place("");
    let values = [
        ("HOME", home.trim_end_matches('/')),
        ("PIN", &pin),
        ("FIRST", &first),
        ("SECOND", second),
        ("TOKEN", token["id"].as_str().unwrap()),
    ];
    follow_filled("platform/versions.trycmd", &platform.path(""), &values);
    let waiting = platform.json(&["cert", "list", "--waiting"]);
    let request = waiting[0]["id"].as_str().unwrap();
    let values = [("REQUEST", request)];
    follow_filled("platform/refused.trycmd", &platform.path(""), &values);
}

#[test]
fn the_platform_on_this_machine() {
    let home = home();
    follow(&["local/up.trycmd"], home.path());
}

#[test]
fn a_reader_that_has_left_is_no_panic() {
    let home = home();
    for arguments in [
        &["status"][..],
        &["keys", "list"],
        &["--format", "json", "status"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_chemxor"))
            .args(arguments)
            .env("CHEMXOR_HOME", home.path())
            .stdout(writer)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        assert!(matches!(output.status.code(), Some(0 | 3)), "{arguments:?}");
    }
}

#[test]
fn every_command_has_a_manual_page_and_completions() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_chemxor"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["man", "--output", folder.path().to_str().unwrap()]);
    for page in [
        "chemxor.1",
        "chemxor-query.1",
        "chemxor-keys-rotate.1",
        "chemxor-doctor.1",
    ] {
        let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(text.contains(".SH DESCRIPTION"), "{page}");
    }
    assert!(run(&["man"]).contains("chemxor"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run(&["completions", shell]).contains("resume"), "{shell}");
    }
}

/// The commands that do something, by the help of the groups above them.
fn commands(above: &[String], found: &mut Vec<Vec<String>>) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_chemxor"))
        .args(above)
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let listed = help.split_once("\nCommands:\n").map(|(_, rest)| rest);
    let names: Vec<&str> = listed
        .into_iter()
        .flat_map(|rest| rest.split("\n\n").next().unwrap_or_default().lines())
        .filter_map(|line| line.strip_prefix("  "))
        // a description that goes on stands further right
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    if names.is_empty() {
        found.push(above.to_vec());
    }
    for name in names {
        commands(&[above, &[name.to_owned()]].concat(), found);
    }
}

#[test]
fn every_command_has_a_transcript_for_people_and_one_in_json() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/transcripts");
    let calls: Vec<(String, bool)> = ["local", "platform"]
        .iter()
        .flat_map(|part| std::fs::read_dir(folder.join(part)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "trycmd"))
        .flat_map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            let called = lines.windows(2).filter_map(|two| {
                let (_, line) = two[0].strip_prefix("$ ")?.split_once("chemxor ")?;
                let status = two[1].strip_prefix("? ").unwrap_or("success");
                Some((line.to_owned(), ["0", "success"].contains(&status)))
            });
            called.collect::<Vec<_>>()
        })
        .filter(|(line, _)| !line.contains("--help"))
        .collect();
    let mut found = Vec::new();
    commands(&[], &mut found);
    assert!(found.len() > 60, "{found:?}");
    for command in found {
        let name = command.join(" ");
        // what these print is a script and a manual page
        if ["completions", "man"].contains(&name.as_str()) {
            continue;
        }
        let of_this: Vec<&(String, bool)> = calls
            .iter()
            .filter(|(line, _)| {
                let rest = line.strip_prefix(&name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            })
            .collect();
        let shown = |json: bool| {
            let mut lines = of_this.iter().map(|(line, _)| line);
            lines.any(|line| line.contains("--format json") == json)
        };
        assert!(shown(false), "no transcript for people: {name}");
        assert!(shown(true), "no transcript in JSON: {name}");
        // these run until they are stopped
        let endless = ["registry", "gateway", "serve"].contains(&name.as_str());
        let succeeds = of_this.iter().any(|(_, success)| *success);
        assert!(succeeds || endless, "only refusals of: {name}");
    }
}
