//! Gateways whose certificates an administrator has denied.

use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_runtime::enrol::read_certificate;
use chemxor_runtime::pki::Subject;
use tonic::Code;

use super::model::Model;
use super::platform::{BUSY, CANCELLED, EVALUATED, Options, Platform, metric, until_metric};
use super::pool::HeldPool;
use super::stream::{Heard, Stream};

fn denied(serial: &str) -> v1::DeniedCertificate {
    v1::DeniedCertificate {
        subject: Subject::Gateway.to_string(),
        serial: serial.to_owned(),
    }
}

impl Platform {
    /// A connection of a gateway, and the serial number of its certificate.
    async fn gateway(&self) -> (tonic::transport::Channel, String) {
        let channel = self.connect(&Subject::Gateway).await;
        let pem = std::fs::read_to_string(self.peer_certificate()).unwrap();
        (channel, read_certificate(&pem).unwrap().serial)
    }

    /// Denies these, and waits until the worker knows.
    async fn deny(&self, list: Vec<v1::DeniedCertificate>) {
        *self.registry.denied_gateways.lock().unwrap() = list;
        self.lists(2).await;
    }
}

#[tokio::test]
async fn a_denied_gateway_is_served_no_more_on_the_connection_it_has() {
    let model = Model::light("on", 0b1111_0110);
    let platform = Platform::serving(Options::default(), &[&model]).await;
    let (bad, serial) = platform.gateway().await;
    let (good, other) = platform.gateway().await;
    assert_ne!(serial, other);
    let mut open = Stream::open(bad.clone(), &model).await.unwrap();
    open.ask(&model, 1).await;

    platform.deny(vec![denied(&serial)]).await;
    let last = open.hear().await;
    let refusal = Some(ErrorId::CertificateRefused);
    assert!(
        matches!(last, Heard::Refused(Code::PermissionDenied, id) if id == refusal),
        "{last:?}"
    );
    let again = Stream::open(bad, &model).await.err().unwrap();
    assert_eq!(again.code(), Code::PermissionDenied, "{again:?}");

    // another certificate of the same subject stays good, until all of them are denied
    let mut stream = Stream::open(good.clone(), &model).await.unwrap();
    stream.ask(&model, 2).await;
    platform.deny(vec![denied("*")]).await;
    let again = Stream::open(good.clone(), &model).await.err().unwrap();
    assert_eq!(again.code(), Code::PermissionDenied, "{again:?}");

    // what the list names of others does not concern gateways
    let worker = v1::DeniedCertificate {
        subject: "chemxor://worker/a".to_owned(),
        serial: "*".to_owned(),
    };
    platform.deny(vec![worker]).await;
    Stream::open(good, &model).await.unwrap();
}

#[tokio::test]
async fn a_gateway_is_denied_while_a_version_is_on_its_way() {
    let (model, slow) = (Model::light("on", 0b1111_0110), Model::light("slow", 1));
    let platform = Platform::serving(Options::default(), &[&model]).await;
    let (channel, serial) = platform.gateway().await;
    let mut open = Stream::open(channel.clone(), &model).await.unwrap();
    open.ask(&model, 1).await;
    platform.assign_held(&slow).await;
    // so is one that waits for this version to open its stream
    let opening = Stream::open(channel.clone(), &slow);
    let denying = platform.deny(vec![denied(&serial)]);
    let (opened, ()) = tokio::join!(opening, denying);
    assert_eq!(opened.err().unwrap().code(), Code::PermissionDenied);
    let last = open.hear().await;
    assert!(
        matches!(last, Heard::Refused(Code::PermissionDenied, _)),
        "{last:?}"
    );
    let again = Stream::open(channel, &model).await.err().unwrap();
    assert_eq!(again.code(), Code::PermissionDenied, "{again:?}");
}

#[tokio::test]
async fn a_denied_gateway_hears_no_answer_of_what_it_has_asked() {
    let model = Model::light("on", 0b1111_0110);
    let platform = Platform::serving(Options::default(), &[&model]).await;
    let (channel, serial) = platform.gateway().await;
    let mut stream = Stream::open(channel, &model).await.unwrap();
    let pool = HeldPool::hold();
    stream.first_step(&model, 1).await;
    until_metric(BUSY, 1).await;
    platform.deny(vec![denied(&serial)]).await;
    until_metric(CANCELLED, 1).await;
    drop(pool);
    let last = stream.hear().await;
    assert!(
        matches!(last, Heard::Refused(Code::PermissionDenied, _)),
        "{last:?}"
    );
    assert_eq!(metric(EVALUATED), 0);
}
