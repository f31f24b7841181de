//! A registry that runs, with an authority, workers' and people's certificates, and tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use chemxor_core::{ErrorId, Role, RoleSet};
use chemxor_proto::v1;
use chemxor_proto::v1::admin_client::AdminClient;
use chemxor_proto::v1::cards_client::CardsClient;
use chemxor_proto::v1::catalog_client::CatalogClient;
use chemxor_proto::v1::certificates_client::CertificatesClient;
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::v1::governance_client::GovernanceClient;
use chemxor_proto::v1::metering_client::MeteringClient;
use chemxor_proto::v1::publishing_client::PublishingClient;
use chemxor_registry::store::{Caller, NewToken, Registration, Store, TokenOrder};
use chemxor_registry::{RegistryConfig, RunningRegistry, start};
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::status::error_id;
use chemxor_runtime::tls::{self, TlsFiles};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::cluster::Database;
use crate::model::Model;

/// A worker that serves everybody.
pub(crate) fn registration(sealing_key: &[u8]) -> Registration<'_> {
    Registration {
        sealing_key,
        endpoint: "localhost:1",
        organisations: &[],
        certificate_serial: "",
    }
}

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Who holds tokens: name and roles. Petra may both publish and review.
const PEOPLE: [(&str, &[Role]); 6] = [
    ("adam", &[Role::Admin]),
    ("paul", &[Role::Publisher]),
    ("pia", &[Role::Publisher]),
    ("petra", &[Role::Publisher, Role::Reviewer]),
    ("rita", &[Role::Reviewer]),
    ("quinn", &[Role::Querier]),
];

pub(crate) struct Platform {
    pub(crate) database: Database,
    pub(crate) authority: DevAuthority,
    registry: RunningRegistry,
    folder: TempDir,
    stop: CancellationToken,
    tokens: BTreeMap<&'static str, NewToken>,
    client: Channel,
    gateway: OnceCell<Channel>,
}

impl Platform {
    pub(crate) async fn start() -> Self {
        let database = Database::create().await;
        let folder = tempfile::tempdir().unwrap();
        let authority = DevAuthority::create_or_load(folder.path()).unwrap();
        let stop = CancellationToken::new();
        let config = RegistryConfig {
            operations: Default::default(),
            listen: ([127, 0, 0, 1], 0).into(),
            database_url: database.url.clone(),
            tls: authority
                .issue_to(&Subject::Registry, folder.path(), "registry")
                .unwrap(),
            signing_key: None,
            orphan_hours: 168,
            draft_gib: 64,
            checkpoint_minutes: const { std::num::NonZeroU32::new(10).unwrap() },
        };
        let registry = start(config, stop.clone()).await.unwrap();
        let mut tokens = BTreeMap::new();
        for (name, roles) in PEOPLE {
            let roles = RoleSet::new(roles.iter().copied());
            let token = registry.store().create_token("test", name, &roles, DAY);
            tokens.insert(name, token.await.unwrap());
        }
        let files = authority
            .issue_to(
                &Subject::Client("lab".parse().unwrap()),
                folder.path(),
                "client",
            )
            .unwrap();
        let address = format!("localhost:{}", registry.addr().port());
        let client = tls::connect(&address, &files).await.unwrap();
        Self {
            database,
            authority,
            registry,
            folder,
            stop,
            tokens,
            client,
            gateway: OnceCell::new(),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.registry.store()
    }

    /// The caller behind a name of `PEOPLE`; others review.
    pub(crate) fn caller(&self, name: &str) -> Caller {
        let known = PEOPLE.iter().find(|(person, _)| *person == name);
        let roles = known.map_or(&[Role::Reviewer][..], |(_, roles)| *roles);
        Caller::new("default", name, RoleSet::new(roles.iter().copied()))
    }

    /// A token of another organisation, which is made when absent.
    pub(crate) async fn token_in(
        &self,
        organisation: &str,
        subject: &str,
        roles: &[Role],
    ) -> NewToken {
        let adam = self.caller("adam");
        let store = self.store();
        store
            .set_organisation(&adam, organisation, false)
            .await
            .unwrap();
        let order = TokenOrder {
            organisation,
            subject,
            roles: &RoleSet::new(roles.iter().copied()),
            models: &[],
            lifetime: DAY,
        };
        store.order_token(&adam, &order).await.unwrap()
    }

    pub(crate) fn governance(&self) -> GovernanceClient<Channel> {
        GovernanceClient::new(self.client.clone())
    }

    pub(crate) fn cards(&self) -> CardsClient<Channel> {
        CardsClient::new(self.client.clone())
    }

    pub(crate) fn certificates(&self) -> CertificatesClient<Channel> {
        CertificatesClient::new(self.client.clone())
    }

    /// Certificate calls of whoever holds these files.
    pub(crate) async fn certificates_with(&self, files: &TlsFiles) -> CertificatesClient<Channel> {
        CertificatesClient::new(tls::connect(&self.address(), files).await.unwrap())
    }

    /// Folder of the authority.
    pub(crate) fn authority_folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) async fn metering(&self, subject: &Subject) -> MeteringClient<Channel> {
        let name = subject.to_string().replace([':', '/'], "-");
        let files = self.files(subject, &name);
        MeteringClient::new(tls::connect(&self.address(), &files).await.unwrap())
    }

    /// Metering calls of the gateway, all over one connection.
    pub(crate) async fn gateway_metering(&self) -> MeteringClient<Channel> {
        let connect = || async {
            let files = self.files(&Subject::Gateway, "gateway");
            tls::connect(&self.address(), &files).await.unwrap()
        };
        MeteringClient::new(self.gateway.get_or_init(connect).await.clone())
    }

    pub(crate) fn address(&self) -> String {
        format!("localhost:{}", self.registry.addr().port())
    }

    pub(crate) fn files(&self, subject: &Subject, name: &str) -> TlsFiles {
        self.authority
            .issue_to(subject, self.folder.path(), name)
            .unwrap()
    }

    /// Control calls with a certificate of this subject.
    pub(crate) async fn control(&self, subject: &Subject) -> ControlClient<Channel> {
        let name = subject.to_string().replace([':', '/'], "-");
        let files = self.files(subject, &name);
        ControlClient::new(tls::connect(&self.address(), &files).await.unwrap())
    }

    pub(crate) fn catalogue(&self) -> CatalogClient<Channel> {
        CatalogClient::new(self.client.clone())
    }

    pub(crate) fn publishing(&self) -> PublishingClient<Channel> {
        PublishingClient::new(self.client.clone())
    }

    pub(crate) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.client.clone())
    }

    pub(crate) fn token(&self, name: &str) -> &NewToken {
        &self.tokens[name]
    }

    /// A request with the token of this person.
    pub(crate) fn by<T>(&self, name: &str, message: T) -> Request<T> {
        signed(&self.token(name).secret, message)
    }

    /// The whole audit log, exported by adam.
    pub(crate) async fn export(&self) -> String {
        let request = self.by("adam", v1::ExportAuditRequest {});
        let answer = self.governance().export_audit(request).await;
        let mut stream = answer.unwrap().into_inner();
        let mut text = String::new();
        while let Some(part) = stream.message().await.unwrap() {
            text.push_str(&part.lines);
        }
        text
    }

    /// The key that the registry made for itself.
    pub(crate) fn signing_key(&self) -> [u8; 32] {
        let path = self.folder.path().join("registry-signing.key");
        let text = std::fs::read_to_string(path).unwrap();
        let bytes = data_encoding::HEXLOWER.decode(text.trim().as_bytes());
        bytes.unwrap().try_into().unwrap()
    }

    /// Registers worker-1 and worker-2.
    pub(crate) async fn register_workers(&self) {
        for (key, name) in [(1, "worker-1"), (2, "worker-2")] {
            self.store()
                .register_worker(&name.parse().unwrap(), &registration(&[key; 32]))
                .await
                .unwrap();
        }
    }

    /// Begins, uploads and submits a model straight on the store.
    pub(crate) async fn submit(&self, publisher: &str, model: &Model) {
        use crate::api::{Api, Direct};
        let api = Direct(self);
        api.begin(publisher, &model.request).await.unwrap();
        for (step, blob) in model.blobs.iter().enumerate() {
            let sha256 = model.sha256(step);
            api.upload(publisher, &model.version(), &sha256, 0, blob)
                .await
                .unwrap();
        }
        api.submit(publisher, &model.version()).await.unwrap();
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A request that carries a bearer token.
pub(crate) fn signed<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", header);
    request
}

/// The id that a refusal carries.
pub(crate) fn id(status: &Status) -> ErrorId {
    error_id(status).unwrap_or_else(|| panic!("no error id on {status:?}"))
}

/// An upload as the client sends it.
pub(crate) fn upload_parts(
    version: &str,
    sha256: &[u8],
    offset: u64,
    content: &[u8],
) -> Vec<v1::UploadBlobRequest> {
    use v1::upload_blob_request::Kind;
    let header = Kind::Header(v1::BlobHeader {
        version: version.to_owned(),
        sha256: sha256.to_vec().into(),
        offset,
    });
    let chunks = content
        .chunks(100_000)
        .map(|chunk| Kind::Chunk(chunk.to_vec().into()));
    std::iter::once(header)
        .chain(chunks)
        .map(|kind| v1::UploadBlobRequest { kind: Some(kind) })
        .collect()
}
