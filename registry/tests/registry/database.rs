//! What the database refuses, even to somebody with a hand on it.

use crate::api::{Api, Direct};
use crate::model::Model;
use crate::platform::Platform;

/// A submitted and a draft version, each with everything that belongs to one.
async fn with_versions() -> (Platform, String) {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let submitted = Model::new("esol", 1);
    platform.submit("paul", &submitted).await;
    let draft = Model::new("esol", 2);
    Direct(&platform)
        .begin("paul", &draft.request)
        .await
        .unwrap();
    let digest = submitted.version().replace("sha256:", "'\\x") + "'";
    (platform, digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_submitted_version_changes_but_its_state() {
    let (platform, digest) = with_versions().await;
    let refused = [
        (
            "update versions set manifest = 'x' where digest = {}",
            "immutable",
        ),
        (
            "update versions set name = 'esol' || 'x' where digest = {}",
            "immutable",
        ),
        (
            "update versions set publisher = 'pia' where digest = {}",
            "immutable",
        ),
        (
            "update versions set signature = publisher_key || publisher_key where digest = {}",
            "immutable",
        ),
        (
            "update versions set created_at = now() where digest = {}",
            "immutable",
        ),
        (
            "update versions set approved_by = 'rita' where digest = {}",
            "immutable",
        ),
        (
            "update versions set state = 'draft' where digest = {}",
            "cannot go from",
        ),
        (
            "update versions set state = 'deprecated' where digest = {}",
            "cannot go from",
        ),
        (
            "update versions set state = 'approved' where digest = {}",
            "names its approver",
        ),
        (
            "update versions set state = 'approved', approved_at = now(), approved_by = 'paul' where digest = {}",
            "not approved by its publisher",
        ),
        (
            "update versions set state = 'revoked', approved_by = 'rita' where digest = {}",
            "immutable",
        ),
        (
            "delete from versions where digest = {}",
            "cannot be deleted",
        ),
        ("truncate versions cascade", "never emptied"),
        (
            "update blobs set length = 1 where version = {}",
            "immutable",
        ),
        ("delete from blob_pieces where version = {}", "immutable"),
        (
            "update blob_pieces set content = 'x' where version = {}",
            "immutable",
        ),
        (
            "update blob_pieces set version = {} where version <> {}",
            "stays with its version",
        ),
        (
            "update sealed_keys set ciphertext = 'x' where version = {}",
            "immutable",
        ),
        (
            "update placements set end_step = 2 where version = {}",
            "immutable",
        ),
        (
            "insert into versions select 'x' || substr(digest, 2), name, manifest, signature, publisher_key, publisher, 'approved' from versions where digest = {}",
            "begins as a draft",
        ),
    ];
    // some bytes are uploaded to the draft, so that a piece could be moved
    let draft = Model::new("esol", 2);
    Direct(&platform)
        .upload("paul", &draft.version(), &draft.sha256(0), 0, b"piece")
        .await
        .unwrap();
    for (statement, reason) in refused {
        let statement = statement.replace("{}", &digest);
        let error = platform.database.execute(&statement).await.unwrap_err();
        assert!(error.contains(reason), "{statement}: {error}");
    }
    let approve = "update versions set state = 'approved', approved_at = now(), approved_by = 'rita' where digest = {}";
    let approve = approve.replace("{}", &digest);
    assert_eq!(platform.database.execute(&approve).await, Ok(1));
    let again = "update versions set approved_by = 'adam' where digest = {}";
    let again = platform
        .database
        .execute(&again.replace("{}", &digest))
        .await;
    assert!(again.unwrap_err().contains("immutable"));
    // workers come and go while a version lives, never after
    let revoke = "update versions set state = 'revoked' where digest = {}";
    let changes = [
        "delete from sealed_keys where version = {} and worker = 'worker-1'",
        "insert into sealed_keys values ({}, 'worker-1', 1, 'x', 'x')",
        "delete from placements where version = {} and worker = 'worker-1'",
    ];
    let gone = [
        "delete from sealed_keys where version = {} and worker = 'worker-2'",
        "insert into sealed_keys values ({}, 'worker-2', 7, 'x', 'x')",
        "delete from placements where version = {} and worker = 'worker-2'",
    ];
    for (statement, allowed) in changes
        .iter()
        .map(|statement| (statement, true))
        .chain([(&revoke, true)])
        .chain(gone.iter().map(|statement| (statement, false)))
    {
        let statement = statement.replace("{}", &digest);
        let done = platform.database.execute(&statement).await;
        assert_eq!(done.is_ok(), allowed, "{statement}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_the_audit_log_do_not_change() {
    let (platform, _) = with_versions().await;
    // a row of each, for the triggers to refuse
    for row in [
        "insert into organisations (name) values ('acme')",
        "insert into certificates (id, subject, state, request)
         values (gen_random_uuid(), 'chemxor://worker/w', 'waiting', 'x')",
        "insert into denied_certificates (subject, reason) values ('chemxor://worker/w', '')",
        "insert into usage (model, organisation, day) values ('esol', 'default', '1970-01-01')",
    ] {
        platform.database.execute(row).await.unwrap();
    }
    for (statement, reason) in [
        (
            "update tokens set expires_at = expires_at + interval '1 day'",
            "immutable",
        ),
        ("update tokens set roles = '{admin}'", "immutable"),
        ("update tokens set subject = 'eve'", "immutable"),
        ("update audit set actor = 'eve'", "append only"),
        ("delete from audit", "append only"),
        ("truncate audit", "never emptied"),
        ("truncate audit_checkpoints", "never emptied"),
        ("truncate alias_history", "never emptied"),
        ("truncate cards", "never emptied"),
        ("truncate certificates", "never emptied"),
        ("truncate conformance", "never emptied"),
        ("truncate denied_certificates", "never emptied"),
        ("truncate models cascade", "never emptied"),
        ("truncate tokens cascade", "never emptied"),
        ("truncate blobs cascade", "never emptied"),
        ("truncate blob_pieces", "never emptied"),
        ("truncate sealed_keys", "never emptied"),
        ("truncate placements", "never emptied"),
        ("truncate usage", "never emptied"),
        ("update tokens set created_by = 'eve'", "immutable"),
        ("delete from tokens", "never deleted"),
        ("delete from models", "never deleted"),
        ("delete from certificates", "never deleted"),
        ("delete from denied_certificates", "append only"),
        ("update denied_certificates set serial = '1'", "append only"),
        ("delete from usage", "never deleted"),
        (
            "update workers set sealing_key = sha256(sealing_key)",
            "immutable",
        ),
        ("update models set organisation = 'acme'", "immutable"),
        ("update models set name = 'other'", "immutable"),
    ] {
        let error = platform.database.execute(statement).await.unwrap_err();
        assert!(error.contains(reason), "{statement}: {error}");
    }
    // what may change still does
    for statement in [
        "update workers set endpoint = 'localhost:2', last_seen = now()",
        "update models set visibility = 'everyone'",
        "update usage set queries = queries + 1",
    ] {
        let done = platform.database.execute(statement).await;
        assert!(done.is_ok(), "{statement}: {done:?}");
    }
    let revoke = "update tokens set revoked_at = now() where subject = 'quinn'";
    assert_eq!(platform.database.execute(revoke).await, Ok(1));
    let undo = "update tokens set revoked_at = null where subject = 'quinn'";
    let error = platform.database.execute(undo).await.unwrap_err();
    assert!(error.contains("immutable"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_a_newer_release_is_refused_with_advice() {
    let database = crate::cluster::Database::create().await;
    let newer =
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (9999, 'from the future', true, 'x', 0)";
    database.execute(newer).await.unwrap();
    let error = chemxor_registry::store::Store::connect(&database.url)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("9999") && error.contains("newer"), "{error}");
}
