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
