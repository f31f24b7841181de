//! Which spans are recorded, as those see it who are called: by the context that they are given.

#![allow(clippy::unwrap_used, clippy::panic)]

use chemxor_runtime::operations::Traces;
use chemxor_runtime::traces::{Parent, Side, Span, Tracer};
use tonic::metadata::MetadataMap;

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn traces(sample_ratio: f64, spans_per_session: u32) -> Traces {
    Traces {
        // nobody listens there
        endpoint: "http://127.0.0.1:9".to_owned(),
        sample_ratio,
        spans_per_session,
    }
}

fn from(traceparent: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata.insert("traceparent", traceparent.parse().unwrap());
    metadata.insert("tracestate", "vendor=canary".parse().unwrap());
    metadata
}

/// What is told to whom is called below; nothing when the span is not recorded.
fn injected(parent: &Parent) -> Option<String> {
    let mut metadata = MetadataMap::new();
    parent.inject(&mut metadata);
    assert!(metadata.get("tracestate").is_none(), "{metadata:?}");
    Some(metadata.get("traceparent")?.to_str().unwrap().to_owned())
}

fn is_recorded(span: &Span) -> bool {
    injected(&span.parent()).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_trace_is_continued_and_its_wish_respected() {
    let tracer = Tracer::start(&traces(1.0, 10), "gateway", "").unwrap();
    let of = |metadata| injected(&tracer.session(&metadata).parent());
    let continued = of(from(SAMPLED)).unwrap();
    assert!(continued.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
    assert!(continued.ends_with("-01"));
    assert!(!continued.contains("00f067aa0ba902b7"), "its own span id");
    assert_eq!(of(from(&SAMPLED.replace("-01", "-00"))), None);
    for malformed in ["", "00-0-0-01", "zz", &SAMPLED.replace('4', "g")] {
        let fresh = of(from(malformed)).unwrap();
        assert!(!fresh.contains("4bf92f3577b34da6"), "{fresh}");
    }
    tracer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_below_begin_no_trace_and_a_session_has_a_bounded_number_of_spans() {
    let tracer = Tracer::start(&traces(1.0, 3), "worker", "w1").unwrap();
    let none = tracer.remote(&MetadataMap::new());
    assert!(!is_recorded(&none.child("evaluate", Side::Server)));
    let parent = tracer.remote(&from(SAMPLED));
    let spans: Vec<Span> = (0..5)
        .map(|_| parent.child("evaluate", Side::Server))
        .collect();
    let recorded = spans.iter().filter(|span| is_recorded(span)).count();
    assert_eq!(recorded, 3);
    drop(spans);
    tracer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recorded_or_injected_when_not_sampled() {
    let tracer = Tracer::start(&traces(0.0, 3), "gateway", "").unwrap();
    let root = tracer.session(&MetadataMap::new());
    assert!(!is_recorded(&root));
    assert!(!is_recorded(&root.parent().child("step", Side::Internal)));
    assert!(!is_recorded(&tracer.session(&from(SAMPLED))));
    tracer.end().await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_by_name() {
    let refused = |traces: &Traces| {
        let refused = Tracer::start(traces, "gateway", "");
        refused.unwrap_err().to_string()
    };
    let message = refused(&traces(1.5, 3));
    assert!(message.contains("sample_ratio"), "{message}");
    let message = refused(&traces(f64::NAN, 3));
    assert!(message.contains("sample_ratio"), "{message}");
    let mut other = traces(1.0, 3);
    other.endpoint = "127.0.0.1:4317".to_owned();
    let message = refused(&other);
    assert!(message.contains("operations.traces.endpoint"), "{message}");
    other.endpoint = String::new();
    let off = Tracer::start(&other, "gateway", "").unwrap();
    assert!(!is_recorded(&off.session(&from(SAMPLED))));
}
