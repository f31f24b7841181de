//! What the view lists that gateways route by.

use chemxor_core::Event;
use time::{Duration, OffsetDateTime};

use crate::api::{Api, Direct};
use crate::model::Model;
use crate::platform::Platform;

#[tokio::test(flavor = "multi_thread")]
async fn a_version_past_its_sunset_is_listed_no_more() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let (paul, store) = (platform.caller("paul"), platform.store());
    let mut expected = Vec::new();
    for (seed, days) in [(1, 1), (2, -1)] {
        let model = Model::new("esol", seed);
        platform.submit("paul", &model).await;
        Direct(&platform).approve("rita", "esol").await.unwrap();
        let version = model.version().parse().unwrap();
        let sunset = OffsetDateTime::now_utc() + Duration::days(days);
        let deprecated = store.transition(&paul, &version, Event::Deprecate, "", Some(sunset));
        deprecated.await.unwrap();
        if days > 0 {
            expected.push(model.version());
        }
    }
    let view = store.placement_view().await.unwrap();
    let listed: Vec<_> = view.versions.into_iter().map(|v| v.version).collect();
    assert_eq!(listed, expected);
}
