//! A bad network on each way between the parties: no row lost, none shifted, none wrong.

use crate::faults::{check_rows, write_library};
use crate::platform::Platform;
use crate::proxy::{Proxy, Trouble};

/// The address in a service's ready file, whenever it is asked.
fn of(platform: &Platform, service: &str) -> impl Fn() -> Option<String> + Send + use<> {
    let file = platform.path(&format!("{service}.ready"));
    move || std::fs::read_to_string(&file).ok()
}

/// Asks for `rows` molecules and checks each row.
fn batch(platform: &Platform, rows: usize) {
    let input = write_library(platform, rows);
    let output = platform.path("out.csv");
    let path = output.to_str().unwrap();
    let report = platform.json(&[
        "query", "esol", "--yes", "--input", &input, "--output", path,
    ]);
    assert_eq!(report["predicted"], rows, "{report}");
    check_rows(&output, rows);
}

#[test]
fn connections_between_gateway_and_worker_that_are_slow_and_cut_cost_no_row() {
    let ready = tempfile::NamedTempFile::new().unwrap();
    let file = ready.path().to_owned();
    let worker = Proxy::start(Trouble::Cuts(4_000_000), move || {
        std::fs::read_to_string(&file).ok()
    });
    let advertise = format!("advertise = {:?}\n", worker.address());
    let platform = Platform::start_with(1, &advertise);
    std::fs::copy(platform.path("worker-1.ready"), ready.path()).unwrap();
    platform.publish("esol", true);
    batch(&platform, 300);
    let connections = worker.connections();
    assert!(connections > 3, "only {connections}: none was cut");
}

#[test]
fn connections_between_client_and_gateway_that_are_slow_and_cut_cost_no_row() {
    let platform = Platform::start(1);
    platform.publish("esol", true);
    let gateway = Proxy::start(Trouble::Cuts(4_000_000), of(&platform, "gateway"));
    platform.reach_gateway_at(&gateway.address());
    batch(&platform, 300);
    let connections = gateway.connections();
    assert!(connections > 3, "only {connections}: none was cut");
}

#[test]
fn connections_between_gateway_and_registry_that_are_slow_and_cut_cost_no_row() {
    // every step asks the registry, so that much passes
    let mut platform = Platform::start_configured(1, ["", "[limits]\nrecheck_ms = 0\n", ""]);
    let registry = Proxy::start(Trouble::Cuts(50_000), of(&platform, "registry"));
    platform.publish("esol", true);
    platform.reach_registry_at(&registry.address());
    let before = registry.connections();
    batch(&platform, 600);
    let connections = registry.connections();
    assert!(connections > before, "{connections}: none was cut");
}

/// Between client and gateway, and between gateway and worker, at the same time.
#[test]
fn a_network_that_is_far_and_loses_packets_costs_no_row() {
    let ready = tempfile::NamedTempFile::new().unwrap();
    let file = ready.path().to_owned();
    let worker = Proxy::start(Trouble::Loses, move || std::fs::read_to_string(&file).ok());
    let advertise = format!("advertise = {:?}\n", worker.address());
    let platform = Platform::start_with(1, &advertise);
    std::fs::copy(platform.path("worker-1.ready"), ready.path()).unwrap();
    platform.publish("esol", true);
    let gateway = Proxy::start(Trouble::Loses, of(&platform, "gateway"));
    platform.reach_gateway_at(&gateway.address());
    batch(&platform, 100);
    for way in [worker, gateway] {
        assert!(way.lost() > 2, "only {} were lost", way.lost());
    }
}

/// Packets that a firewall drops: no error ever comes, only silence.
#[test]
fn a_worker_that_falls_silent_costs_no_row_while_another_serves() {
    let ready = tempfile::NamedTempFile::new().unwrap();
    let file = ready.path().to_owned();
    let way = Proxy::start(Trouble::Cuts(usize::MAX), move || {
        std::fs::read_to_string(&file).ok()
    });
    let limits = "[limits]\nattempt_timeout_ms = 700\n";
    let mut platform = Platform::start_configured(1, ["", limits, ""]);
    platform.add_worker(&format!("advertise = {:?}\n", way.address()));
    std::fs::copy(platform.path("worker-2.ready"), ready.path()).unwrap();
    platform.publish_spread("esol", true, "replicas");
    // both serve until one cannot be heard any more
    batch(&platform, 200);
    assert!(way.connections() > 0, "the second worker was never asked");
    way.fall_silent();
    std::fs::remove_file(platform.path("out.csv")).unwrap();
    batch(&platform, 600);
}
