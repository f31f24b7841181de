//! What the registry has counted, beside the rows that a client really has, after `kill -9` of every
//! party that counts.

use crate::faults::Batch;
use crate::platform::{Platform, wait_until};

/// Rows of the batch, each one query.
const ROWS: u64 = 3000;
/// Queries that the client has in flight: so many may be asked again after each death.
const IN_FLIGHT: u64 = 8;
/// Deaths that end the session, or cut it off from the registry.
const DEATHS: u64 = 3;
/// A gateway that dies settles nothing: what it had reserved ahead stays counted, a block and a half.
const RESERVED: u64 = 384;

fn counted(platform: &Platform) -> u64 {
    let shown = platform.json(&["quota", "show", "esol"]);
    let usage = shown["usage"].as_array().unwrap();
    let own = usage.iter().find(|row| row["organisation"] == "default");
    own.map_or(0, |row| row["lifetime_queries"].as_u64().unwrap())
}

#[test]
fn no_row_is_uncounted_and_few_are_counted_twice_when_whoever_counts_dies() {
    let mut platform = Platform::start(2);
    platform.publish("esol", true);
    let before = counted(&platform);
    let in_flight = IN_FLIGHT.to_string();
    let batch = Batch::begin(
        &platform,
        ROWS as usize,
        &["--yes", "--in-flight", &in_flight],
    );
    batch.goes_on(200);
    platform.gateway.take().unwrap().kill();
    platform.start_gateway();
    batch.goes_on(200);
    platform.kill_registry();
    platform.start_registry();
    batch.goes_on(200);
    platform.kill_postgres();
    batch.ends_whole(&platform);

    // each row was asked under a reservation, which is counted before the query begins
    let most = ROWS + DEATHS * IN_FLIGHT + RESERVED;
    let settled = wait_until("the last session to be settled", || {
        Some(counted(&platform) - before).filter(|queries| *queries <= most)
    });
    assert!(settled >= ROWS, "{settled} queries counted for {ROWS} rows");
}

/// A key that has been used enough is replaced in the middle of a run: its queries go on in a session
/// with the new key.
#[test]
fn a_key_that_is_replaced_during_a_run_costs_no_row() {
    const AFTER: u64 = 150;
    let platform = Platform::start(2);
    platform.publish("esol", true);
    let after = AFTER.to_string();
    let made = platform.json(&["keys", "new", "--name", "short", "--rotate-after", &after]);
    // the session with the old key may not stand in the way of the next one
    let quota = ["quota", "set", "esol", "--org", "default"];
    platform.json(&[&quota[..], &["--concurrent-sessions", "1"]].concat());
    let batch = Batch::begin(&platform, 500, &["--yes", "--key", "short"]);
    batch.ends_whole(&platform);
    let keys = platform.json(&["keys", "list"]);
    let keys = keys.as_array().unwrap().iter();
    let short = keys.into_iter().find(|key| key["name"] == "short").unwrap();
    // a query that was refused while the session with the old key was still open counts, too
    let count = |name: &str| short[name].as_u64().unwrap();
    assert!(count("rotations") >= 500 / AFTER && count("queries") <= AFTER);
    assert!(count("rotations") * AFTER + count("queries") >= 500);
    assert_ne!(short["id"], made["id"]);
}
