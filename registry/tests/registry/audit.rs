//! The audit chain under concurrent writers, and after a change behind the registry's back.

use chemxor_core::{Role, RoleSet};

use crate::api::{Api, Direct};
use crate::model::Model;
use crate::platform::{DAY, Platform};

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_leave_one_unbroken_chain() {
    let platform = Platform::start().await;
    let before = platform.store().verify_audit().await.unwrap().unwrap();
    let writers = (0..24).map(|number| {
        let store = platform.store().clone();
        tokio::spawn(async move {
            let roles = RoleSet::new([Role::Querier]);
            let subject = format!("lab-{number}");
            store.create_token("adam", &subject, &roles, DAY).await
        })
    });
    for made in futures::future::join_all(writers).await {
        made.unwrap().unwrap();
    }
    let rows = platform.store().verify_audit().await.unwrap();
    assert_eq!(rows, Ok(before + 24));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_removed_or_swapped_row_is_found() {
    for (change, found) in [
        (
            "update audit set detail = detail || ' ' where number = 3",
            3,
        ),
        (
            "update audit set at = at + interval '1 microsecond' where number = 2",
            2,
        ),
        ("delete from audit where number = 4", 4),
        (
            "update audit set number = 100 where number = 2; update audit set number = 2 where number = 3; update audit set number = 3 where number = 100",
            2,
        ),
    ] {
        let platform = Platform::start().await;
        let rows = platform.store().verify_audit().await.unwrap();
        assert!(rows.is_ok_and(|rows| rows >= 6), "{rows:?}");
        let change = format!("alter table audit disable trigger all; {change}");
        platform.database.execute(&change).await.unwrap();
        assert_eq!(platform.store().verify_audit().await.unwrap(), Err(found));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_approvals_at_once_one_counts() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    platform.submit("paul", &Model::new("esol", 1)).await;
    let approvals = (0..8).map(|number| {
        let api = Direct(&platform);
        async move { api.approve(&format!("reviewer-{number}"), "esol").await }
    });
    let outcomes = futures::future::join_all(approvals).await;
    let approved = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(approved, 1, "{outcomes:?}");
}
