//! Every call of the platform's own services with the right that it needs, and the proof that the
//! matrices leave out no call of the contract.

use chemxor_core::Action;
use chemxor_proto::v1;
use chemxor_runtime::pki::Subject;

use crate::calls::{CALLS, Outcome, outcome};
use crate::model::Model;
use crate::platform::Platform;

/// Calls that need a certificate of their subject and no token; see `enrolment`.
const BY_CERTIFICATE: [&str; 2] = ["RequestCertificate", "FetchCertificate"];

/// Calls of services, each with the right it needs; the first two are a worker's about itself.
pub(crate) async fn service_calls(
    platform: &Platform,
    subject: &Subject,
) -> Vec<(&'static str, Action, Outcome)> {
    let mut control = platform.control(subject).await;
    let model = Model::new("esol", 1);
    let register = v1::RegisterWorkerRequest {
        name: "worker-1".to_owned(),
        sealing_key: vec![1; 32].into(),
        endpoint: "localhost:1".to_owned(),
        ..Default::default()
    };
    let register = outcome(control.register_worker(register).await);
    let list = v1::ListAssignmentsRequest {
        worker: "worker-1".to_owned(),
    };
    let list = outcome(control.list_assignments(list).await);
    let fetch = v1::FetchBlobRequest {
        version: model.version(),
        sha256: model.sha256(0).into(),
    };
    let fetch = match control.fetch_blob(fetch).await {
        Ok(answer) => outcome(answer.into_inner().message().await),
        Err(status) => Err(status),
    };
    let authorize = v1::AuthorizeSessionRequest {
        token: platform.token("quinn").secret.to_string(),
        model: "esol".to_owned(),
        ..Default::default()
    };
    let authorize = outcome(control.authorize_session(authorize).await);
    let check = v1::CheckSessionRequest {
        version: model.version(),
        token_id: platform.token("quinn").id.to_string(),
        ..Default::default()
    };
    let check = outcome(control.check_session(check).await);
    let watch = match control
        .watch_placements(v1::WatchPlacementsRequest::default())
        .await
    {
        Ok(answer) => outcome(answer.into_inner().message().await),
        Err(status) => Err(status),
    };
    let mut metering = platform.metering(subject).await;
    let reserve = v1::ReserveQueriesRequest {
        reservation_id: vec![1; 16].into(),
        version: model.version(),
        token_id: platform.token("quinn").id.to_string(),
        queries: 1,
        ..Default::default()
    };
    let reserve = outcome(metering.reserve_queries(reserve).await);
    let settle = v1::SettleQueriesRequest {
        reservation_id: vec![1; 16].into(),
        ..Default::default()
    };
    let settle = outcome(metering.settle_queries(settle).await);
    let (serve, route) = (Action::ServePartitions, Action::RouteSessions);
    vec![
        ("RegisterWorker", serve, register),
        ("ListAssignments", serve, list),
        ("FetchBlob", serve, fetch),
        ("AuthorizeSession", route, authorize),
        ("CheckSession", route, check),
        ("WatchPlacements", route, watch),
        ("ReserveQueries", route, reserve),
        ("SettleQueries", route, settle),
    ]
}

/// Services of the registry and their calls, as the contract lists them; those of gateway and worker
/// are in files of their own.
fn contract() -> (Vec<&'static str>, Vec<&'static str>) {
    let files = [
        include_str!("../../../proto/chemxor/v1/registry.proto"),
        include_str!("../../../proto/chemxor/v1/admin.proto"),
        include_str!("../../../proto/chemxor/v1/cards.proto"),
        include_str!("../../../proto/chemxor/v1/certificates.proto"),
    ];
    let (mut services, mut calls) = (Vec::new(), Vec::new());
    for service in files
        .iter()
        .flat_map(|file| file.split("\nservice ").skip(1))
    {
        services.push(service.split(' ').next().unwrap());
        let rpcs = service
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("rpc "));
        calls.extend(rpcs.map(|rpc| rpc.split('(').next().unwrap()));
    }
    services.sort_unstable();
    calls.sort_unstable();
    (services, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_covers_every_call_of_the_contract() {
    let platform = Platform::start().await;
    let services = service_calls(&platform, &Subject::Registry).await;
    let services = services.iter().map(|(call, ..)| *call);
    let people = CALLS.iter().map(|(call, _)| *call);
    let mut names: Vec<&str> = people.chain(services).chain(BY_CERTIFICATE).collect();
    names.sort_unstable();
    let (services, calls) = contract();
    assert_eq!(names, calls);
    // so that a service of another shape is not overlooked
    let known = [
        "Admin",
        "Cards",
        "Catalog",
        "Certificates",
        "Control",
        "Governance",
        "Metering",
        "Publishing",
    ];
    assert_eq!(services, known);
}
