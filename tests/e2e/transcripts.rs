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
    let lines: Vec<String> = ["local", "platform"]
        .iter()
        .flat_map(|part| std::fs::read_dir(folder.join(part)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "trycmd"))
        .flat_map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("$ "));
            let called = lines.filter_map(|line| Some(line.split_once("chemxor ")?.1.to_owned()));
            called.collect::<Vec<_>>()
        })
        .filter(|line| !line.contains("--help"))
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
        let shown = |json: bool| {
            lines.iter().any(|line| {
                let rest = line.strip_prefix(&name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
                    && line.contains("--format json") == json
            })
        };
        assert!(shown(false), "no transcript for people: {name}");
        assert!(shown(true), "no transcript in JSON: {name}");
    }
}
