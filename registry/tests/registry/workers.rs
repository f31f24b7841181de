//! Whom a worker serves: the organisations that it names, and nobody once its certificate is denied.

use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_registry::publication::Publication;
use chemxor_registry::store::{Registration, Store};

use crate::api::{Api, Direct};
use crate::model::Model;
use crate::platform::Platform;

const SERIAL: &str = "0a17";

async fn register(store: &Store, organisations: &[&str], serial: &str) {
    let organisations: Vec<String> = organisations.iter().map(ToString::to_string).collect();
    for (key, name) in [(1, "worker-1"), (2, "worker-2")] {
        let registration = Registration {
            sealing_key: &[key; 32],
            endpoint: "localhost:1",
            organisations: &organisations,
            certificate_serial: serial,
        };
        let name = name.parse().unwrap();
        store.register_worker(&name, &registration).await.unwrap();
    }
}

async fn begin(platform: &Platform, seed: u64) -> Result<(), ErrorId> {
    let model = Model::new("esol", seed);
    let publication = Publication::verify(model.request).unwrap();
    let paul = platform.caller("paul");
    let begun = platform.store().begin_version(&paul, &publication).await;
    begun.map_err(|error| error.id())
}

async fn approve(platform: &Platform, model: &Model) {
    platform.submit("paul", model).await;
    Direct(platform).approve("rita", "esol").await.unwrap();
}

/// Workers of the placement view, and assignments of worker-1.
async fn served(store: &Store) -> (usize, usize) {
    let view = store.placement_view().await.unwrap();
    let assigned = store.assignments(&"worker-1".parse().unwrap()).await;
    (view.workers.len(), assigned.unwrap().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_models_of_the_organisations_it_names_only() {
    let platform = Platform::start().await;
    let store = platform.store();
    register(store, &["acme"], "").await;
    assert_eq!(begin(&platform, 1).await, Err(ErrorId::WorkerUnknown));
    let listed = |organisation: Option<&'static str>| async move {
        store.list_workers(organisation).await.unwrap().len()
    };
    assert_eq!(listed(Some("default")).await, 0);
    assert_eq!(listed(Some("acme")).await, 2);
    assert_eq!(listed(None).await, 2);

    // without a list it serves everybody, as the attack needs it
    register(store, &[], "").await;
    assert_eq!(begin(&platform, 1).await, Ok(()));
    assert_eq!(listed(Some("default")).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_names_others_lets_go_of_what_it_served() {
    let platform = Platform::start().await;
    let store = platform.store();
    register(store, &["default", "acme"], "").await;
    let model = Model::new("esol", 1);
    approve(&platform, &model).await;
    assert_eq!(served(store).await, (2, 1));
    register(store, &["acme"], "").await;
    assert_eq!(served(store).await, (0, 0));
    // what it changed is in the audit log, and it can come back
    register(store, &["default"], "").await;
    assert_eq!(served(store).await, (2, 1));
    // two workers, three lists that differ from the one before
    let log = platform.export().await;
    assert_eq!(log.matches("worker.register").count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_a_denied_certificate_is_routed_to_no_more() {
    let platform = Platform::start().await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    register(store, &[], SERIAL).await;
    let model = Model::new("esol", 1);
    approve(&platform, &model).await;
    assert_eq!(served(store).await, (2, 1));

    let worker = "chemxor://worker/worker-1";
    let deny = |subject: &'static str, serial: &'static str| {
        let adam = &adam;
        async move { store.deny_certificate(adam, subject, serial, "lost").await }
    };
    // another certificate of it, and another party
    deny(worker, "0b").await.unwrap();
    deny("chemxor://client/worker-1", "").await.unwrap();
    assert_eq!(served(store).await, (2, 1));
    deny(worker, SERIAL).await.unwrap();
    assert_eq!(served(store).await, (1, 0));
    assert_eq!(begin(&platform, 2).await, Err(ErrorId::WorkerUnknown));
    // it registers with a new certificate, until the name itself is denied
    register(store, &[], "0c").await;
    assert_eq!(served(store).await, (2, 1));
    deny(worker, "").await.unwrap();
    assert_eq!(served(store).await, (1, 0));
    // without anybody to serve it the version stays listed: a gateway that was not told so would go on
    // with the workers that it knows
    deny("chemxor://worker/worker-2", "").await.unwrap();
    let view = store.placement_view().await.unwrap();
    assert_eq!(view.versions.len(), 1);
    assert_eq!(view.versions[0].version, model.version());
    assert!(view.versions[0].placements.is_empty() && view.workers.is_empty());

    // what can be no certificate's subject is refused: it would deny nothing
    for subject in [
        "chemxor://worker",
        "chemxor://gateway/1",
        "chemxor://nobody",
    ] {
        let refused = deny(subject, "").await.unwrap_err();
        assert_eq!(refused.id(), ErrorId::ArgumentInvalid, "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_hear_which_gateways_are_denied() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let adam = platform.caller("adam");
    for (subject, serial) in [("chemxor://gateway", "0d"), ("chemxor://client/lab", "")] {
        let denied = platform
            .store()
            .deny_certificate(&adam, subject, serial, "");
        denied.await.unwrap();
    }
    let subject = chemxor_runtime::pki::Subject::Worker("worker-1".parse().unwrap());
    let mut control = platform.control(&subject).await;
    let request = v1::ListAssignmentsRequest {
        worker: "worker-1".to_owned(),
    };
    let answer = control.list_assignments(request).await.unwrap();
    let denied = answer.into_inner().denied_gateways;
    let expected = v1::DeniedCertificate {
        subject: "chemxor://gateway".to_owned(),
        serial: "0d".to_owned(),
    };
    assert_eq!(denied, [expected]);
}
