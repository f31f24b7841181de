//! What goes on while a version is on its way from the registry.

use std::time::Duration;

use chemxor_runtime::pki::Subject;
use tonic::Code;

use super::model::Model;
use super::platform::{Options, Platform, metric, until_metric};
use super::stream::{Heard, Stream};

const MODELS: &str = "chemxor_worker_models";

#[tokio::test]
async fn lists_hold_at_once_and_the_newest_is_not_lost() {
    let (a, slow, late) = (
        Model::light("a", 0b1111_0110),
        Model::light("slow", 0b0000_1001),
        Model::light("late", 0b0110_0110),
    );
    let platform = Platform::serving(Options::default(), &[&a]).await;
    let mut open = platform.open(&a).await;
    platform.assign_held(&slow).await;
    // the heartbeat goes on
    platform.lists(3).await;
    assert_eq!(metric(MODELS), 1);

    // what is withdrawn is unloaded and not served, to those neither who have a stream open
    platform.registry.withdraw(&a);
    until_metric(MODELS, 0).await;
    open.first_step(&a, 1).await;
    match open.hear().await {
        Heard::Failed(at, id, retryable) => {
            assert_eq!((at, id.as_str(), retryable), ((1, 0), "CX-Q06", true));
        }
        other => panic!("it is not served, got {other:?}"),
    }
    let refused = platform.try_open(&a).await.err().unwrap();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");

    // so is what is on its way, and it does not hold up what comes after it
    platform.registry.withdraw(&slow);
    platform.assign(&late);
    until_metric(MODELS, 1).await;
    platform.open(&late).await.ask(&late, 1).await;
    platform.registry.release(&slow.version.to_string());
    platform.lists(2).await;
    let refused = platform.try_open(&slow).await.err().unwrap();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    assert_eq!(metric(MODELS), 1);
}

#[tokio::test]
async fn a_session_waits_for_its_own_version_only_and_with_all_who_ask_for_it() {
    let (a, slow, quick) = (
        Model::light("a", 0b1111_0110),
        Model::light("slow", 0b0000_1001),
        Model::light("quick", 0b0110_0110),
    );
    let platform = Platform::serving(Options::default(), &[&a]).await;
    platform.assign_held(&slow).await;
    // behind the slow one in what is loaded ahead
    platform.assign(&quick);
    platform.lists(2).await;
    let first = platform.connect(&Subject::Gateway).await;
    let second = platform.connect(&Subject::Gateway).await;
    let waiting = async { tokio::join!(Stream::open(first, &slow), Stream::open(second, &slow)) };
    let meanwhile = async {
        platform.open(&quick).await.ask(&quick, 1).await;
        platform.registry.release(&slow.version.to_string());
    };
    let ((first, second), ()) = tokio::join!(waiting, meanwhile);
    first.unwrap().ask(&slow, 1).await;
    second.unwrap().ask(&slow, 1).await;
    let fetches = platform.registry.fetches(&slow.version.to_string());
    assert_eq!(fetches, 2, "each of its two blobs once");
}

#[tokio::test]
async fn a_worker_stops_while_a_version_is_on_its_way() {
    let (a, slow) = (Model::light("a", 0b1111_0110), Model::light("slow", 1));
    let platform = Platform::serving(Options::default(), &[&a]).await;
    platform.assign_held(&slow).await;
    platform.stop.cancel();
    // well before the deadline of a fetch
    let ended = tokio::time::timeout(Duration::from_secs(20), platform.worker.wait());
    ended.await.expect("the worker ends").unwrap();
}
