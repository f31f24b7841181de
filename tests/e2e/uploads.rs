//! A publication that is killed at half goes on where it was.

use std::process::Stdio;

use crate::platform::{Platform, wait_until};
use crate::proxy::{Proxy, Trouble};

/// Bytes that reach the registry before the publisher is killed; handshake and announcement are few.
const HALF: usize = 1_300_000;

#[test]
fn a_publication_killed_at_half_resumes_and_has_the_same_digest() {
    let mut platform = Platform::start(1);
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/esol.csv");
    let bundle = platform.path("wide.cxb").display().to_string();
    // 2,058 features into 1,024 neurons: a blob of more than 2 MB, which travels in several pieces
    platform.json(&[
        "train",
        "--input",
        data,
        "--name",
        "wide",
        "--epochs",
        "1",
        "--hidden",
        "1024",
        "--activation-bits",
        "4",
        "--output",
        &bundle,
    ]);
    platform.json(&["keys", "new", "--publisher"]);
    platform.json(&["keys", "new"]);

    let file = platform.path("registry.ready");
    let way = Proxy::start(Trouble::Holds(HALF), move || {
        std::fs::read_to_string(&file).ok()
    });
    let direct = platform.reach_profile_registry_at(&way.address());
    let mut publisher = platform
        .command(&["publish", &bundle])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // the registry has what passed: pieces are stored as they come
    let pieces = "select coalesce(sum(length(content)), 0)::bigint from blob_pieces";
    let stored = wait_until("some pieces", || {
        assert!(publisher.try_wait().unwrap().is_none(), "it should hang");
        let stored = platform.number(pieces);
        (way.upward() > HALF && stored > 0).then_some(stored)
    });
    publisher.kill().unwrap();
    publisher.wait().unwrap();
    platform.kill_registry();
    platform.start_registry();
    assert!(platform.number(pieces) >= stored, "nothing is lost");

    platform.reach_profile_registry_at(&direct);
    let published = platform.json(&["publish", &bundle]);
    let inspected = platform.json(&["inspect", &bundle]);
    assert_eq!(published["version"], inspected["version"], "same digest");
    let uploaded = published["uploaded_bytes"].as_i64().unwrap();
    let whole = platform.number(pieces);
    assert!(
        uploaded + stored <= whole && uploaded < whole,
        "{uploaded} of {whole} bytes were sent, {stored} were there"
    );
    platform.json(&["approve", "wide"]);
}
