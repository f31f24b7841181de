//! A bad network between gateway and worker: a proxy that delays and cuts connections. TCP hides
//! loss as delay, so these two are what a service sees.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::faults::{check_rows, write_library};
use crate::platform::Platform;

/// Bytes after which a connection is cut, whatever stands in it then.
const CUT_AFTER: usize = 4_000_000;
/// Delay of each piece on every third connection.
const DELAY: Duration = Duration::from_millis(2);

/// Copies until either side ends or `left` bytes have passed.
fn copy(mut from: TcpStream, mut to: TcpStream, left: &AtomicUsize, slow: bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if slow {
            std::thread::sleep(DELAY);
        }
        let before = left.fetch_sub(count.min(left.load(Ordering::SeqCst)), Ordering::SeqCst);
        let passed = count.min(before);
        // half of a piece may pass: messages are cut anywhere
        if to.write_all(&buffer[..passed]).is_err() || passed < count {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Passes connections on to the worker whose ready file this is; gives the count of connections.
fn proxy(listener: TcpListener, ready: PathBuf) -> Arc<AtomicUsize> {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    std::thread::spawn(move || {
        for incoming in listener.incoming() {
            let (Ok(near), Ok(address)) = (incoming, std::fs::read_to_string(&ready)) else {
                continue;
            };
            let Ok(far) = TcpStream::connect(address.trim()) else {
                continue;
            };
            let slow = counted.fetch_add(1, Ordering::SeqCst) % 3 == 2;
            let left = Arc::new(AtomicUsize::new(CUT_AFTER));
            let pairs = [
                (near.try_clone().unwrap(), far.try_clone().unwrap()),
                (far, near),
            ];
            for (from, to) in pairs {
                let left = left.clone();
                std::thread::spawn(move || copy(from, to, &left, slow));
            }
        }
    });
    connections
}

#[test]
fn connections_that_are_slow_and_cut_cost_no_row() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let platform = Platform::start_with(1, &format!("advertise = \"localhost:{port}\"\n"));
    let connections = proxy(listener, platform.path("worker-1.ready"));
    platform.publish("esol", true);
    let input = write_library(&platform, 300);
    let output = platform.path("out.csv");
    let path = output.to_str().unwrap();
    let report = platform.json(&["query", "esol", "--input", &input, "--output", path]);
    assert_eq!(report["predicted"], 300, "{report}");
    check_rows(&output, 300);
    let connections = connections.load(Ordering::SeqCst);
    assert!(
        connections > 3,
        "only {connections} connections: none was cut"
    );
}
