//! What is taken away ends a running batch at its next step, and the lab reads why and what to do:
//! a token, an organisation, a certificate, a version.

use std::path::Path;
use std::process::{Child, Stdio};

use chemxor_runtime::pki::Subject;

use crate::faults::write_library;
use crate::platform::{Platform, wait_until};

/// Steps that may have been under way when the registry said no: what a client keeps in flight, and
/// as many rows that wait for an earlier one to be written.
const UNDER_WAY: usize = 128;

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// A lab of another organisation, with a certificate of its own and no other right than to ask.
struct Lab<'a> {
    platform: &'a Platform,
    input: String,
}

impl Lab<'_> {
    fn token(&self, subject: &str) -> String {
        let create = ["token", "create", "--org", "uni", "--role", "querier"];
        let file = self.platform.path("uni/querier.token");
        let _ = std::fs::remove_file(&file);
        let file = file.display().to_string();
        let more = ["--subject", subject, "--output", &file];
        let made = self.platform.json(&[&create[..], &more].concat());
        made["id"].as_str().unwrap().to_owned()
    }

    /// A batch that has written its first rows.
    fn begin(&self, name: &str) -> (Child, std::path::PathBuf) {
        let output = self.platform.path(&format!("{name}.csv"));
        let batch = [
            "query",
            "esol",
            "--yes",
            "--profile",
            "uni",
            "--key",
            "default",
            "--input",
            &self.input,
            "--output",
            output.to_str().unwrap(),
        ];
        let child = self.platform.command(&batch).stderr(Stdio::piped()).spawn();
        let partial = self.platform.path(&format!("{name}.csv.partial"));
        wait_until("the first rows", || (lines(&partial) > 50).then_some(()));
        (child.unwrap(), partial)
    }
}

#[test]
fn what_is_taken_away_ends_a_running_batch_at_its_next_step_with_the_reason() {
    // what the registry said would do for a quarter of an hour, if it did not say that a right has changed
    let platform = Platform::start_configured(2, ["", "[limits]\nrecheck_ms = 1000000\n", ""]);
    let version = platform.publish("esol", true);
    platform.json(&["model", "visibility", "esol", "everyone", "--yes"]);
    platform.json(&["org", "create", "uni"]);
    platform.make_lab("uni", &Subject::Client("uni-lab".parse().unwrap()));
    let lab = Lab {
        platform: &platform,
        input: write_library(&platform, 50_000),
    };
    let exact = format!("esol@{version}");
    let cases = [
        ("token", "CX-A02", "new token"),
        ("organisation", "CX-A08", "administrator"),
        ("certificate", "CX-A07", "ask for a new one"),
        ("version", "CX-M03", "choose another one"),
    ];
    for (what, id, advice) in cases {
        let token = lab.token(&format!("holder-of-{what}"));
        if what == "version" {
            // the certificate of the case before is denied for good
            platform.make_lab("uni", &Subject::Client("uni-lab-2".parse().unwrap()));
        }
        let (batch, partial) = lab.begin(what);
        let taken: &[&str] = match what {
            "token" => &["token", "revoke", &token, "--yes"],
            "organisation" => &["org", "suspend", "uni", "--yes"],
            "certificate" => &[
                "cert",
                "deny",
                "chemxor://client/uni-lab",
                "--reason",
                "laptop lost",
                "--yes",
            ],
            _ => &["revoke", &exact, "--reason", "wrong assay", "--yes"],
        };
        platform.json(taken);
        let then = lines(&partial);
        let ended = batch.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(!ended.status.success(), "{what}: {said}");
        assert!(said.contains(id) && said.contains(advice), "{what}: {said}");
        let after = lines(&partial) - then;
        assert!(after <= UNDER_WAY, "{what}: {after} rows came afterwards");
        assert!(!platform.path(&format!("{what}.csv")).exists());
        if what == "organisation" {
            platform.json(&["org", "resume", "uni"]);
        }
    }
}
