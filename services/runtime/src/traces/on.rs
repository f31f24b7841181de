//! Spans by the OpenTelemetry SDK, in batches to a collector.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chemxor_core::ErrorId;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan,
};
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};

use super::Side;
use crate::RuntimeError;
use crate::operations::Traces;

/// Spans that wait for the collector; more are dropped.
const QUEUE: usize = 4096;
/// Spans of one message to the collector.
const BATCH: usize = 512;
/// How often a batch leaves.
const EVERY: Duration = Duration::from_secs(1);
/// How long the collector may take, and how long the end of the service waits for it.
const PATIENCE: Duration = Duration::from_secs(3);
/// How the work ended: `ok`, `failed` or `cancelled`.
const OUTCOME: &str = "chemxor.outcome";

struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    spans_per_session: u32,
}

/// Makes spans; none where no collector is configured.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

/// What new spans belong to.
#[derive(Clone, Default)]
pub struct Parent(Option<Arc<Recording>>);

struct Recording {
    inner: Arc<Inner>,
    context: SpanContext,
    /// Spans of the session that this process has been asked for.
    asked: Arc<AtomicU32>,
}

/// One piece of work. Dropped before its outcome is known, it counts as cancelled.
#[derive(Default)]
pub struct Span(Option<Box<Recorded>>);

struct Recorded {
    span: SdkSpan,
    parent: Parent,
    is_root: bool,
    is_settled: bool,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tracer").field(&self.0.is_some()).finish()
    }
}

impl fmt::Debug for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Parent").field(&self.0.is_some()).finish()
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.0.is_some()).finish()
    }
}

impl Tracer {
    /// Begins to export, when an endpoint is configured. The collector need not be there.
    pub fn start(
        traces: &Traces,
        service: &'static str,
        instance: &str,
    ) -> Result<Self, RuntimeError> {
        let endpoint = traces.endpoint.as_str();
        if endpoint.is_empty() {
            return Ok(Self(None));
        }
        let refuse = |reason: String| RuntimeError::Traces {
            endpoint: endpoint.to_owned(),
            reason,
        };
        if !endpoint.starts_with("http://") {
            let reason = "write http://HOST:PORT of a collector beside the service";
            return Err(refuse(reason.to_owned()));
        }
        if !(0.0..=1.0).contains(&traces.sample_ratio) {
            let reason = "operations.traces.sample_ratio must be between 0 and 1";
            return Err(refuse(reason.to_owned()));
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(PATIENCE)
            .build()
            .map_err(|error| refuse(error.to_string()))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(EVERY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches);
        let mut resource = Resource::builder_empty()
            .with_service_name(format!("chemxor-{service}"))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        if !instance.is_empty() {
            resource =
                resource.with_attribute(KeyValue::new("service.instance.id", instance.to_owned()));
        }
        // by the trace's id, so that every service keeps the same traces
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::TraceIdRatioBased(traces.sample_ratio))
            .with_resource(resource.build())
            .with_span_processor(processor.build())
            .build();
        tracing::info!(endpoint, "traces are exported");
        Ok(Self(Some(Arc::new(Inner {
            tracer: provider.tracer("chemxor"),
            provider,
            spans_per_session: traces.spans_per_session,
        }))))
    }

    /// The root of a session's trace, or a part of the client's trace when it names one. A client
    /// that does not record its trace is not recorded here either.
    pub fn session(&self, metadata: &MetadataMap) -> Span {
        let Some(inner) = &self.0 else {
            return Span(None);
        };
        let client = named(metadata);
        if client.as_ref().is_some_and(|context| !context.is_sampled()) {
            return Span(None);
        }
        let context = client.map_or_else(Context::new, |context| {
            Context::new().with_remote_span_context(context)
        });
        Span::begin(
            inner,
            "session",
            SpanKind::Server,
            &context,
            Arc::default(),
            true,
        )
    }

    /// What the caller's metadata names; nothing when it records no trace.
    pub fn remote(&self, metadata: &MetadataMap) -> Parent {
        let Some(inner) = &self.0 else {
            return Parent(None);
        };
        let recorded = named(metadata).filter(SpanContext::is_sampled);
        Parent(recorded.map(|context| {
            Arc::new(Recording {
                inner: inner.clone(),
                context,
                asked: Arc::default(),
            })
        }))
    }

    /// Sends what is queued, and nothing any more.
    pub async fn end(self) {
        let Some(inner) = self.0 else { return };
        let shut = move || inner.provider.shutdown_with_timeout(PATIENCE);
        match tokio::task::spawn_blocking(shut).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans were not exported"),
            Err(error) => tracing::warn!(%error, "the export of spans ended"),
        }
    }
}

impl Parent {
    /// A span below; not recorded when the session has had its number of spans.
    pub fn child(&self, name: &'static str, side: Side) -> Span {
        let Some(recording) = &self.0 else {
            return Span(None);
        };
        // a session has fewer steps than would wrap it around
        let asked = recording.asked.fetch_add(1, Ordering::Relaxed);
        if asked >= recording.inner.spans_per_session {
            return Span(None);
        }
        let kind = match side {
            Side::Server => SpanKind::Server,
            Side::Client => SpanKind::Client,
            Side::Internal => SpanKind::Internal,
        };
        let context = Context::new().with_remote_span_context(recording.context.clone());
        let asked = recording.asked.clone();
        Span::begin(&recording.inner, name, kind, &context, asked, false)
    }

    /// Names this parent to whom is called.
    pub fn inject(&self, metadata: &mut MetadataMap) {
        if let Some(recording) = &self.0 {
            let context = Context::new().with_remote_span_context(recording.context.clone());
            TraceContextPropagator::new().inject_context(&context, &mut Outgoing(metadata));
        }
    }
}

impl Span {
    fn begin(
        inner: &Arc<Inner>,
        name: &'static str,
        kind: SpanKind,
        context: &Context,
        asked: Arc<AtomicU32>,
        is_root: bool,
    ) -> Self {
        let builder = inner.tracer.span_builder(name).with_kind(kind);
        let span = inner.tracer.build_with_context(builder, context);
        if !span.is_recording() {
            return Self(None);
        }
        let parent = Parent(Some(Arc::new(Recording {
            inner: inner.clone(),
            context: span.span_context().clone(),
            asked,
        })));
        Self(Some(Box::new(Recorded {
            span,
            parent,
            is_root,
            is_settled: false,
        })))
    }

    /// What new spans below this one belong to.
    pub fn parent(&self) -> Parent {
        self.0
            .as_ref()
            .map_or_else(Parent::default, |recorded| recorded.parent.clone())
    }

    /// Sets a number.
    pub fn number(&mut self, key: &'static str, value: u64) {
        if let Some(recorded) = &mut self.0 {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            recorded.span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Sets a text.
    pub fn text(&mut self, key: &'static str, value: &str) {
        if let Some(recorded) = &mut self.0 {
            let value = value.to_owned();
            recorded.span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Ends it now, not where its block ends.
    pub fn end(self) {}

    /// Says that the work was done.
    pub fn succeed(&mut self) {
        if let Some(recorded) = &mut self.0 {
            recorded.span.set_attribute(KeyValue::new(OUTCOME, "ok"));
            recorded.is_settled = true;
        }
    }

    /// Says why the work failed.
    pub fn fail(&mut self, id: ErrorId) {
        if let Some(recorded) = &mut self.0 {
            let span = &mut recorded.span;
            span.set_attribute(KeyValue::new(OUTCOME, "failed"));
            span.set_attribute(KeyValue::new("error.type", id.to_string()));
            span.set_status(Status::error(""));
            recorded.is_settled = true;
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if !self.is_settled {
            let outcome = KeyValue::new(OUTCOME, "cancelled");
            self.span.set_attribute(outcome);
        }
        if let Some(recording) = self.parent.0.as_ref().filter(|_| self.is_root) {
            let asked = recording.asked.load(Ordering::Relaxed);
            let over = asked.saturating_sub(recording.inner.spans_per_session);
            if over > 0 {
                let over = KeyValue::new("chemxor.spans.left_out", i64::from(over));
                self.span.set_attribute(over);
            }
        }
        self.span.end();
    }
}

/// The context that a caller names, when it is valid.
fn named(metadata: &MetadataMap) -> Option<SpanContext> {
    let context = TraceContextPropagator::new().extract_with_context(
        // not the context of this thread
        &Context::new(),
        &Incoming(metadata),
    );
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

struct Incoming<'a>(&'a MetadataMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        // `tracestate` is free text of the caller's: it goes no further
        (key == "traceparent").then(|| self.0.get(key)?.to_str().ok())?
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

struct Outgoing<'a>(&'a mut MetadataMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        let key = MetadataKey::from_bytes(key.as_bytes());
        if let (Ok(key), Ok(value), false) =
            (key, MetadataValue::try_from(&value), value.is_empty())
        {
            self.0.insert(key, value);
        }
    }
}
