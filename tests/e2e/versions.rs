//! Clients of other releases: recorded first frames against a real gateway.

use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_runtime::status::error_id;
use chemxor_runtime::tls::{self, TlsFiles};
use prost::Message;

use crate::platform::Platform;

/// The first frame of a client, as it was on the wire.
fn recorded(hex: &str) -> v1::ClientFrame {
    let bytes = data_encoding::HEXLOWER
        .decode(hex.trim().as_bytes())
        .unwrap();
    v1::ClientFrame::decode(bytes.as_slice()).unwrap()
}

#[test]
fn clients_of_other_protocols_are_told_which_side_to_upgrade() {
    let platform = Platform::start(0);
    let folder = platform.path("local");
    let files = TlsFiles {
        ca: folder.join("ca.pem"),
        cert: folder.join("client.pem"),
        key: folder.join("client.key"),
    };
    let token = std::fs::read_to_string(folder.join("querier.token")).unwrap();
    let address = platform.gateway.as_ref().unwrap().address.clone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refusal = |frame: v1::ClientFrame| {
        runtime.block_on(async {
            let channel = tls::connect(&address, &files).await.unwrap();
            let mut request = tonic::Request::new(tokio_stream::once(frame));
            let value = format!("Bearer {}", token.trim()).parse().unwrap();
            request.metadata_mut().insert("authorization", value);
            let mut client = v1::query_client::QueryClient::new(channel);
            match client.session(request).await {
                Err(status) => status,
                Ok(stream) => stream.into_inner().message().await.unwrap_err(),
            }
        })
    };
    let old = refusal(recorded(include_str!("frames/open-protocol-0.hex")));
    assert_eq!(error_id(&old), Some(ErrorId::ProtocolVersion));
    assert!(
        old.message().contains("upgrade the client"),
        "{}",
        old.message()
    );
    let new = refusal(recorded(include_str!("frames/open-protocol-2.hex")));
    assert_eq!(error_id(&new), Some(ErrorId::ProtocolVersion));
    assert!(
        new.message().contains("upgrade this gateway"),
        "{}",
        new.message()
    );
    // today's protocol passes: the next check fails, for there is no model
    let today = refusal(recorded(include_str!("frames/open-protocol-1.hex")));
    assert_eq!(
        error_id(&today),
        Some(ErrorId::ModelUnknown),
        "{}",
        today.message()
    );
}

/// What release 0.1 sent and received stays what it is: a later release that cannot read or write
/// these bytes no longer speaks protocol 1.
#[test]
fn recorded_frames_of_protocol_1_are_read_and_written_unchanged() {
    use v1::{client_frame, server_frame};
    let hex = data_encoding::HEXLOWER;
    let chunk = v1::StepChunk {
        query: 300,
        step: 1,
        total_bytes: 70_000,
        payload: vec![1, 2, 3].into(),
        ..v1::StepChunk::default()
    };
    let client = v1::ClientFrame {
        kind: Some(client_frame::Kind::Step(chunk.clone())),
    };
    assert_eq!(
        hex.encode(&client.encode_to_vec()),
        "120e08ac02100118f0a2042203010203"
    );
    let opened = v1::SessionOpened {
        session_id: vec![9; 16].into(),
        version: "sha256:00".to_owned(),
    };
    let failed = v1::QueryFailed {
        query: 300,
        error_id: "CX-Q06".to_owned(),
        message: "later".to_owned(),
        retryable: true,
    };
    let server = [
        (
            server_frame::Kind::Opened(opened),
            "0a1d0a100909090909090909090909090909090912097368613235363a3030",
        ),
        (
            server_frame::Kind::Step(chunk),
            "120e08ac02100118f0a2042203010203",
        ),
        (
            server_frame::Kind::Failed(failed),
            "1a1408ac02120643582d5130361a056c617465722001",
        ),
    ];
    for (kind, bytes) in server {
        let frame = v1::ServerFrame { kind: Some(kind) };
        assert_eq!(hex.encode(&frame.encode_to_vec()), bytes);
        assert_eq!(
            v1::ServerFrame::decode(hex.decode(bytes.as_bytes()).unwrap().as_slice()).unwrap(),
            frame
        );
    }
}
