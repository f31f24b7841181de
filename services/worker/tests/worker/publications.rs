//! Publications that cannot be prepared, and lists of many.

use bytes::Bytes;
use chemxor_proto::v1;

use super::model::Model;
use super::platform::{Options, Platform, metric, until_metric};
use super::registry::Known;

const REFUSED: &str = "chemxor_worker_loads_total{outcome=\"refused\"}";

#[tokio::test]
async fn a_refused_version_is_not_tried_at_every_heartbeat_until_it_is_mended() {
    let (good, bad) = (
        Model::light("good", 0b1111_0110),
        Model::light("bad", 0b0000_1001),
    );
    let version = bad.version.to_string();
    // garbage in place of the sealed keys
    let prepare = |known: &Known, key: &[u8]| {
        known.assign(&bad, key);
        for sealed in &mut known.assignments.lock().unwrap()[0].keys {
            sealed.ciphertext = Bytes::from(vec![1; sealed.ciphertext.len()]);
        }
        known.assign(&good, key);
    };
    let platform = Platform::start(Options::default(), prepare).await;
    until_metric(REFUSED, 1).await;
    platform.lists(3).await;
    assert!(platform.try_open(&bad).await.is_err());
    // nothing is fetched for keys that do not open
    assert_eq!(
        (metric(REFUSED), platform.registry.fetches(&version)),
        (1, 0)
    );
    platform.open(&good).await.ask(&good, 1).await;
    // mended: tried at once
    platform.registry.assignments.lock().unwrap()[0] = platform.assignment(&bad);
    platform.lists(2).await;
    platform.open(&bad).await.ask(&bad, 1).await;
}

#[tokio::test]
async fn garbage_in_place_of_a_blob_is_refused_and_others_are_served() {
    let (good, mut bad) = (
        Model::light("good", 0b1111_0110),
        Model::light("bad", 0b0000_1001),
    );
    let length = bad.blobs[0].len();
    bad.blobs[0] = Bytes::from(vec![0; length]);
    let platform = Platform::serving(Options::default(), &[&bad, &good]).await;
    until_metric(REFUSED, 1).await;
    platform.lists(3).await;
    assert!(platform.try_open(&bad).await.is_err());
    // each of its two blobs once, at no heartbeat again
    let fetches = platform.registry.fetches(&bad.version.to_string());
    assert_eq!((metric(REFUSED), fetches), (1, 2));
    platform.open(&good).await.ask(&good, 1).await;
}

#[tokio::test]
async fn a_long_list_of_assignments_is_read() {
    let model = Model::light("on", 0b1111_0110);
    let padding = v1::Assignment {
        version: "of no digest".into(),
        manifest: vec![0; 1 << 20].into(),
        ..Default::default()
    };
    let many = |known: &Known, key: &[u8]| {
        let many = std::iter::repeat_n(padding, 8);
        known.assignments.lock().unwrap().extend(many);
        known.assign(&model, key);
    };
    let platform = Platform::start(Options::default(), many).await;
    platform.open(&model).await.ask(&model, 1).await;
}
