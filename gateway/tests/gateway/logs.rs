//! What the log of a gateway says, and what it must never say.

use std::io::Write;
use std::sync::{Arc, Mutex};

use chemxor_gateway::Limits;
use tracing_subscriber::fmt::MakeWriter;

use super::client::{Heard, PATIENCE};
use super::platform::{Platform, STEPS};
use super::registry::{Mood, TOKEN};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    /// Keeps what this thread logs, as long as the guard lives.
    fn keep(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(self.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits until this stands in it.
    async fn says(&self, text: &str) {
        let said = async {
            while !self.text().contains(text) {
                tokio::task::yield_now().await;
            }
        };
        let said = tokio::time::timeout(PATIENCE, said).await;
        said.unwrap_or_else(|_| panic!("{text:?} is not in the log"));
    }
}

// one thread: the subscriber is this thread's own
#[tokio::test]
async fn why_the_watch_of_placements_broke_is_logged() {
    let log = Log::default();
    let _guard = log.keep();
    let platform = Platform::start(&[0..3], Limits::default()).await;
    platform.registry.tell();
    log.says("placements learned").await;
    platform.registry.set(Mood::Fails);
    log.says("the watch of placements broke").await;
    // what the double says of an open stream; one that it does not open it refuses
    log.says("connection reset").await;
}

// one thread: the subscriber is this thread's own
#[tokio::test]
async fn logs_tell_sizes_and_never_contents() {
    let log = Log::default();
    let _guard = log.keep();
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    for step in 0..STEPS {
        client.step(1, step, b"payload canary").await;
        client.hear().await;
    }
    client.step(1, 0, b"payload canary").await;
    client.hear().await;
    let id: String = client
        .session_id
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    client.finish();
    assert_eq!(client.hear().await, Heard::End);
    platform.sessions(0).await;

    let text = log.text();
    for secret in [TOKEN, "canary", "answer 1/0"] {
        assert!(!text.contains(secret), "{secret:?} is in the log");
    }
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |message: &str| {
        let mut lines = lines
            .iter()
            .filter(|line| line["fields"]["message"] == message);
        lines
            .next()
            .unwrap_or_else(|| panic!("no line {message:?}"))
            .clone()
    };
    let closed = of("session closed");
    assert_eq!(closed["span"]["id"], id);
    assert_eq!(closed["span"]["version"], platform.registry.version());
    let fields = &closed["fields"];
    assert_eq!(fields["queries"], 1);
    assert_eq!(fields["steps"], STEPS);
    assert_eq!(fields["failed"], 1);
    assert_eq!(fields["ciphertext_bytes_up"], 4 * b"payload canary".len());
    assert_eq!(of("step")["span"]["id"], id);
    assert_eq!(of("step")["fields"]["up"], b"payload canary".len());
}
