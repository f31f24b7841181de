//! The workers of a version change while it is served: authorised later, replaced, withdrawn.

use crate::faults::{check_rows, write_library};
use crate::platform::{Platform, wait_until};

#[test]
fn a_worker_is_authorised_later_and_takes_the_place_of_another() {
    let mut platform = Platform::start(2);
    let bundle = platform.path("esol.cxb").display().to_string();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/esol.csv");
    let train = ["train", "--input", data, "--name", "esol", "--epochs", "8"];
    platform.json(&[&train[..], &["--output", &bundle]].concat());
    platform.json(&["keys", "new", "--publisher"]);
    platform.json(&["publish", &bundle, "--worker", "worker-1"]);
    platform.json(&["approve", "esol"]);
    let workers = |platform: &Platform| -> Vec<String> {
        let placed = platform.json(&["workers", "show", &bundle]);
        let placed = placed.as_array().unwrap().iter();
        placed
            .map(|place| place["worker"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(workers(&platform), ["worker-1"]);
    let first = platform.json(&["query", "esol", "--smiles", "CCO"]);

    // the last worker stays
    let unready = platform.refusal(&["workers", "authorize", &bundle, "worker-9"]);
    assert!(unready.contains("not registered"), "{unready}");
    let last = platform.refusal(&["workers", "withdraw", &bundle, "worker-1", "--yes"]);
    assert!(last.contains("CX-S03"), "{last}");
    let asked = platform.refusal(&["workers", "withdraw", &bundle, "worker-1"]);
    assert!(asked.contains("--yes"), "{asked}");

    // the second worker serves alone after the first is gone for good
    platform.json(&["workers", "authorize", &bundle, "worker-2"]);
    assert_eq!(workers(&platform), ["worker-1", "worker-2"]);
    platform.workers[0].take().unwrap().kill();
    let second = platform.json(&["query", "esol", "--smiles", "CCO"]);
    assert_eq!(first["version"], second["version"]);

    // while a batch runs, a worker with another sealing key takes its place
    platform.start_worker(0);
    platform.json(&["workers", "withdraw", &bundle, "worker-1", "--yes"]);
    let input = write_library(&platform, 3000);
    let output = platform.path("out.csv");
    let partial = platform.path("out.csv.partial");
    let arguments = ["query", "esol", "--yes", "--input", &input, "--output"];
    let mut running = platform
        .command(&[&arguments[..], &[output.to_str().unwrap(), "--quiet"]].concat())
        .spawn()
        .unwrap();
    wait_until("the first rows", || {
        let text = std::fs::read_to_string(&partial).unwrap_or_default();
        (text.lines().count() > 200).then_some(())
    });
    let replace = ["workers", "authorize", &bundle, "worker-1"];
    platform.json(&[&replace[..], &["--replace", "worker-2", "--yes"]].concat());
    assert_eq!(workers(&platform), ["worker-1"]);
    wait_until("worker-2 to unload", || {
        let log = platform.log("worker-2");
        log.contains("partition unloaded").then_some(())
    });
    assert!(running.wait().unwrap().success());
    check_rows(&output, 3000);

    // all of it stands in the audit log, and no key does
    let audit = platform
        .json(&["audit", "list", "--last", "100"])
        .to_string();
    for action in ["version.authorize", "version.withdraw"] {
        assert!(audit.contains(action), "{action}");
    }
}
