//! The units of systemd: each starts its role, confined; systemd itself agrees where it is.

use std::process::Command;

use super::{ROLES, installed, text};

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
            &format!("ExecStart=/usr/bin/chemxor {role} --config /etc/chemxor/{role}.toml"),
            "NoNewPrivileges=true",
            "ProtectSystem=strict",
            "User=chemxor",
            "CapabilityBoundingSet=\n",
            "MemoryDenyWriteExecute=true",
            "KillSignal=SIGTERM",
            "LimitCORE=0",
        ] {
            assert!(unit.contains(wanted), "{role}: {wanted}");
        }
    }
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
