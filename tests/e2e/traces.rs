//! One trace a session, through gateway, registry and workers, and nothing secret in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::platform::{Platform, wait_until};

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a free port of loopback.
    fn listen(&self, runtime: &tokio::runtime::Runtime) -> SocketAddr {
        let _entered = runtime.enter();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let incoming = tonic::transport::server::TcpIncoming::bind(any).unwrap();
        let address = incoming.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(incoming);
        runtime.spawn(server);
        address
    }

    /// The spans heard so far, by their trace.
    fn traces(&self) -> BTreeMap<Vec<u8>, Vec<Heard>> {
        let mut traces: BTreeMap<Vec<u8>, Vec<Heard>> = BTreeMap::new();
        for resource in self
            .0
            .lock()
            .unwrap()
            .iter()
            .flat_map(|r| &r.resource_spans)
        {
            let service = attributes(&resource.resource.as_ref().unwrap().attributes);
            for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                let trace = traces.entry(span.trace_id.clone()).or_default();
                trace.push(Heard {
                    service: service["service.name"].clone(),
                    instance: service.get("service.instance.id").cloned(),
                    name: span.name.clone(),
                    id: span.span_id.clone(),
                    parent: span.parent_span_id.clone(),
                    attributes: attributes(&span.attributes),
                    said: span.events.len() + span.links.len(),
                    status: span.status.clone().unwrap_or_default().message,
                });
            }
        }
        traces
    }
}

#[derive(Debug)]
struct Heard {
    service: String,
    instance: Option<String>,
    name: String,
    id: Vec<u8>,
    parent: Vec<u8>,
    attributes: BTreeMap<String, String>,
    /// Events and links.
    said: usize,
    status: String,
}

impl Heard {
    fn is(&self, service: &str, name: &str) -> bool {
        self.service == service && self.name == name
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    pairs
        .iter()
        .map(|pair| {
            let value = pair.value.as_ref().unwrap().value.as_ref().unwrap();
            (pair.key.clone(), text(value))
        })
        .collect()
}

/// The root, once everything below it has been heard too.
fn complete(trace: &[Heard]) -> Option<&Heard> {
    let root = trace.iter().find(|span| span.name == "session")?;
    let count = |service: &str, name: &str| {
        let spans = trace.iter().filter(|span| span.is(service, name));
        spans.count()
    };
    // a refused one has none
    let steps: usize = root.attributes.get("chemxor.steps")?.parse().unwrap();
    let all = count("chemxor-worker", "evaluate") == steps
        && count("chemxor-gateway", "step") == steps
        && ["authorize", "check"]
            .iter()
            .all(|name| count("chemxor-registry", name) == count("chemxor-gateway", name));
    all.then_some(root)
}

/// A whole trace of a session with one query; publishing asks for more of them in one.
fn is_query(trace: &[Heard]) -> bool {
    complete(trace).is_some_and(|root| root.attributes["chemxor.queries"] == "1")
}

#[test]
fn a_session_is_one_trace_through_all_services_and_tells_no_secret() {
    const MOLECULES: [&str; 2] = ["CCOC(=O)CCCCCN", "OCCOCCOCCBr"];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let collector = Collector::default();
    let address = collector.listen(&runtime);
    let traces = format!("[operations.traces]\nendpoint = \"http://{address}\"\n");
    let mut platform = Platform::start_configured(2, [&traces; 3]);
    let version = platform.publish("esol", true);
    for molecule in MOLECULES {
        platform.json(&["query", "esol", "--smiles", molecule]);
    }
    let refused = platform.refusal(&["query", "nonesuch-canary", "--smiles", "CCO"]);
    assert!(!refused.is_empty());

    let heard = wait_until("two whole traces", || {
        let traces = collector.traces();
        let whole = traces.values().filter(|trace| is_query(trace));
        (whole.count() >= MOLECULES.len()).then_some(traces)
    });
    let sessions: Vec<_> = heard.values().filter(|trace| is_query(trace)).collect();
    assert_eq!(sessions.len(), MOLECULES.len(), "{heard:#?}");
    let handbook = include_str!("../../docs/operations.md");
    for trace in sessions {
        let roots: Vec<_> = trace.iter().filter(|span| span.parent.is_empty()).collect();
        assert_eq!(roots.len(), 1, "{trace:#?}");
        assert!(roots[0].is("chemxor-gateway", "session"));
        let root = &roots[0].attributes;
        assert_eq!(root["chemxor.outcome"], "ok");
        assert_eq!(root["chemxor.model.name"], "esol");
        assert_eq!(root["chemxor.model.version"], version);
        assert_eq!(root["chemxor.steps"], "2");
        let ids: BTreeSet<_> = trace.iter().map(|span| &span.id).collect();
        assert_eq!(ids.len(), trace.len(), "every span has an id of its own");
        for span in trace.iter().filter(|span| !span.parent.is_empty()) {
            let parent = trace.iter().find(|other| other.id == span.parent);
            let parent = parent.unwrap_or_else(|| panic!("no parent of {span:#?}"));
            let expected = match (span.service.as_str(), span.name.as_str()) {
                ("chemxor-registry", name) => ("chemxor-gateway", name),
                ("chemxor-gateway", "attempt") => ("chemxor-gateway", "step"),
                _ => ("chemxor-gateway", "session"),
            };
            assert!(parent.is(expected.0, expected.1), "{span:#?} {parent:#?}");
        }
        for step in ["0", "1"] {
            let of = |service: &str, name: &str| {
                let mut spans = trace.iter().filter(|span| {
                    span.is(service, name) && span.attributes["chemxor.step"] == step
                });
                let span = spans
                    .next()
                    .unwrap_or_else(|| panic!("no {name} of step {step}"));
                assert!(spans.next().is_none());
                assert_eq!(span.attributes["chemxor.outcome"], "ok");
                span
            };
            of("chemxor-gateway", "step");
            let attempt = of("chemxor-gateway", "attempt");
            let evaluated = of("chemxor-worker", "evaluate");
            let worker = evaluated.instance.as_ref().unwrap();
            assert_eq!(&attempt.attributes["chemxor.worker.name"], worker);
            assert_ne!(evaluated.attributes["chemxor.compute_us"], "0");
        }
        for span in trace {
            assert!(span.said == 0 && span.status.is_empty(), "{span:#?}");
            for key in span.attributes.keys().chain([&span.name]) {
                let documented = handbook.contains(&format!("`{key}`"));
                assert!(documented, "docs/operations.md does not name {key}");
            }
        }
    }

    let token = std::fs::read(platform.path("local/querier.token")).unwrap();
    let token = token.trim_ascii();
    let secrets = [MOLECULES[0].as_bytes(), MOLECULES[1].as_bytes(), token];
    let words = [
        b"nonesuch-canary".as_slice(),
        b"querier@test",
        b"postgres://",
    ];
    let requests = collector.0.lock().unwrap().clone();
    let exported: Vec<u8> = requests.iter().flat_map(Message::encode_to_vec).collect();
    let holds = |canary: &[u8]| exported.windows(canary.len()).any(|at| at == canary);
    assert!(holds(b"chemxor.model.name"), "the search can find");
    for canary in secrets.into_iter().chain(words) {
        assert!(!holds(canary), "{:?}", String::from_utf8_lossy(canary));
    }

    // the collector goes: nobody waits for it, and a stop still ends in time
    runtime.shutdown_background();
    platform.json(&["query", "esol", "--smiles", MOLECULES[0]]);
    let gateway = platform.gateway.take().unwrap();
    assert!(gateway.terminate().success());
}
