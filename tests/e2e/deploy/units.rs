//! The units of systemd: each starts its role, confined, as a user of its own; systemd itself agrees
//! where it is.

use std::collections::BTreeSet;
use std::process::Command;

use super::{ROLES, installed, root, sample, text};

const USERS: &str = "systemd/chemxor.sysusers";

/// What a key of a section says; it stands there once.
fn said(unit: &str, section: &str, key: &str) -> String {
    let after = unit.split(&format!("[{section}]\n")).nth(1).unwrap();
    let body = after.split("\n[").next().unwrap();
    let start = format!("{key}=");
    let found: Vec<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix(&start))
        .collect();
    let [value] = found[..] else {
        panic!("{section}: {key} is {found:?}");
    };
    value.to_owned()
}

#[test]
fn the_units_start_their_role_and_are_confined() {
    for role in ROLES {
        let unit = text(&format!("systemd/chemxor-{role}.service"));
        let mut section = "";
        for line in unit
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            match line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix(']'))
            {
                Some(name) => section = name,
                None => assert!(line.contains('=') && !section.is_empty(), "{role}: {line}"),
            }
        }
        for wanted in [
            &format!("ExecStart=/usr/bin/chemxor {role} --config /etc/chemxor/{role}/{role}.toml"),
            "NoNewPrivileges=true",
            "ProtectSystem=strict",
            "CapabilityBoundingSet=\n",
            "MemoryDenyWriteExecute=true",
            "KillSignal=SIGTERM",
            "LimitCORE=0",
        ] {
            assert!(unit.contains(wanted), "{role}: {wanted}");
        }
    }
}

/// The registry ends when PostgreSQL is not there yet, as after a boot. Five such starts within ten
/// seconds, and systemd by its defaults leaves it be.
#[test]
fn a_unit_is_started_again_however_often_it_ends() {
    for role in ROLES {
        let unit = text(&format!("systemd/chemxor-{role}.service"));
        assert_eq!(said(&unit, "Unit", "StartLimitIntervalSec"), "0", "{role}");
        assert_eq!(said(&unit, "Service", "Restart"), "on-failure", "{role}");
        let pause: u32 = said(&unit, "Service", "RestartSec").parse().unwrap();
        assert!(pause > 0, "{role} would start again without a pause");
    }
}

/// Names of the users that are made at the installation.
fn users() -> BTreeSet<String> {
    let file = text(USERS);
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!([words[0], words[2]], ["u", "-"], "{line}");
            words[1].to_owned()
        })
        .collect()
}

#[test]
fn every_role_has_a_user_a_folder_and_a_state_of_its_own() {
    let handbook = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let mut wanted = BTreeSet::new();
    for role in ROLES {
        let unit = text(&format!("systemd/chemxor-{role}.service"));
        let own = format!("chemxor-{role}");
        for key in ["User", "Group", "StateDirectory"] {
            assert_eq!(said(&unit, "Service", key), own, "{role}: {key}");
        }
        assert_eq!(said(&unit, "Service", "StateDirectoryMode"), "0700");
        // what the sample names lies in folders of this role
        let config: toml::Value = sample(&format!("{role}.toml"));
        let mut files: Vec<&str> = ["ca", "cert", "key"]
            .map(|key| config["tls"][key].as_str().unwrap())
            .to_vec();
        let keys = ["signing_key", "sealing_key"];
        files.extend(keys.iter().filter_map(|key| config.get(key)?.as_str()));
        let folders = [
            format!("/etc/chemxor/{role}/"),
            format!("/var/lib/chemxor-{role}/"),
        ];
        for file in files {
            let inside = folders.iter().any(|folder| file.starts_with(folder));
            assert!(inside, "{role}: {file} lies beside those of other roles");
        }
        wanted.insert(own);
    }
    assert_eq!(users(), wanted);
    for step in [
        &format!("deploy/{USERS}"),
        "systemd-sysusers",
        "install -d -g chemxor-$role -m 0750 /etc/chemxor/$role",
    ] {
        assert!(handbook.contains(step), "the handbook lacks {step}");
    }
}

#[test]
fn systemd_makes_the_users() {
    if !installed("systemd-sysusers") {
        eprintln!("systemd-sysusers is not on this machine");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let planned = |text: &str| {
        let file = folder.path().join("chemxor.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("systemd-sysusers");
        command.arg("--dry-run").arg("--root").arg(folder.path());
        let output = command.arg(&file).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.success(), said)
    };
    let good = text(USERS);
    let (made, said) = planned(&good);
    assert!(made, "{said}");
    for user in users() {
        assert!(said.contains(&format!("user '{user}'")), "{said}");
    }
    let (made, said) = planned(&good.replace("chemxor-worker -", "chemxor-worker"));
    assert!(!made, "{said}");
}

/// What systemd-analyze says of a unit, and whether it is content.
fn analysed(unit: &str, arguments: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chemxor-test.service");
    std::fs::write(&path, unit).unwrap();
    let mut command = Command::new("systemd-analyze");
    let output = command.args(arguments).arg(&path).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    // settings that it does not know are warnings to it
    let known = !said.contains("ignoring");
    (output.status.success() && known, said)
}

#[test]
fn systemd_reads_the_units_and_finds_little_exposure() {
    if !installed("systemd-analyze") {
        eprintln!("systemd-analyze is not on this machine");
        return;
    }
    let verify = ["verify", "--man=no", "--recursive-errors=no"];
    let exposure = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    for role in ROLES {
        let unit = text(&format!("systemd/chemxor-{role}.service"));
        let unit = unit.replace("/usr/bin/chemxor", env!("CARGO_BIN_EXE_chemxor"));
        for arguments in [&verify[..], &exposure[..]] {
            let (content, said) = analysed(&unit, arguments);
            assert!(content, "{role}: {arguments:?}: {said}");
        }
        let misspelt = unit.replace("ProtectSystem=", "ProtectSystems=");
        assert!(!analysed(&misspelt, &verify).0, "a misspelt key is seen");
        let open = unit.replace("CapabilityBoundingSet=\n", "");
        assert!(!analysed(&open, &exposure).0, "capabilities are seen");
    }
}
