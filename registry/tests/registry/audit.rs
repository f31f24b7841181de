//! The audit chain under concurrent writers, and after a change behind the registry's back.

use chemxor_core::{AuditRow, ChainError, Role, RoleSet, verify_export};
use chemxor_registry::store::Store;
use sqlx::{Connection, PgConnection, Row};

use crate::api::{Api, Direct};
use crate::calls::{CALLS, call};
use crate::model::Model;
use crate::platform::{DAY, Platform};
use crate::targets::{Target, register_workers};

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

/// Also what an administrator only looks at.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_an_administrator_makes_leaves_a_row() {
    let platform = Platform::start().await;
    register_workers(&platform).await;
    let target = Target::make(&platform, "esol", 1, true, "everyone").await;
    let (requests, token) = (target.requests(), platform.token("adam").secret.to_string());
    let rows = async || platform.store().verify_audit().await.unwrap().unwrap();
    let mut answered = 0;
    for (rpc, _) in CALLS {
        let before = rows().await;
        let outcome = call(&platform, &token, &requests, rpc).await;
        // what is refused is in the service's log
        if outcome.is_ok() {
            answered += 1;
            assert!(rows().await > before, "{rpc} left no row");
        }
    }
    assert!(answered >= 20, "{answered} calls were answered");
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

/// Rewrites who did what, from row 3 on, with hashes that fit: what a hand on the database can do.
async fn forge(platform: &Platform) {
    let mut connection = PgConnection::connect(&platform.database.url).await.unwrap();
    sqlx::raw_sql("alter table audit disable trigger all")
        .execute(&mut connection)
        .await
        .unwrap();
    let rows = sqlx::query(
        "select *, (extract(epoch from at) * 1000000)::bigint as micros from audit order by number",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut previous = [0; 32];
    for row in rows {
        let number: i64 = row.get("number");
        let actor: String = row.get("actor");
        let forged = AuditRow {
            number,
            at_micros: row.get("micros"),
            actor: if number == 3 {
                "default/eve".to_owned()
            } else {
                actor
            },
            action: row.get("action"),
            object: row.get("object"),
            detail: row.get("detail"),
            hash: String::new(),
        };
        let hash = forged.hash_after(&previous);
        sqlx::query("update audit set actor = $2, prev_hash = $3, hash = $4 where number = $1")
            .bind(number)
            .bind(forged.actor)
            .bind(previous.to_vec())
            .bind(hash.to_vec())
            .execute(&mut connection)
            .await
            .unwrap();
        previous = hash;
    }
    // nothing tells the forged chain from a true one
    let walked = platform.store().verify_audit().await.unwrap();
    assert!(walked.is_ok());
}

/// The chain alone shows no rewriting of everything; the signatures do, and the registry gives none
/// to a log that is not the one it signed before.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_rewritten_in_the_database_gets_no_signature() {
    let platform = Platform::start().await;
    let key = platform.store().public_key().unwrap();
    assert!(platform.store().checkpoint_audit().await.unwrap());
    let before = platform.export().await;
    verify_export(&before, &key).unwrap();
    forge(&platform).await;
    assert!(!platform.store().checkpoint_audit().await.unwrap());
    let refused = verify_export(&platform.export().await, &key).unwrap_err();
    assert!(
        matches!(refused, ChainError::CheckpointHash(_)),
        "{refused}"
    );
    // not even when the database forgets every signature
    let forget = "alter table audit_checkpoints disable trigger all; delete from audit_checkpoints";
    platform.database.execute(forget).await.unwrap();
    assert!(!platform.store().checkpoint_audit().await.unwrap());
    let refused = verify_export(&platform.export().await, &key).unwrap_err();
    assert!(matches!(refused, ChainError::Open(_)), "{refused}");
}

/// A registry that has just started knows the signatures in the database only.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_the_signatures_in_the_database_count() {
    let platform = Platform::start().await;
    assert!(platform.store().checkpoint_audit().await.unwrap());
    let signer = ed25519_dalek::SigningKey::from_bytes(&platform.signing_key());
    let again = async || {
        let store = Store::connect(&platform.database.url).await.unwrap();
        store.with_signer(signer.clone()).checkpoint_audit().await
    };
    assert!(again().await.unwrap());
    // a signature under another key is none
    let forged = "insert into audit_checkpoints select 1000000 + number, at_micros, hash, key, signature from audit_checkpoints";
    platform.database.execute(forged).await.unwrap();
    assert!(again().await.unwrap());
    forge(&platform).await;
    assert!(!again().await.unwrap());
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
