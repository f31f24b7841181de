//! What a session refuses, and that nobody else suffers.

use bytes::Bytes;
use chemxor_core::ErrorId;
use chemxor_gateway::Limits;
use chemxor_proto::v1::client_frame::Kind;
use chemxor_proto::v1::query_client::QueryClient;
use chemxor_proto::{MAX_FRAME_BYTES, MAX_STEP_BYTES, v1};
use chemxor_runtime::pki::Subject;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use super::client::{Client, Heard, answered, failed, open_frame, refusal};
use super::platform::Platform;
use super::registry::TOKEN;
use super::worker::Deed;

#[tokio::test]
async fn steps_out_of_order_and_replayed_are_refused_and_others_go_on() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    // a fresh query at step 1, a skipped step, a replayed step, a step that the model lacks
    client.ask(3, 0).await;
    client.ask(4, 0).await;
    client.ask(4, 1).await;
    for (query, step) in [(2, 1), (3, 2), (4, 1), (5, 3)] {
        client.step(query, step, b"wrong").await;
        assert_eq!(client.hear().await, failed(query, ErrorId::StepOutOfOrder));
    }
    // a query that has failed stays failed, and its number used
    for (query, step) in [(2, 0), (3, 1), (4, 2), (5, 0)] {
        client.step(query, step, b"again").await;
        assert_eq!(client.hear().await, failed(query, ErrorId::StepOutOfOrder));
    }
    client.ask(1, 1).await;
    client.ask(1, 2).await;
    client
        .step(1, 0, b"the number of a query that ended well")
        .await;
    assert_eq!(client.hear().await, failed(1, ErrorId::StepOutOfOrder));
    assert_eq!(
        platform.journal.of(4).len(),
        2,
        "no step was evaluated twice"
    );
}

#[tokio::test]
async fn a_step_replayed_while_it_is_evaluated_fails_the_query_once() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    let (open, gate) = watch::channel(false);
    platform.journal.script(move |job| match job.query {
        1 => Deed::AnswerWhen(gate.clone()),
        _ => Deed::Answer,
    });
    client.step(1, 0, b"first").await;
    platform.journal.wait_for(1).await;
    client.step(1, 0, b"second").await;
    assert_eq!(client.hear().await, failed(1, ErrorId::StepOutOfOrder));
    open.send_replace(true);
    client.ask(2, 0).await;
    client.finish();
    assert_eq!(client.hear().await, Heard::End, "the late reply stays away");
    assert_eq!(platform.journal.of(1).len(), 1);
}

async fn ends_with(platform: &Platform, code: Code, id: ErrorId, frame: Kind) {
    let mut client = platform.open().await;
    client.send(frame).await;
    assert_eq!(client.hear().await, Heard::Refused(code, Some(id)), "{id}");
}

fn chunk(total: usize, payload: usize) -> Kind {
    Kind::Step(v1::StepChunk {
        query: 1,
        step: 0,
        timeout_ms: 0,
        total_bytes: total as u32,
        payload: Bytes::from(vec![0; payload]),
    })
}

#[tokio::test]
async fn malformed_and_oversized_frames_end_the_session() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut other = platform.open().await;
    let invalid = Code::InvalidArgument;
    let (large, malformed) = (ErrorId::FrameTooLarge, ErrorId::FrameMalformed);
    ends_with(&platform, invalid, large, chunk(MAX_STEP_BYTES + 1, 1)).await;
    let frame = chunk(MAX_STEP_BYTES, MAX_FRAME_BYTES + 1);
    ends_with(&platform, invalid, large, frame).await;
    let frame = chunk(MAX_STEP_BYTES, 3 * MAX_FRAME_BYTES);
    ends_with(&platform, invalid, large, frame).await;
    ends_with(&platform, invalid, malformed, chunk(0, 0)).await;
    ends_with(&platform, invalid, malformed, chunk(10, 11)).await;
    let frame = open_frame().kind.unwrap();
    ends_with(&platform, invalid, malformed, frame).await;
    other.ask(1, 0).await;
}

#[tokio::test]
async fn incomplete_messages_are_bounded_in_number_and_bytes() {
    let limits = Limits {
        partial_messages: 2,
        partial_bytes: MAX_STEP_BYTES,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let expected = Heard::Refused(Code::InvalidArgument, Some(ErrorId::FrameTooLarge));
    let mut many = platform.open().await;
    for query in 1..=3 {
        many.chunk(query, 0, 10, b"x").await;
    }
    assert_eq!(many.hear().await, expected);
    let mut much = platform.open().await;
    let frame = vec![0; MAX_FRAME_BYTES];
    for _ in 0..40 {
        much.chunk(1, 0, MAX_STEP_BYTES, &frame).await;
        much.chunk(2, 0, MAX_STEP_BYTES, &frame).await;
    }
    assert_eq!(much.hear().await, expected);
}

#[tokio::test]
async fn only_clients_with_certificate_and_token_get_in() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let refused = async |token: Option<&str>, first| match platform.try_open(token, first).await {
        Ok(_) => panic!("the session opened"),
        Err(status) => refusal(&status),
    };
    let no = |code, id| Heard::Refused(code, Some(id));
    let heard = refused(None, open_frame()).await;
    assert_eq!(heard, no(Code::Unauthenticated, ErrorId::TokenMissing));
    let heard = refused(Some("wrong"), open_frame()).await;
    assert_eq!(heard, no(Code::Unauthenticated, ErrorId::TokenRefused));
    let open = |change: fn(&mut v1::OpenSession)| {
        let mut frame = open_frame();
        let Some(Kind::Open(open)) = &mut frame.kind else {
            panic!("an open frame");
        };
        change(open);
        frame
    };
    let heard = refused(Some(TOKEN), open(|open| open.model = "other".into())).await;
    assert_eq!(heard, no(Code::NotFound, ErrorId::ModelUnknown));
    let heard = refused(Some(TOKEN), open(|open| open.protocol_version = 9)).await;
    assert_eq!(
        heard,
        no(Code::FailedPrecondition, ErrorId::ProtocolVersion)
    );
    let long = open(|open| open.public_keys = vec![0; MAX_FRAME_BYTES + 1].into());
    let heard = refused(Some(TOKEN), long).await;
    assert_eq!(heard, no(Code::InvalidArgument, ErrorId::FrameTooLarge));
    let step = v1::ClientFrame {
        kind: Some(chunk(1, 1)),
    };
    let heard = refused(Some(TOKEN), step).await;
    assert_eq!(heard, no(Code::InvalidArgument, ErrorId::FrameMalformed));

    let worker = Subject::Worker("a".parse().unwrap());
    let channel = platform.connect(&worker).await;
    let Err(status) = Client::open(channel, Some(TOKEN), open_frame()).await else {
        panic!("the session opened");
    };
    assert_eq!(
        refusal(&status),
        no(Code::PermissionDenied, ErrorId::CertificateRefused)
    );
    platform.sessions(0).await;
}

#[tokio::test]
async fn queries_over_the_limit_are_refused_and_may_be_asked_again() {
    let limits = Limits {
        queries_in_flight: 2,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    client.ask(2, 0).await;
    client.step(3, 0, b"one too many").await;
    assert_eq!(client.hear().await, failed(3, ErrorId::SessionLimit));
    client.ask(1, 1).await;
    client.ask(1, 2).await;
    client.ask(4, 0).await;
}

#[tokio::test]
async fn steps_over_the_limit_wait() {
    let limits = Limits {
        steps_in_flight: 2,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    let (open, gate) = watch::channel(false);
    platform
        .journal
        .script(move |_| Deed::AnswerWhen(gate.clone()));
    for query in 1..=20 {
        client.step(query, 0, b"x").await;
    }
    platform.journal.wait_for(2).await;
    open.send_replace(true);
    for _ in 1..=20 {
        let heard = client.hear().await;
        let Heard::Reply { query, .. } = heard else {
            panic!("{heard:?}");
        };
        assert_eq!(heard, answered(query, 0, b"x"));
    }
    assert_eq!(*platform.journal.busy.borrow(), (0, 2));
}

#[tokio::test]
async fn sessions_over_the_limit_are_refused() {
    let limits = Limits {
        sessions: 1,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let first = platform.open().await;
    let Err(status) = platform.try_open(Some(TOKEN), open_frame()).await else {
        panic!("the session opened");
    };
    let expected = Heard::Refused(Code::ResourceExhausted, Some(ErrorId::SessionLimit));
    assert_eq!(refusal(&status), expected);
    drop(first);
    platform.sessions(0).await;
    platform.open().await;
}

#[tokio::test]
async fn who_opens_and_says_nothing_takes_no_session_from_others() {
    let limits = Limits {
        sessions: 1,
        openings_per_certificate: 1,
        registry_timeout_ms: 20_000,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    // it sends no frame: its certificate can open no other session, but others can
    let mute = Subject::Client("mute".parse().unwrap());
    let channel = platform.connect(&mute).await;
    let (frames, receiver) = mpsc::channel::<v1::ClientFrame>(1);
    let mut request = Request::new(ReceiverStream::new(receiver));
    let token = format!("Bearer {TOKEN}").parse().unwrap();
    request.metadata_mut().insert("authorization", token);
    let mut first = QueryClient::new(channel.clone());
    let opening = tokio::spawn(async move { first.session(request).await.map(|_| ()) });
    let refused = loop {
        let nothing = Client::open(channel.clone(), Some(TOKEN), chunk_frame()).await;
        let heard = refusal(&nothing.err().unwrap());
        // as long as the first one has not come in
        if heard != Heard::Refused(Code::InvalidArgument, Some(ErrorId::FrameMalformed)) {
            break heard;
        }
    };
    let expected = Heard::Refused(Code::ResourceExhausted, Some(ErrorId::SessionLimit));
    assert_eq!(refused, expected);
    let mut other = platform.open().await;
    other.ask(1, 0).await;
    drop(frames);
    assert!(opening.await.unwrap().is_err());
}

/// A network that loses the first frame is slow; it speaks no other protocol, and may try again.
#[tokio::test]
async fn who_opens_too_slowly_may_open_again() {
    let limits = Limits {
        registry_timeout_ms: 200,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let slow = Subject::Client("slow".parse().unwrap());
    let channel = platform.connect(&slow).await;
    let (_frames, receiver) = mpsc::channel::<v1::ClientFrame>(1);
    let mut request = Request::new(ReceiverStream::new(receiver));
    let token = format!("Bearer {TOKEN}").parse().unwrap();
    request.metadata_mut().insert("authorization", token);
    let refused = QueryClient::new(channel).session(request).await;
    let expected = Heard::Refused(Code::ResourceExhausted, Some(ErrorId::SessionLimit));
    assert_eq!(refusal(&refused.err().unwrap()), expected);
}

fn chunk_frame() -> v1::ClientFrame {
    v1::ClientFrame {
        kind: Some(chunk(1, 1)),
    }
}

#[tokio::test]
async fn sessions_of_one_organisation_are_limited_and_others_get_in() {
    let limits = Limits {
        sessions_per_organisation: 2,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let set = |name: &str| *platform.registry.organisation.lock().unwrap() = name.into();
    set("basel");
    let first = platform.open().await;
    let _second = platform.open().await;
    let Err(status) = platform.try_open(Some(TOKEN), open_frame()).await else {
        panic!("the session opened");
    };
    let expected = Heard::Refused(Code::ResourceExhausted, Some(ErrorId::SessionLimit));
    assert_eq!(refusal(&status), expected);
    assert!(
        status.metadata().get("x-request-id").is_some(),
        "{status:?}"
    );
    set("geneva");
    let _other = platform.open().await;
    drop(first);
    platform.sessions(2).await;
    set("basel");
    platform.open().await;
}
