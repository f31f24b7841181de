//! What attackers send: frames that are too large or no messages, requests sent again, clocks that
//! disagree. SQL is in `injection`, certificates that are expired or foreign in `certificates`.

use bytes::{Buf, BufMut};
use chemxor_core::{ErrorId, Role, RoleSet};
use chemxor_proto::v1;
use chemxor_registry::store::TokenOrder;
use chemxor_runtime::pki::Subject;
use chemxor_runtime::tls;
use time::{Duration, OffsetDateTime};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use crate::api::{Api, Direct};
use crate::model::Model;
use crate::platform::{DAY, Platform, id, signed};

/// Sends these bytes as a message, whatever they are.
#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_and_malformed_messages_are_refused_and_the_registry_goes_on() {
    let platform = Platform::start().await;
    let files = platform.files(&Subject::Client("lab-2".parse().unwrap()), "lab-2");
    let channel = tls::connect(&platform.address(), &files).await.unwrap();
    let roles = [Role::Admin, Role::Publisher];
    let admin = platform.token_in("default", "both", &roles).await.secret;
    let mut accepted = Vec::new();
    let paths = [
        "/chemxor.v1.Catalog/GetModel",
        "/chemxor.v1.Publishing/BeginVersion",
        "/chemxor.v1.Governance/SetMember",
        "/chemxor.v1.Cards/SetCard",
        "/chemxor.v1.Certificates/IssueCertificate",
    ];
    let messages = [
        // a length that the message does not have
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        // an unfinished number, an unknown wire type, text that is no UTF-8
        vec![0x80],
        vec![0x0f, 0x01],
        vec![0x0a, 0x02, 0xc3, 0x28],
        // more than any message has
        vec![0x0a; 3 << 20],
    ];
    for path in paths {
        for message in &messages {
            let mut raw =
                tonic::client::Grpc::new(channel.clone()).max_encoding_message_size(8 << 20);
            raw.ready().await.unwrap();
            let request = signed(&admin, message.clone());
            let answer = raw.unary(request, path.parse().unwrap(), Raw).await;
            match answer {
                Ok(_) => accepted.push((path, message.len())),
                Err(status) => assert!(
                    matches!(
                        status.code(),
                        Code::Internal
                            | Code::OutOfRange
                            | Code::InvalidArgument
                            | Code::ResourceExhausted
                    ),
                    "{path}: {status}"
                ),
            }
        }
    }
    assert_eq!(accepted, []);
    let list = signed(&admin, v1::ListModelsRequest::default());
    platform.catalogue().list_models(list).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_changes_nothing_twice() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    platform.submit("paul", &model).await;
    // a recorded announcement and upload: the version has left the draft
    let again = Direct(&platform).begin("paul", &model.request).await;
    assert_eq!(again.unwrap_err(), ErrorId::WrongState);
    let upload = Direct(&platform)
        .upload(
            "paul",
            &model.version(),
            &model.sha256(0),
            0,
            &model.blobs[0],
        )
        .await;
    assert_eq!(
        upload,
        Ok(model.blobs[0].len() as u64),
        "it is there already"
    );
    Direct(&platform).approve("rita", "esol").await.unwrap();
    let again = Direct(&platform).approve("rita", "esol").await;
    assert_eq!(again.unwrap_err(), ErrorId::WrongState);
    // a reservation counts once, a settled one cannot give back twice
    let mut metering = platform.metering(&Subject::Gateway).await;
    let quota = v1::Quota {
        model: "esol".to_owned(),
        organisation: "*".to_owned(),
        lifetime_queries: Some(10),
        ..Default::default()
    };
    let quota = platform.by("adam", quota);
    platform.governance().set_quota(quota).await.unwrap();
    let reserve = v1::ReserveQueriesRequest {
        reservation_id: vec![3; 16].into(),
        version: model.version(),
        token_id: platform.token("quinn").id.to_string(),
        queries: 6,
        ..Default::default()
    };
    for _ in 0..3 {
        metering.reserve_queries(reserve.clone()).await.unwrap();
    }
    let settle = v1::SettleQueriesRequest {
        reservation_id: vec![3; 16].into(),
        answered: 2,
        ..Default::default()
    };
    for _ in 0..3 {
        metering.settle_queries(settle.clone()).await.unwrap();
    }
    let list = v1::ListQuotasRequest {
        model: "esol".to_owned(),
    };
    let list = platform.by("adam", list);
    let used = platform.governance().list_quotas(list).await.unwrap();
    assert_eq!(used.into_inner().usage[0].lifetime_queries, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_clock_is_wrong_gains_nothing() {
    let platform = Platform::start().await;
    // a certificate that begins in an hour: the holder's clock, or the authority's, is ahead
    let subject = Subject::Client("lab-2".parse().unwrap());
    let early = platform.authority.issue_from(
        &subject,
        OffsetDateTime::now_utc() + Duration::HOUR,
        Duration::days(1),
    );
    let folder = tempfile::tempdir().unwrap();
    let files = early.unwrap().write(folder.path(), "early").unwrap();
    let ca = platform.authority_folder().join("ca.pem");
    let files = tls::TlsFiles { ca, ..files };
    let secret = platform.token("quinn").secret.clone();
    let list = || signed(&secret, v1::ListModelsRequest::default());
    let answered = match tls::connect(&platform.address(), &files).await {
        Ok(channel) => {
            let mut catalogue = v1::catalog_client::CatalogClient::new(channel);
            catalogue.list_models(list()).await.is_ok()
        }
        Err(_) => false,
    };
    assert!(!answered, "not yet valid");
    platform.catalogue().list_models(list()).await.unwrap();

    // tokens end by the database's clock: whatever a caller's clock says, an expired one is refused,
    // and nobody orders one that has ended or never ends
    let adam = platform.caller("adam");
    for lifetime in [
        std::time::Duration::ZERO,
        367 * DAY,
        std::time::Duration::MAX,
    ] {
        let order = TokenOrder {
            organisation: "default",
            subject: "late",
            roles: &RoleSet::new([Role::Querier]),
            models: &[],
            lifetime,
        };
        let refused = platform.store().order_token(&adam, &order).await;
        assert_eq!(refused.err().unwrap().id(), ErrorId::ArgumentInvalid);
    }
    let deprecate = |sunset_unix_ms| v1::DeprecateVersionRequest {
        model: format!("esol@sha256:{}", "0".repeat(64)),
        sunset_unix_ms,
        reason: String::new(),
    };
    for sunset in [i64::MAX, i64::MIN] {
        let request = platform.by("adam", deprecate(sunset));
        let refused = platform.governance().deprecate_version(request).await;
        assert_eq!(id(&refused.unwrap_err()), ErrorId::ArgumentInvalid);
    }
}
