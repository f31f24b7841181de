//! Connections that come in: accepted, shaken hands with side by side, and handed to the server.
//! A peer that does not finish its handshake in time is dropped and keeps nobody else waiting.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::peer::Peer;
use crate::tls::Identity;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A refused handshake is said at most so often.
const SAID_EVERY: Duration = Duration::from_secs(1);
/// Longer than any process runs.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Handshakes at the same time; one more ends the oldest, so that peers who connect and say nothing
/// keep nobody waiting.
const HANDSHAKES: usize = 256;
/// Pause when the system has no descriptor or memory for another connection.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// A connection that has shaken hands, and who is on the other side. It ends with the certificate of
/// that side: whoever has a new one connects again.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// By a clock that nobody sets: that the machine's clock jumps ends no connection.
    until: Instant,
}

impl Connection {
    fn new(stream: TlsStream<TcpStream>) -> Self {
        let peer = Peer::of(stream.get_ref().1.peer_certificates());
        let now = Instant::now();
        // a certificate without an end that can be counted to lives as long as the process
        let until = now.checked_add(peer.left()).unwrap_or(now + FOREVER);
        Self {
            stream,
            peer,
            until,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if Instant::now() >= self.until {
            // the end of the stream
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Connections, until `stop`; the task has ended when nobody listens any more.
pub fn incoming(
    listener: TcpListener,
    identity: Arc<Identity>,
    stop: CancellationToken,
) -> (ReceiverStream<io::Result<Connection>>, JoinHandle<()>) {
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
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    // the oldest first; closed when it is over, and over when it is dropped
    let mut under_way: VecDeque<oneshot::Sender<()>> = VecDeque::new();
    loop {
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
        if under_way.len() >= HANDSHAKES {
            under_way.retain(|handshake| !handshake.is_closed());
        }
        if under_way.len() >= HANDSHAKES {
            under_way.pop_front();
        }
        let (handshake, displaced) = oneshot::channel();
        under_way.push_back(handshake);
        let (acceptor, sender) = (TlsAcceptor::from(identity.server()), sender.clone());
        tokio::spawn(async move {
            // slower by at most a round trip when refused
            let _ = stream.set_nodelay(true);
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)) => shaken,
                _ = displaced => {
                    refused(peer, &"too many handshakes are under way, and this is the oldest");
                    return;
                }
            };
            match shaken {
                Ok(Ok(stream)) => {
                    // the server has gone
                    let _ = sender.send(Ok(Connection::new(stream))).await;
                }
                Ok(Err(error)) => refused(peer, &error),
                Err(elapsed) => refused(peer, &elapsed),
            }
        });
    }
}

/// Counts what is refused, and says so: each one when they are few, the number when they are many.
fn refused(peer: std::net::SocketAddr, reason: &dyn std::fmt::Display) {
    static SAID: Mutex<Option<(Instant, u64)>> = Mutex::new(None);
    metrics::counter!("chemxor_tls_handshakes_refused_total").increment(1);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let kept_back = match &mut *said {
        Some((last, more)) if last.elapsed() < SAID_EVERY => {
            *more += 1;
            return;
        }
        Some((_, more)) => *more,
        None => 0,
    };
    *said = Some((Instant::now(), 0));
    drop(said);
    tracing::info!(%peer, %reason, kept_back, "handshake refused");
}
