//! The calls of administrators, of owners of models, and of whoever renews a certificate: one function
//! for each RPC, with messages as in `chemxor-proto`.

use chemxor_proto::v1;
use chemxor_proto::v1::admin_client::AdminClient;
use chemxor_proto::v1::cards_client::CardsClient;
use chemxor_proto::v1::catalog_client::CatalogClient;
use chemxor_proto::v1::certificates_client::CertificatesClient;
use chemxor_proto::v1::governance_client::GovernanceClient;
use chemxor_runtime::tls::{self, TlsFiles};
use tonic::transport::Channel;

use crate::catalog::{DEADLINE, call, channel};
use crate::{Access, ClientError};

/// Largest answer: 10,000 entries of a list.
const MAX_ANSWER: usize = 64 << 20;

/// A connection to the registry, in the name of one token.
#[derive(Debug, Clone)]
pub struct Governance {
    channel: Channel,
    access: Access,
}

macro_rules! calls {
    ($($client:ident { $($(#[$doc:meta])* $name:ident($request:ident) -> $answer:ident;)* })*) => {
        impl Governance {
            $($(
                $(#[$doc])*
                pub async fn $name(
                    &self,
                    request: v1::$request,
                ) -> Result<v1::$answer, ClientError> {
                    let mut client =
                        $client::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
                    let request = self.access.token.sign(request)?;
                    call(&self.access, client.$name(request)).await
                }
            )*)*
        }
    };
}

calls! {
    CatalogClient {
        /// A version, unread: its signatures are for the caller to verify.
        get_model(GetModelRequest) -> ModelVersion;
    }
    AdminClient {
        /// Makes a token; its secret is in the answer only.
        create_token(CreateTokenRequest) -> CreateTokenResponse;
        /// Ends a token.
        revoke_token(RevokeTokenRequest) -> RevokeTokenResponse;
    }
    GovernanceClient {
        /// Makes, suspends or resumes an organisation.
        set_organisation(SetOrganisationRequest) -> Organisation;
        /// Every organisation.
        list_organisations(ListOrganisationsRequest) -> ListOrganisationsResponse;
        /// Makes a consortium and replaces its members.
        set_consortium(SetConsortiumRequest) -> SetConsortiumResponse;
        /// Every consortium.
        list_consortia(ListConsortiaRequest) -> ListConsortiaResponse;
        /// Makes a member or replaces its roles.
        set_member(Member) -> Member;
        /// Ends a member.
        remove_member(RemoveMemberRequest) -> RemoveMemberResponse;
        /// Members of an organisation.
        list_members(ListMembersRequest) -> ListMembersResponse;
        /// Tokens of an organisation.
        list_tokens(ListTokensRequest) -> ListTokensResponse;
        /// Says who sees a model.
        set_visibility(SetVisibilityRequest) -> SetVisibilityResponse;
        /// Who sees a model.
        get_visibility(GetVisibilityRequest) -> SetVisibilityRequest;
        /// Points an alias to a version.
        set_alias(SetAliasRequest) -> AliasChange;
        /// Points an alias to where it pointed before.
        rollback_alias(RollbackAliasRequest) -> AliasChange;
        /// Every alias of a model.
        list_aliases(ListAliasesRequest) -> AliasHistoryResponse;
        /// Every move of an alias.
        alias_history(AliasHistoryRequest) -> AliasHistoryResponse;
        /// Deprecates a version.
        deprecate_version(DeprecateVersionRequest) -> ModelVersion;
        /// Limits an organisation.
        set_quota(Quota) -> Quota;
        /// Limits and use.
        list_quotas(ListQuotasRequest) -> ListQuotasResponse;
        /// Refuses a certificate.
        deny_certificate(DenyCertificateRequest) -> DenyCertificateResponse;
        /// Denied certificates.
        list_denied_certificates(ListDeniedCertificatesRequest) -> ListDeniedCertificatesResponse;
    }
    CardsClient {
        /// Adds a revision of a card.
        set_card(SetCardRequest) -> Card;
        /// The newest revision.
        get_card(GetCardRequest) -> Card;
    }
    CertificatesClient {
        /// Requests and certificates.
        list_certificates(ListCertificatesRequest) -> ListCertificatesResponse;
        /// Records a certificate.
        issue_certificate(IssueCertificateRequest) -> CertificateRecord;
        /// Refuses a request.
        refuse_certificate(RefuseCertificateRequest) -> CertificateRecord;
    }
}

impl Governance {
    /// Connects.
    pub async fn connect(access: Access) -> Result<Self, ClientError> {
        let channel = channel(&access).await?;
        Ok(Self { channel, access })
    }

    /// The whole audit log, part by part; each part holds whole lines.
    pub async fn export_audit(
        &self,
        mut part: impl FnMut(&str) -> std::io::Result<()>,
    ) -> Result<(), ClientError> {
        let mut client =
            GovernanceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let request = self.access.token.sign(v1::ExportAuditRequest {})?;
        let mut stream = call(&self.access, client.export_audit(request)).await?;
        loop {
            let next = tokio::time::timeout(DEADLINE, stream.message()).await;
            let next = next.map_err(|_| ClientError::Deadline("the registry"))?;
            let next =
                next.map_err(|status| ClientError::from_status(&self.access.endpoint, &status))?;
            let Some(message) = next else { return Ok(()) };
            part(&message.lines).map_err(|error| ClientError::File {
                path: "the export".into(),
                reason: error.to_string(),
            })?;
        }
    }
}

/// Whoever holds a certificate, without a token: for renewing it.
#[derive(Debug, Clone)]
pub struct Holder {
    channel: Channel,
    endpoint: String,
}

impl Holder {
    /// Connects with the certificate of these files.
    pub async fn connect(endpoint: &str, files: &TlsFiles) -> Result<Self, ClientError> {
        Ok(Self {
            channel: tls::connect(endpoint, files).await?,
            endpoint: endpoint.to_owned(),
        })
    }

    async fn answer<T>(
        &self,
        future: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(DEADLINE, future)
            .await
            .map_err(|_| ClientError::Deadline("the registry"))?
            .map(tonic::Response::into_inner)
            .map_err(|status| ClientError::from_status(&self.endpoint, &status))
    }

    /// Hands in a request for the own subject.
    pub async fn request(&self, request_pem: &str) -> Result<v1::CertificateRecord, ClientError> {
        let mut client = CertificatesClient::new(self.channel.clone());
        let request_pem = request_pem.to_owned();
        let request = v1::RequestCertificateRequest { request_pem };
        self.answer(client.request_certificate(request)).await
    }

    /// What became of a request.
    pub async fn fetch(&self, id: &str) -> Result<v1::CertificateRecord, ClientError> {
        let mut client = CertificatesClient::new(self.channel.clone());
        let request = v1::FetchCertificateRequest { id: id.to_owned() };
        self.answer(client.fetch_certificate(request)).await
    }
}
