//! A bad network between two parties: delays and cuts connections, loses packets, stops at a byte, or
//! falls silent. TCP hides loss as delay, so these are what a service sees.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Delay of each piece on every third connection of [`Trouble::Cuts`].
const DELAY: Duration = Duration::from_millis(2);

/// Delay of each piece on a connection of [`Trouble::Loses`]: of another continent.
const FAR: Duration = Duration::from_millis(10);
/// Every so many pieces one is lost ...
const LOST: usize = 40;
/// ... and comes after TCP has noticed, with all that was sent behind it (RFC 6298: a second, in practice
/// 200 ms at least).
const SENT_AGAIN: Duration = Duration::from_millis(250);

/// What happens to connections.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    /// Each is cut after so many bytes of both ways together, whatever stands in it then, and every
    /// third is slow.
    Cuts(usize),
    /// Each takes what it is sent, and passes no more than so many bytes on, in both ways together.
    Holds(usize),
    /// All are far, and lose a packet now and then.
    Loses,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// Bytes from whoever connects.
    upward: AtomicUsize,
    /// Pieces, of connections that lose some.
    pieces: AtomicUsize,
    silent: AtomicBool,
}

/// Listens until the test ends.
pub(crate) struct Proxy {
    port: u16,
    seen: Arc<Seen>,
}

impl Proxy {
    /// Passes connections on to the address that `target` gives at the time.
    pub(crate) fn start(
        trouble: Trouble,
        target: impl Fn() -> Option<String> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let far = target().and_then(|address| TcpStream::connect(address.trim()).ok());
                let Some(far) = far else { continue };
                let left = Arc::new(AtomicUsize::new(match trouble {
                    Trouble::Cuts(bytes) | Trouble::Holds(bytes) => bytes,
                    Trouble::Loses => usize::MAX,
                }));
                let clones = (near.try_clone().unwrap(), far.try_clone().unwrap());
                for (from, to, upward) in [(clones.0, clones.1, true), (far, near, false)] {
                    let pipe = Pipe {
                        seen: shared.clone(),
                        left: left.clone(),
                        slow: matches!(trouble, Trouble::Cuts(_)) && number % 3 == 2,
                        loses: matches!(trouble, Trouble::Loses),
                        holds: matches!(trouble, Trouble::Holds(_)),
                        upward,
                    };
                    std::thread::spawn(move || pipe.run(from, to));
                }
            }
        });
        Self { port, seen }
    }

    pub(crate) fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Bytes that were sent by whoever connected.
    pub(crate) fn upward(&self) -> usize {
        self.seen.upward.load(Ordering::SeqCst)
    }

    /// Pieces that were lost and sent again.
    pub(crate) fn lost(&self) -> usize {
        self.seen.pieces.load(Ordering::SeqCst) / LOST
    }

    /// From now on everything is taken and nothing passed on, as behind a firewall that drops.
    pub(crate) fn fall_silent(&self) {
        self.seen.silent.store(true, Ordering::SeqCst);
    }
}

/// One way of one connection.
struct Pipe {
    seen: Arc<Seen>,
    left: Arc<AtomicUsize>,
    slow: bool,
    loses: bool,
    holds: bool,
    upward: bool,
}

impl Pipe {
    fn run(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if self.slow {
                std::thread::sleep(DELAY);
            }
            if self.loses {
                let number = self.seen.pieces.fetch_add(1, Ordering::SeqCst);
                let lost = number % LOST == LOST - 1;
                std::thread::sleep(if lost { SENT_AGAIN } else { FAR });
            }
            if self.upward {
                self.seen.upward.fetch_add(count, Ordering::SeqCst);
            }
            if self.seen.silent.load(Ordering::SeqCst) {
                continue;
            }
            let taken = |left: usize| Some(left - count.min(left));
            let before = self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken)
                .unwrap();
            // half of a piece may pass: messages are cut anywhere
            let passed = count.min(before);
            if to.write_all(&buffer[..passed]).is_err() || (passed < count && !self.holds) {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
