//! Nothing, at no cost.

use chemxor_core::ErrorId;
use tonic::metadata::MetadataMap;

use super::Side;
use crate::RuntimeError;
use crate::operations::Traces;

/// Makes spans; here none.
#[derive(Debug, Clone, Default)]
pub struct Tracer(());

/// What new spans belong to; here nothing.
#[derive(Debug, Clone, Default)]
pub struct Parent(());

/// One piece of work; here not recorded.
#[derive(Debug, Default)]
pub struct Span(());

impl Tracer {
    /// Fails when traces are asked for: they were not built in.
    pub fn start(
        traces: &Traces,
        _service: &'static str,
        _instance: &str,
    ) -> Result<Self, RuntimeError> {
        match traces.endpoint.as_str() {
            "" => Ok(Self::default()),
            endpoint => Err(RuntimeError::Traces {
                endpoint: endpoint.to_owned(),
                reason: "this program was built without traces; build it with `--features otel`, \
                         or empty the key"
                    .to_owned(),
            }),
        }
    }

    /// The root of a session's trace.
    #[inline]
    pub fn session(&self, _metadata: &MetadataMap) -> Span {
        Span(())
    }

    /// What the caller's metadata names.
    #[inline]
    pub fn remote(&self, _metadata: &MetadataMap) -> Parent {
        Parent(())
    }

    /// Sends what is queued.
    pub async fn end(self) {}
}

impl Parent {
    /// A span below.
    #[inline]
    pub fn child(&self, _name: &'static str, _side: Side) -> Span {
        Span(())
    }

    /// Names this parent to whom is called.
    #[inline]
    pub fn inject(&self, _metadata: &mut MetadataMap) {}
}

impl Span {
    /// What new spans below this one belong to.
    #[inline]
    pub fn parent(&self) -> Parent {
        Parent(())
    }

    /// Sets a number.
    #[inline]
    pub fn number(&mut self, _key: &'static str, _value: u64) {}

    /// Sets a text.
    #[inline]
    pub fn text(&mut self, _key: &'static str, _value: &str) {}

    /// Ends it now, not where its block ends.
    #[inline]
    pub fn end(self) {}

    /// Says that the work was done.
    #[inline]
    pub fn succeed(&mut self) {}

    /// Says why the work failed.
    #[inline]
    pub fn fail(&mut self, _id: ErrorId) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_without_the_feature_is_refused_with_the_remedy() {
        let mut traces = Traces::default();
        assert!(Tracer::start(&traces, "gateway", "").is_ok());
        traces.endpoint = "http://127.0.0.1:4317".to_owned();
        let refused = Tracer::start(&traces, "gateway", "").unwrap_err();
        let message = refused.to_string();
        for part in ["operations.traces.endpoint", "127.0.0.1:4317", "otel"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
