//! When a gateway says that sessions are welcome.

use chemxor_gateway::Limits;
use chemxor_runtime::operations::Operations;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::PATIENCE;
use super::platform::{Model, Platform};

/// The status line that `/readyz` answers with; none while nobody listens.
async fn readyz(address: std::net::SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = b"GET /readyz HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.lines().next().map(str::to_owned)
}

/// Asks until the answer has this status.
async fn answers(address: std::net::SocketAddr, status: &str) {
    let asking = async {
        while !readyz(address)
            .await
            .is_some_and(|line| line.contains(status))
        {
            tokio::task::yield_now().await;
        }
    };
    let answered = tokio::time::timeout(PATIENCE, asking).await;
    answered.unwrap_or_else(|_| panic!("/readyz never said {status}"));
}

#[tokio::test]
async fn a_gateway_is_ready_when_it_knows_who_serves_what() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let operations = Operations {
        listen: Some(address),
        ..Default::default()
    };
    let platform = Platform::serving(Model::Plain, &[0..3], Limits::default(), operations).await;
    answers(address, "503").await;
    platform.registry.tell();
    answers(address, "200").await;
}
