//! A worker that has a genuine certificate and answers garbage: no row is lost and none is wrong,
//! because the gateway asks another one.
//!
//! What has the form of a reply and wrong numbers in it cannot be told from a right one by anybody but
//! the holder of known answers; see `conformance`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use chemxor_proto::v1::partition_server::{Partition, PartitionServer};
use chemxor_proto::v1::{worker_reply, worker_request};
use chemxor_proto::{MAX_MESSAGE_BYTES, v1};
use chemxor_runtime::operations::Operations;
use chemxor_runtime::serve::Served;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::faults::{check_rows, write_library};
use crate::platform::Platform;

#[derive(Clone, Default)]
struct Liar(Arc<AtomicUsize>);

impl Liar {
    /// Noise; a reply's first bytes and then noise; nothing; a header alone, of a reply that is empty.
    fn lie(&self) -> Vec<u8> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        let noise = (0..20_000_u32).map(|i| i.wrapping_mul(2_654_435_761) as u8);
        let header = b"CXRE\x02\x00\x0d\x00\0\0\0\0\x01\0\0\0".to_vec();
        match number % 4 {
            0 => noise.collect(),
            1 => header.into_iter().chain(noise).collect(),
            2 => vec![0],
            _ => header,
        }
    }
}

#[tonic::async_trait]
impl Partition for Liar {
    type ServeStream = ReceiverStream<Result<v1::WorkerReply, Status>>;

    async fn serve(
        &self,
        request: Request<Streaming<v1::WorkerRequest>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let (replies, stream) = mpsc::channel(16);
        let liar = self.clone();
        tokio::spawn(async move {
            let mut requests = request.into_inner();
            let mut seen = HashSet::new();
            while let Ok(Some(request)) = requests.message().await {
                let kind = match request.kind {
                    Some(worker_request::Kind::Open(_)) => {
                        worker_reply::Kind::Opened(v1::EvaluationOpened {})
                    }
                    Some(worker_request::Kind::Step(step))
                        if seen.insert((step.query, step.step)) =>
                    {
                        let payload = liar.lie();
                        worker_reply::Kind::Step(v1::EvaluationChunk {
                            query: step.query,
                            step: step.step,
                            total_bytes: payload.len() as u32,
                            payload: payload.into(),
                            sealed_states: vec![Bytes::from_static(&[7; 200])],
                            timeout_ms: 0,
                            compute_us: 1,
                        })
                    }
                    _ => continue,
                };
                let reply = v1::WorkerReply { kind: Some(kind) };
                if replies.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[test]
fn a_worker_that_answers_garbage_costs_no_row_and_no_right_value() {
    let mut platform = Platform::start(2);
    platform.publish_spread("esol", true, "replicas");
    let input = write_library(&platform, 400);
    let run = |platform: &Platform, name: &str| -> Vec<f64> {
        let output = platform.path(name);
        let path = output.to_str().unwrap();
        platform.json(&["query", "esol", "--input", &input, "--output", path]);
        check_rows(&output, 400);
        let mut reader = csv::Reader::from_path(output).unwrap();
        let at = reader
            .headers()
            .unwrap()
            .iter()
            .position(|c| c == "prediction");
        let value = |row: csv::StringRecord| row[at.unwrap()].parse().unwrap();
        reader.records().map(|row| value(row.unwrap())).collect()
    };
    let honest = run(&platform, "honest.csv");

    // in the place of the second worker, with its certificate
    let liar = Liar::default();
    let listen = std::fs::read_to_string(platform.path("worker-2.ready")).unwrap();
    let files = platform.tls_of("worker-2");
    let taken = platform.workers[1].take().unwrap();
    taken.kill();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let service = PartitionServer::new(liar.clone())
        .max_decoding_message_size(2 * MAX_MESSAGE_BYTES)
        .max_encoding_message_size(2 * MAX_MESSAGE_BYTES);
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen.trim()).await.unwrap();
        let served = Served::new(&files, Operations::default()).unwrap();
        let router = Server::builder().add_service(service);
        tokio::spawn(async move { served.run(router, listener, CancellationToken::new()).await });
    });
    let beside = run(&platform, "beside.csv");
    assert!(
        liar.0.load(Ordering::SeqCst) > 0,
        "the liar was never asked"
    );
    for (row, (honest, beside)) in honest.iter().zip(&beside).enumerate() {
        // both are stochastically rounded, so they differ by a few output steps at most
        assert!(
            (honest - beside).abs() < 0.6,
            "row {row}: {honest} {beside}"
        );
    }
}
