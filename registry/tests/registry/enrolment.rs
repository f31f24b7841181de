//! Certificates: requested by who holds one, signed outside, recorded, denied.

use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_runtime::enrol::{Authority, NewRequest, Request, new_request};
use chemxor_runtime::pki::Subject;
use chemxor_runtime::tls::TlsFiles;
use time::Duration;
use tonic::Status;

use crate::platform::{Platform, id};

fn subject(name: &str) -> Subject {
    Subject::Client(name.parse().unwrap())
}

fn made(name: &str) -> NewRequest {
    new_request(&subject(name), &[]).unwrap()
}

fn sign(platform: &Platform, request: &NewRequest) -> String {
    let authority = Authority::load(platform.authority_folder()).unwrap();
    let request = Request::read(&request.request_pem).unwrap();
    authority.sign(&request, Duration::days(7)).unwrap()
}

async fn ask(
    platform: &Platform,
    files: &TlsFiles,
    request: &NewRequest,
) -> Result<v1::CertificateRecord, ErrorId> {
    let mut certificates = platform.certificates_with(files).await;
    let request_pem = request.request_pem.clone();
    let answer = certificates
        .request_certificate(v1::RequestCertificateRequest { request_pem })
        .await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| id(&status))
}

async fn issue(
    platform: &Platform,
    request: v1::IssueCertificateRequest,
) -> Result<v1::CertificateRecord, Status> {
    let answer = platform
        .certificates()
        .issue_certificate(platform.by("adam", request))
        .await;
    answer.map(tonic::Response::into_inner)
}

async fn list(platform: &Platform, waiting: bool) -> Vec<v1::CertificateRecord> {
    let request = platform.by("adam", v1::ListCertificatesRequest { waiting });
    let answer = platform.certificates().list_certificates(request).await;
    answer.unwrap().into_inner().certificates
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_while_the_key_stays_at_home() {
    let platform = Platform::start().await;
    let files = platform.files(&subject("lab-7"), "lab-7");
    let request = made("lab-7");
    let waiting = ask(&platform, &files, &request).await.unwrap();
    assert_eq!(waiting.state, "waiting");
    let again = ask(&platform, &files, &request).await.unwrap();
    assert_eq!(again.id, waiting.id, "the same request is one");
    let listed = list(&platform, true).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].request_pem, request.request_pem);

    let certificate_pem = sign(&platform, &request);
    let answer = v1::IssueCertificateRequest {
        id: waiting.id.clone(),
        certificate_pem: certificate_pem.clone(),
        ..Default::default()
    };
    let issued = issue(&platform, answer.clone()).await.unwrap();
    assert_eq!(issued.state, "issued");
    assert_eq!(issue(&platform, answer).await.unwrap().id, issued.id);
    let fetch = v1::FetchCertificateRequest { id: waiting.id };
    let mut certificates = platform.certificates_with(&files).await;
    let fetched = certificates.fetch_certificate(fetch.clone()).await;
    assert_eq!(
        fetched.unwrap().into_inner().certificate_pem,
        certificate_pem
    );
    assert!(list(&platform, true).await.is_empty());

    // the new pair opens the registry; who has another subject sees nothing of it
    let renewed = TlsFiles {
        cert: platform.authority_folder().join("renewed.pem"),
        key: platform.authority_folder().join("renewed.key"),
        ..files
    };
    chemxor_runtime::enrol::write_key(&renewed.key, &request.key_pem).unwrap();
    chemxor_runtime::enrol::write_public(&renewed.cert, &certificate_pem).unwrap();
    let mut certificates = platform.certificates_with(&renewed).await;
    certificates.fetch_certificate(fetch.clone()).await.unwrap();
    let other = platform.files(&subject("lab-8"), "lab-8");
    let mut certificates = platform.certificates_with(&other).await;
    let refused = certificates.fetch_certificate(fetch).await.unwrap_err();
    assert_eq!(id(&refused), ErrorId::CertificateRequestUnknown);
    let stolen = ask(&platform, &other, &made("lab-7")).await.unwrap_err();
    assert_eq!(stolen, ErrorId::CertificateRefused, "for another subject");

    // denied by its serial number, it is refused at the next call
    let deny = v1::DenyCertificateRequest {
        subject: "chemxor://client/lab-7".to_owned(),
        serial: issued.serial,
        reason: "laptop lost".to_owned(),
    };
    let deny = platform.by("adam", deny);
    platform.governance().deny_certificate(deny).await.unwrap();
    let denied = ask(&platform, &renewed, &made("lab-7")).await.unwrap_err();
    assert_eq!(denied, ErrorId::CertificateRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_answers_the_request_is_recorded() {
    let platform = Platform::start().await;
    let files = platform.files(&subject("lab-7"), "lab-7");
    let (first, second) = (made("lab-7"), made("lab-7"));
    let old = ask(&platform, &files, &first).await.unwrap();
    let new = ask(&platform, &files, &second).await.unwrap();
    assert_eq!(
        list(&platform, true).await.len(),
        1,
        "the newer one replaces"
    );
    let answer = |id: &str, certificate_pem: String| v1::IssueCertificateRequest {
        id: id.to_owned(),
        certificate_pem,
        ..Default::default()
    };
    let late = issue(&platform, answer(&old.id, sign(&platform, &first))).await;
    assert_eq!(id(&late.unwrap_err()), ErrorId::WrongState);
    let wrong_key = issue(&platform, answer(&new.id, sign(&platform, &first))).await;
    assert_eq!(id(&wrong_key.unwrap_err()), ErrorId::ArgumentInvalid);
    let folder = tempfile::tempdir().unwrap();
    let foreign = Authority::create(folder.path(), "foreign", Duration::days(9)).unwrap();
    let read = Request::read(&second.request_pem).unwrap();
    let foreign = foreign.sign(&read, Duration::days(7)).unwrap();
    let refused = issue(&platform, answer(&new.id, foreign))
        .await
        .unwrap_err();
    assert!(refused.message().contains("authority"), "{refused}");
    let refuse = v1::RefuseCertificateRequest {
        id: new.id.clone(),
        reason: "unknown machine".to_owned(),
    };
    for _ in 0..2 {
        let refuse = platform.by("adam", refuse.clone());
        let refused = platform.certificates().refuse_certificate(refuse).await;
        assert_eq!(refused.unwrap().into_inner().state, "refused");
    }
    let late = issue(&platform, answer(&new.id, sign(&platform, &second))).await;
    assert_eq!(id(&late.unwrap_err()), ErrorId::WrongState);

    // a subject's first certificate comes with its request
    let fresh = made("lab-9");
    let first = v1::IssueCertificateRequest {
        request_pem: fresh.request_pem.clone(),
        certificate_pem: sign(&platform, &fresh),
        ..Default::default()
    };
    let issued = issue(&platform, first.clone()).await.unwrap();
    assert_eq!(issued.subject, "chemxor://client/lab-9");
    assert_eq!(issue(&platform, first).await.unwrap().id, issued.id);
    let undo = "update certificates set state = 'refused'";
    let refused = platform.database.execute(undo).await.unwrap_err();
    assert!(refused.contains("immutable"), "{refused}");
}

/// The attack: a client fills the database with requests, each of which replaces the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_subject_hands_in_twenty_requests_a_day() {
    let platform = Platform::start().await;
    let files = platform.files(&subject("lab-7"), "lab-7");
    let request = made("lab-7");
    for _ in 0..30 {
        ask(&platform, &files, &request)
            .await
            .expect("the same request is one");
    }
    for _ in 1..20 {
        ask(&platform, &files, &made("lab-7")).await.unwrap();
    }
    let refused = ask(&platform, &files, &made("lab-7")).await.unwrap_err();
    assert_eq!(refused, ErrorId::QuotaExhausted);
    // others are not harmed
    let other = platform.files(&subject("lab-8"), "lab-8");
    ask(&platform, &other, &made("lab-8")).await.unwrap();
}
