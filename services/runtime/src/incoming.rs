//! Connections that come in: accepted, shaken hands with side by side, and handed to the server.
//! A peer that does not finish its handshake in time is dropped and keeps nobody else waiting.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::tls::Identity;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at the same time; more connections wait in the listener's queue.
const HANDSHAKES: usize = 256;
/// Pause when the system has no descriptor or memory for another connection.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Connections, until `stop`; the task has ended when nobody listens any more.
pub fn incoming(
    listener: TcpListener,
    identity: Arc<Identity>,
    stop: CancellationToken,
) -> (
    ReceiverStream<io::Result<TlsStream<TcpStream>>>,
    JoinHandle<()>,
) {
    let (sender, receiver) = mpsc::channel(16);
    let task = tokio::spawn(async move {
        tokio::select! {
            () = accept(&listener, identity, sender) => {}
            () = stop.cancelled() => {}
        }
    });
    (ReceiverStream::new(receiver), task)
}

async fn accept(
    listener: &TcpListener,
    identity: Arc<Identity>,
    sender: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        let (acceptor, sender) = (TlsAcceptor::from(identity.server()), sender.clone());
        tokio::spawn(async move {
            let _slot = slot;
            // slower by at most a round trip when refused
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    // the server has gone
                    let _ = sender.send(Ok(stream)).await;
                }
                Ok(Err(error)) => refused(peer, &error),
                Err(elapsed) => refused(peer, &elapsed),
            }
        });
    }
}

fn refused(peer: std::net::SocketAddr, reason: &dyn std::fmt::Display) {
    metrics::counter!("chemxor_tls_handshakes_refused_total").increment(1);
    tracing::debug!(%peer, %reason, "handshake refused");
}
