//! No room for what is written. The limit of the size of files (`ulimit -f`) plays the full disk: it
//! needs no rights and fails the same calls in the same places; `./bench/run disk` fills real ones.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::faults::{check_rows, without_numbers, write_library};
use crate::platform::Platform;

/// Runs `command` with files of at most so many blocks (512 or 1,024 bytes, by shell).
fn limited(command: &Command, blocks: u32) -> Output {
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!("ulimit -f {blocks}; exec \"$0\" \"$@\""))
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.output().unwrap()
}

fn refusal(output: &Output) -> String {
    // a code, and no signal
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_batch_without_room_goes_on_when_there_is_room() {
    let platform = Platform::start(1);
    platform.publish("esol", true);
    let input = write_library(&platform, 1000);
    let run = |output: &Path, more: &[&str]| {
        let output = output.to_str().unwrap().to_owned();
        let arguments = ["query", "esol", "--input", &input, "--output", &output];
        platform.command(&[&arguments[..], more].concat())
    };
    let whole = platform.path("whole.csv");
    assert!(run(&whole, &[]).status().unwrap().success());

    let output = platform.path("out.csv");
    let partial = platform.path("out.csv.partial");
    let said = refusal(&limited(&run(&output, &[]), 32));
    for part in ["out.csv.partial", "ulimit -f", "--resume"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    assert!(!output.exists(), "no half output has the final name");
    let kept = std::fs::read(&partial).unwrap();
    assert!(kept.len() >= 8 * 1024, "{} bytes", kept.len());

    // still no room: nothing is lost
    refusal(&limited(&run(&output, &["--resume"]), 32));
    assert!(std::fs::metadata(&partial).unwrap().len() + 1024 > kept.len() as u64);

    let resumed = run(&output, &["--resume", "--format", "json"]).output();
    let report: serde_json::Value = serde_json::from_slice(&resumed.unwrap().stdout).unwrap();
    assert_eq!(report["complete"], true, "{report}");
    assert!(report["resumed"].as_u64().unwrap() > 50, "{report}");
    assert!(!partial.exists());
    check_rows(&output, 1000);
    assert_eq!(without_numbers(&output), without_numbers(&whole));
}

#[test]
fn keys_and_bundles_are_whole_or_not_there() {
    let home = tempfile::tempdir().unwrap();
    let chemxor = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chemxor"));
        command.args(arguments).env("CHEMXOR_HOME", home.path());
        command.env_remove("CHEMXOR_PROFILE").stdin(Stdio::null());
        command
    };
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    };

    let keys = home.path().join("keys");
    let said = refusal(&limited(&chemxor(&["keys", "new"]), 0));
    assert!(said.contains("ulimit -f"), "{said}");
    let left = names(&keys);
    assert!(!left.iter().any(|name| name.ends_with(".key")), "{left:?}");
    let made = chemxor(&["keys", "new"]).output().unwrap();
    assert!(made.status.success(), "nothing is in the way: {made:?}");

    let models = home.path().join("models");
    std::fs::create_dir(&models).unwrap();
    let bundle = models.join("esol.cxb");
    std::fs::write(&bundle, "the older one").unwrap();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/esol.csv");
    let path = bundle.to_str().unwrap();
    let train = [
        "train", "--input", data, "--name", "esol", "--epochs", "1", "--output", path,
    ];
    let said = refusal(&limited(&chemxor(&train), 1));
    for part in ["esol.cxb", "ulimit -f"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    assert_eq!(std::fs::read(&bundle).unwrap(), b"the older one");
    assert_eq!(names(&models), ["esol.cxb"], "nothing half is left");
}
