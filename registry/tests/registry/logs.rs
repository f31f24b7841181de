//! What the log of the registry says of those who try what they may not, and what it never says.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use chemxor_core::{ErrorId, Role};
use chemxor_proto::v1;
use chemxor_proto::v1::catalog_client::CatalogClient;
use chemxor_runtime::operations::{install_metrics, metrics_text};
use chemxor_runtime::pki::Subject;
use chemxor_runtime::tls;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tracing::field::{Field, Visit};
use tracing::span;

use crate::model::Model;
use crate::platform::{Platform, id, signed};

/// A line of the log: its level and its fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    level: String,
    fields: BTreeMap<&'static str, String>,
}

impl Line {
    /// A field's text; empty when it is not there.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields
            .get(name)
            .map(String::as_str)
            .unwrap_or_default()
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

/// Keeps the lines of this thread.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Line>>>);

impl Log {
    /// The lines with this message so far.
    pub(crate) fn lines(&self, message: &str) -> Vec<Line> {
        let mut lines = self.0.lock().unwrap().clone();
        lines.retain(|line| line.field("message") == message);
        lines
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::DEBUG
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line {
            level: event.metadata().level().to_string(),
            ..Line::default()
        };
        event.record(&mut line);
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Sends every call to this path, whatever it is.
#[derive(Clone)]
struct Elsewhere(Channel, &'static str);

impl Service<http::Request<Body>> for Elsewhere {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.0, context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let address = request.uri().to_string();
        let host = address.find("/chemxor").unwrap();
        *request.uri_mut() = format!("{}{}", &address[..host], self.1).parse().unwrap();
        self.0.call(request)
    }
}

/// A request with a name of its own.
fn named<T>(name: &str, mut request: Request<T>) -> Request<T> {
    let name = name.parse().unwrap();
    request.metadata_mut().insert("x-request-id", name);
    request
}

struct Attacks {
    platform: Platform,
    log: Log,
    seen: usize,
}

impl Attacks {
    /// The one line that this refusal has left.
    fn line(&mut self, refusal: &Status, expected: ErrorId) -> Line {
        assert_eq!(id(refusal), expected, "{refusal}");
        let lines = self.log.lines("call refused");
        assert_eq!(lines.len(), self.seen + 1, "{expected}: one line each");
        self.seen += 1;
        let line = lines.last().unwrap().clone();
        assert_eq!(line.field("id"), expected.as_str());
        line
    }

    fn counted(&self, id: ErrorId, times: usize) {
        let row = format!("chemxor_registry_refusals_total{{id=\"{id}\"}} {times}\n");
        let text = metrics_text();
        assert!(text.contains(&row), "no {row:?} in {text}");
    }

    async fn tokens(&mut self) {
        let list = v1::ListModelsRequest::default;
        let request = named("attack-1", Request::new(list()));
        let refused = self.platform.catalogue().list_models(request).await;
        let line = self.line(&refused.unwrap_err(), ErrorId::TokenMissing);
        assert_eq!(line.field("rpc"), "Catalog/ListModels");
        assert_eq!(line.field("certificate"), "chemxor://client/lab");
        assert_eq!(line.field("request_id"), "attack-1");
        assert_eq!(line.field("organisation"), "", "nobody is known yet");

        let request = signed("' or 'canary'='canary", list());
        let refused = self.platform.catalogue().list_models(request).await;
        let refused = refused.unwrap_err();
        let line = self.line(&refused, ErrorId::TokenRefused);
        let told = refused.metadata().get("x-request-id").unwrap();
        assert_eq!(line.field("request_id"), told.to_str().unwrap());
        assert_eq!(line.field("request_id").len(), 32, "none was sent");

        // a name that could forge lines is no name
        let request = self.platform.by("quinn", v1::ExportAuditRequest {});
        let request = named("a line: admin let in", request);
        let refused = self.platform.governance().export_audit(request).await;
        let line = self.line(&refused.unwrap_err(), ErrorId::RoleMissing);
        assert_eq!(line.field("request_id").len(), 32);
        assert_eq!(line.field("subject"), "quinn");
    }

    async fn tenants(&mut self) {
        let roles = [Role::OrgAdmin];
        let mallory = self.platform.token_in("acme", "mallory", &roles).await;
        let organisation = "default".to_owned();
        let request = signed(&mallory.secret, v1::ListMembersRequest { organisation });
        let refused = self.platform.governance().list_members(request).await;
        let line = self.line(&refused.unwrap_err(), ErrorId::OrganisationUnknown);
        assert_eq!(line.field("rpc"), "Governance/ListMembers");
        assert_eq!(line.field("organisation"), "acme");
        assert_eq!(line.field("subject"), "mallory");
        assert_eq!(line.level, "INFO");
    }

    async fn publishers(&mut self) {
        self.platform.register_workers().await;
        let model = Model::new("esol", 1);
        self.platform.submit("petra", &model).await;
        let approve = v1::ApproveVersionRequest {
            model: "esol".to_owned(),
            note: String::new(),
        };
        let request = self.platform.by("petra", approve);
        let refused = self.platform.admin().approve_version(request).await;
        let line = self.line(&refused.unwrap_err(), ErrorId::SelfApproval);
        assert_eq!(line.level, "WARN");
        assert_eq!(line.field("subject"), "petra");
        // a recorded request again
        let version = model.version();
        let request = self
            .platform
            .by("petra", v1::SubmitVersionRequest { version });
        let refused = self.platform.publishing().submit_version(request).await;
        let line = self.line(&refused.unwrap_err(), ErrorId::WrongState);
        assert_eq!(line.field("rpc"), "Publishing/SubmitVersion");
    }

    async fn messages(&mut self) {
        let get = |model: String| v1::GetModelRequest { model };
        let request = self
            .platform
            .by("quinn", get("'; drop table tokens; --".to_owned()));
        let refused = self.platform.catalogue().get_model(request).await;
        let line = self.line(&refused.unwrap_err(), ErrorId::ArgumentInvalid);
        assert_eq!(line.field("subject"), "quinn");

        let request = self.platform.by("quinn", get("x".repeat(3 << 20)));
        let refused = self
            .platform
            .catalogue()
            .get_model(request)
            .await
            .unwrap_err();
        let line = self.line(&refused, ErrorId::FrameTooLarge);
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(line.field("rpc"), "Catalog/GetModel");
        assert_eq!(line.field("certificate"), "chemxor://client/lab");

        let files = self
            .platform
            .files(&Subject::Client("lab-2".parse().unwrap()), "lab-2");
        let channel = tls::connect(&self.platform.address(), &files)
            .await
            .unwrap();
        for (path, expected, code) in [
            // a number where the call has a text
            (
                "/chemxor.v1.Catalog/GetModel",
                ErrorId::FrameMalformed,
                Code::InvalidArgument,
            ),
            (
                "/chemxor.v1.Catalog/DropModel",
                ErrorId::ArgumentInvalid,
                Code::Unimplemented,
            ),
            (
                "/chemxor.v1.Backdoor/Open",
                ErrorId::ArgumentInvalid,
                Code::Unimplemented,
            ),
        ] {
            let list = v1::ListModelsRequest {
                page_size: 1,
                page_token: String::new(),
            };
            let mut client = CatalogClient::new(Elsewhere(channel.clone(), path));
            let refused = client.list_models(self.platform.by("quinn", list)).await;
            let refused = refused.unwrap_err();
            let line = self.line(&refused, expected);
            assert_eq!(refused.code(), code, "{path}");
            assert!(path.ends_with(line.field("rpc")), "{path}: {line:?}");
            assert_eq!(line.field("certificate"), "chemxor://client/lab-2");
        }
    }

    async fn services(&mut self) {
        let lab = Subject::Client("lab-3".parse().unwrap());
        let mut control = self.platform.control(&lab).await;
        let refused = control
            .watch_placements(v1::WatchPlacementsRequest::default())
            .await;
        let line = self.line(&refused.unwrap_err(), ErrorId::CertificateRefused);
        assert_eq!(line.level, "WARN");
        assert_eq!(line.field("certificate"), "chemxor://client/lab-3");
        assert_ne!(line.field("serial"), "");

        let worker = Subject::Worker("worker-1".parse().unwrap());
        let mut control = self.platform.control(&worker).await;
        let fetch = v1::FetchBlobRequest {
            version: format!("sha256:{}", "0".repeat(64)),
            sha256: vec![0; 32].into(),
        };
        // refused inside the stream, after it has begun
        let mut stream = control.fetch_blob(fetch).await.unwrap().into_inner();
        let refused = stream.message().await.unwrap_err();
        let line = self.line(&refused, ErrorId::ModelUnknown);
        assert_eq!(line.field("rpc"), "Control/FetchBlob");

        let mut control = self.platform.control(&Subject::Gateway).await;
        let open = v1::AuthorizeSessionRequest {
            token: "canary of a client".to_owned(),
            model: "esol".to_owned(),
            certificate_subject: "chemxor://client/lab-9".to_owned(),
            certificate_serial: "09".to_owned(),
        };
        let refused = control.authorize_session(open).await;
        let line = self.line(&refused.unwrap_err(), ErrorId::TokenRefused);
        assert_eq!(line.field("certificate"), "chemxor://gateway");
        assert_eq!(line.field("client"), "chemxor://client/lab-9");
    }
}

// one thread: the subscriber is this thread's own
#[tokio::test]
async fn every_attack_leaves_one_line_with_its_id_and_who_and_no_secret() {
    install_metrics();
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let platform = Platform::start().await;
    let mut attacks = Attacks {
        platform,
        log: log.clone(),
        seen: 0,
    };
    attacks.tokens().await;
    attacks.tenants().await;
    attacks.publishers().await;
    attacks.messages().await;
    attacks.services().await;
    // what is allowed leaves none
    let list = attacks
        .platform
        .by("quinn", v1::ListModelsRequest::default());
    attacks
        .platform
        .catalogue()
        .list_models(list)
        .await
        .unwrap();
    assert_eq!(log.lines("call refused").len(), attacks.seen);

    attacks.counted(ErrorId::TokenMissing, 1);
    attacks.counted(ErrorId::TokenRefused, 2);
    attacks.counted(ErrorId::ArgumentInvalid, 3);
    let text = metrics_text();
    let answered = "chemxor_registry_requests_total{rpc=\"Catalog/ListModels\",outcome=\"ok\"} 1\n";
    assert!(text.contains(answered), "{text}");
    assert!(text.contains("chemxor_registry_request_seconds_count{rpc=\"Catalog/GetModel\"}"));
    assert!(!text.contains("Backdoor"), "whoever calls makes no series");

    let all = format!("{:?}", log.0.lock().unwrap());
    assert!(!all.contains("canary"));
    for person in ["adam", "paul", "petra", "quinn"] {
        let secret = attacks.platform.token(person).secret.as_str();
        assert!(!all.contains(secret), "the token of {person} is in the log");
    }
}
