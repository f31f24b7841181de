//! What a worker does not take, and that it lives on.

use bytes::Bytes;
use chemxor_core::ErrorId;
use chemxor_proto::v1::worker_request::Kind;
use chemxor_proto::{MAX_FRAME_BYTES, MAX_STEP_BYTES, v1};
use chemxor_runtime::pki::Subject;
use chemxor_runtime::status::error_id;
use tonic::{Code, Status};

use super::model::Model;
use super::platform::{Options, Platform};
use super::stream::{Heard, Stream, open_frame};

fn is(status: &Status, code: Code, id: ErrorId) {
    assert_eq!(
        (status.code(), error_id(status)),
        (code, Some(id)),
        "{status}"
    );
}

#[tokio::test]
async fn only_a_gateway_is_let_in() {
    let model = Model::light("on", 0b1111_0110);
    let platform = Platform::serving(Options::default(), &[&model]).await;
    let foreign = [
        Subject::Client("lab".parse().unwrap()),
        Subject::Worker("b".parse().unwrap()),
        Subject::Registry,
    ];
    for subject in &foreign {
        let refused = Stream::open(platform.connect(subject).await, &model).await;
        let refused = refused.err().unwrap();
        is(
            &refused,
            Code::PermissionDenied,
            ErrorId::CertificateRefused,
        );
    }
    platform.open(&model).await.ask(&model, 1).await;
}

#[tokio::test]
async fn a_stream_that_does_not_open_well_is_refused() {
    let (model, unknown) = (Model::light("on", 0b1111_0110), Model::light("other", 1));
    let platform = Platform::serving(Options::default(), &[&model]).await;
    let good = || open_frame(&model);
    let refused = platform.try_open(&unknown).await.err().unwrap();
    is(&refused, Code::NotFound, ErrorId::ModelUnknown);
    let step = Kind::Step(v1::EvaluationChunk::default());
    let no_digest = v1::OpenEvaluation {
        version: "latest".into(),
        ..good()
    };
    let short_id = v1::OpenEvaluation {
        session_id: vec![7; 15].into(),
        ..good()
    };
    let no_keys = v1::OpenEvaluation {
        public_keys: Bytes::from_static(b"garbage"),
        ..good()
    };
    let cases = [
        (step, ErrorId::FrameMalformed),
        (Kind::Open(no_digest), ErrorId::ArgumentInvalid),
        (Kind::Open(short_id), ErrorId::ArgumentInvalid),
        (Kind::Open(no_keys), ErrorId::CiphertextRefused),
    ];
    for (first, id) in cases {
        let channel = platform.connect(&Subject::Gateway).await;
        let mut stream = Stream::begin(channel, first).await.unwrap();
        refusal(&mut stream, id).await;
    }
    platform.open(&model).await.ask(&model, 1).await;
}

async fn refusal(stream: &mut Stream, id: ErrorId) {
    let heard = stream.hear().await;
    let expected = Some(id);
    assert!(
        matches!(heard, Heard::Refused(Code::InvalidArgument, got) if got == expected),
        "{heard:?}, not {id}"
    );
}

#[tokio::test]
async fn malformed_frames_end_their_stream_and_no_other() {
    let model = Model::light("on", 0b1111_0110);
    let platform = Platform::serving(Options::default(), &[&model]).await;
    let mut other = platform.open(&model).await;
    other.ask(&model, 1).await;

    let mut stream = platform.open(&model).await;
    let payload = Bytes::from_static(b"x");
    stream
        .chunk((1, 0), MAX_STEP_BYTES + 1, payload.clone())
        .await;
    refusal(&mut stream, ErrorId::FrameTooLarge).await;

    let mut stream = platform.open(&model).await;
    stream.chunk((1, 0), 0, payload.clone()).await;
    refusal(&mut stream, ErrorId::FrameMalformed).await;

    let mut stream = platform.open(&model).await;
    stream.chunk((1, 0), 10, payload.clone()).await;
    stream.chunk((1, 0), 11, payload.clone()).await;
    refusal(&mut stream, ErrorId::FrameMalformed).await;

    let mut stream = platform.open(&model).await;
    stream.send(Kind::Open(open_frame(&model))).await;
    refusal(&mut stream, ErrorId::FrameMalformed).await;

    other.ask(&model, 2).await;
}

#[tokio::test]
async fn ciphertexts_and_states_that_are_none_fail_their_step_only() {
    let model = Model::light("on", 0b1111_0110);
    let platform = Platform::serving(Options::default(), &[&model]).await;
    let mut stream = platform.open(&model).await;
    stream.step((1, 0), b"no ciphertext", Vec::new(), 0).await;
    stream.step((2, 1), b"no state", Vec::new(), 0).await;
    let state = vec![Bytes::from_static(b"of nobody")];
    stream.step((3, 1), b"no state", state, 0).await;
    let mut failed = Vec::new();
    for _ in 1..=3 {
        match stream.hear().await {
            Heard::Failed(at, id, false) => failed.push((at.0, id)),
            other => panic!("the step fails, got {other:?}"),
        }
    }
    failed.sort_unstable();
    let ids: Vec<&str> = failed.iter().map(|(_, id)| id.as_str()).collect();
    assert_eq!(ids, ["CX-Q04", "CX-Q07", "CX-Q07"]);
    stream.ask(&model, 4).await;
}

#[tokio::test]
async fn incomplete_messages_of_one_stream_take_bounded_memory() {
    let model = Model::light("on", 0b1111_0110);
    let platform = Platform::serving(Options::default(), &[&model]).await;
    let mut stream = platform.open(&model).await;
    let mut other = platform.open(&model).await;
    let frame = Bytes::from(vec![0; MAX_FRAME_BYTES]);
    // five messages of 60 MiB each, none of them complete
    let sending = async {
        for number in 0..300 {
            let at = (number % 5, 0);
            stream.chunk(at, MAX_STEP_BYTES, frame.clone()).await;
        }
    };
    sending.await;
    refusal(&mut stream, ErrorId::FrameTooLarge).await;
    other.ask(&model, 1).await;
}
