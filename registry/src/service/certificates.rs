//! Certificates: renewal by whoever holds one, decisions by administrators. The authority's key is an
//! operator's file: the registry checks certificates and issues none.

use chemxor_core::{Action, ErrorId};
use chemxor_proto::v1;
use chemxor_proto::v1::certificates_server::Certificates;
use chemxor_runtime::enrol::{self, MAX_PEM_BYTES};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::RegistryError;
use crate::auth;
use crate::service::admin::note;
use crate::service::{Services, argument};
use crate::store::{CertificateRow, IssuedCertificate, unix_ms};

fn record(row: CertificateRow) -> v1::CertificateRecord {
    v1::CertificateRecord {
        id: row.id.to_string(),
        subject: row.subject,
        state: row.state,
        request_pem: row.request,
        certificate_pem: row.certificate.unwrap_or_default(),
        serial: row.serial.unwrap_or_default(),
        requested_unix_ms: unix_ms(row.requested_at),
        expires_unix_ms: row.expires_at.map_or(0, unix_ms),
        reason: row.reason,
    }
}

fn id(text: &str) -> Result<Uuid, Status> {
    text.parse()
        .map_err(|_| argument("the id of a certificate request is a UUID"))
}

fn read(pem: &str) -> Result<enrol::Request, Status> {
    enrol::Request::read(pem).map_err(argument)
}

#[tonic::async_trait]
impl Certificates for Services {
    async fn request_certificate(
        &self,
        request: Request<v1::RequestCertificateRequest>,
    ) -> Result<Response<v1::CertificateRecord>, Status> {
        let peer = auth::holder(&self.store, &request).await?;
        let pem = request.into_inner().request_pem;
        let asked = read(&pem)?;
        if *asked.subject() != peer.subject {
            let message = format!(
                "the certificate shown is of {}, the request is for {}; whoever has none yet hands the request to an administrator",
                peer.subject,
                asked.subject()
            );
            return Err(RegistryError::refused(ErrorId::CertificateRefused, message).into());
        }
        let subject = peer.subject.to_string();
        let row = self.store.request_certificate(&subject, &pem).await?;
        Ok(Response::new(record(row)))
    }

    async fn fetch_certificate(
        &self,
        request: Request<v1::FetchCertificateRequest>,
    ) -> Result<Response<v1::CertificateRecord>, Status> {
        let peer = auth::holder(&self.store, &request).await?;
        let id = id(&request.into_inner().id)?;
        let subject = peer.subject.to_string();
        let row = self.store.certificate_of(&subject, id).await?;
        Ok(Response::new(record(row)))
    }

    async fn list_certificates(
        &self,
        request: Request<v1::ListCertificatesRequest>,
    ) -> Result<Response<v1::ListCertificatesResponse>, Status> {
        let caller = auth::person(&self.store, &request, Action::ManageCertificates).await?;
        let waiting = request.into_inner().waiting;
        let rows = self.store.list_certificates(&caller, waiting).await?;
        let certificates = rows
            .into_iter()
            .map(|row| v1::CertificateRecord {
                // 10,000 certificates would not fit one answer; requests are needed for signing
                certificate_pem: String::new(),
                request_pem: match waiting {
                    true => row.request.clone(),
                    false => String::new(),
                },
                ..record(row)
            })
            .collect();
        Ok(Response::new(v1::ListCertificatesResponse { certificates }))
    }

    async fn issue_certificate(
        &self,
        request: Request<v1::IssueCertificateRequest>,
    ) -> Result<Response<v1::CertificateRecord>, Status> {
        let caller = auth::person(&self.store, &request, Action::ManageCertificates).await?;
        let request = request.into_inner();
        if request.certificate_pem.len() > MAX_PEM_BYTES {
            return Err(argument(format!(
                "a certificate has at most {MAX_PEM_BYTES} bytes"
            )));
        }
        let (waiting, request_pem) = match request.id.as_str() {
            "" => (None, request.request_pem),
            text => {
                let id = id(text)?;
                (Some(id), self.store.certificate(&caller, id).await?.request)
            }
        };
        let asked = read(&request_pem)?;
        let authority = tokio::fs::read_to_string(&*self.authority)
            .await
            .map_err(|error| {
                tracing::error!(%error, path = %self.authority.display(), "the authority's certificate cannot be read");
                Status::from(RegistryError::refused(
                    ErrorId::StorageUnavailable,
                    "the registry cannot read the authority's certificate",
                ))
            })?;
        let facts =
            enrol::check_issued(&authority, &asked, &request.certificate_pem).map_err(argument)?;
        let issued = IssuedCertificate {
            subject: facts.subject.to_string(),
            request: request_pem,
            certificate: request.certificate_pem,
            serial: facts.serial,
            expires_at: facts.not_after,
        };
        let row = self
            .store
            .issue_certificate(&caller, waiting, &issued)
            .await?;
        Ok(Response::new(record(row)))
    }

    async fn refuse_certificate(
        &self,
        request: Request<v1::RefuseCertificateRequest>,
    ) -> Result<Response<v1::CertificateRecord>, Status> {
        let caller = auth::person(&self.store, &request, Action::ManageCertificates).await?;
        let request = request.into_inner();
        note(&request.reason)?;
        let id = id(&request.id)?;
        let row = self
            .store
            .refuse_certificate(&caller, id, &request.reason)
            .await?;
        Ok(Response::new(record(row)))
    }
}
