//! What a database of a former release holds: rows in every table that exists by then, as that
//! release could have written them.

use std::collections::BTreeMap;

use chemxor_core::{AuditRow, VersionId};
use chemxor_registry::token;
use data_encoding::HEXLOWER;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::model::Model;

/// Versions of the model `esol`.
pub(crate) struct Models {
    pub(crate) approved: Model,
    /// Its upload stopped.
    pub(crate) draft: Model,
    /// Submitted; two workers share its first step.
    pub(crate) shared: Model,
    /// Past its sunset.
    pub(crate) deprecated: Model,
    pub(crate) revoked: Model,
    /// Rita's; no store knows it any more.
    pub(crate) revoked_token: String,
}

impl Models {
    pub(crate) fn new() -> Self {
        let model = |seed| Model::new("esol", seed);
        Self {
            approved: model(1),
            draft: model(2),
            shared: model(3),
            deprecated: model(4),
            revoked: model(5),
            revoked_token: token::generate().unwrap().to_string(),
        }
    }
}

/// An open reservation of ten queries, of which the rest is given back when it is settled.
pub(crate) const OPEN: u128 = 1;

async fn run(connection: &mut PgConnection, statements: &str) {
    let statements = AssertSqlSafe(statements.to_owned());
    let done = sqlx::raw_sql(statements).execute(connection).await;
    done.unwrap();
}

/// Rows of every table but the migrations' own.
pub(crate) async fn counts(connection: &mut PgConnection) -> BTreeMap<String, i64> {
    let tables = sqlx::query(
        "select table_name::text as name from information_schema.tables
         where table_schema = 'public' and table_type = 'BASE TABLE'
           and table_name <> '_sqlx_migrations'",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let mut counts = BTreeMap::new();
    for table in tables {
        let name: String = table.get("name");
        let query = AssertSqlSafe(format!("select count(*) from {name}"));
        let rows = sqlx::query_scalar(query).fetch_one(&mut *connection).await;
        counts.insert(name, rows.unwrap());
    }
    counts
}

/// The digest of a version as SQL.
fn key(model: &Model) -> String {
    let version = VersionId::of(&model.request.manifest);
    format!("decode('{}', 'hex')", HEXLOWER.encode(version.as_bytes()))
}

/// Bytes that nobody reads, as SQL.
fn bytes(length: usize) -> String {
    format!("decode(repeat('ab', {length}), 'hex')")
}

/// A version past its sunset, which came with organisations, and a revoked one.
fn lifecycles(after: i64, models: &Models) -> String {
    let mut statements = String::new();
    for model in [&models.deprecated, &models.revoked] {
        let (key, manifest) = (key(model), HEXLOWER.encode(&model.request.manifest));
        let (signature, public) = (bytes(64), bytes(32));
        statements += &format!(
            "insert into versions (digest, name, manifest, signature, publisher_key, publisher)
             values ({key}, 'esol', decode('{manifest}', 'hex'), {signature}, {public}, 'paul');
             update versions set state = 'submitted' where digest = {key};"
        );
    }
    let (old, revoked) = (key(&models.deprecated), key(&models.revoked));
    let sunset = if after >= 41 {
        ", sunset_at = now() - interval '1 day'"
    } else {
        ""
    };
    statements += &format!(
        "update versions set state = 'approved', approved_by = 'rita',
            approved_at = now() - interval '9 days' where digest = {old};
         update versions set state = 'deprecated'{sunset} where digest = {old};
         update versions set state = 'revoked' where digest = {revoked};"
    );
    statements
}

/// Two workers share a step; the rows are a draft's, then it is submitted.
fn shares(models: &Models) -> String {
    let (key, sealed) = (key(&models.shared), bytes(48));
    format!(
        "update placements set end_group = 2 where version = {key} and worker = 'worker-1';
         insert into placements values ({key}, 'worker-3', 0, 1, 2, 4);
         insert into sealed_keys values ({key}, 'worker-3', 0, {sealed}, {sealed});
         update versions set state = 'submitted' where digest = {key};"
    )
}

/// Organisations and all that is theirs.
fn tenants(models: &Models) -> String {
    let (live, old) = (key(&models.approved), key(&models.deprecated));
    let (hash, signature) = (bytes(32), bytes(64));
    format!(
        "insert into organisations (name, suspended_at) values ('acme', null), ('gone', now());
         insert into consortia (name) values ('friends');
         insert into consortium_members values ('friends', 'default'), ('friends', 'acme');
         insert into members (organisation, subject, kind, roles, removed_at) values
            ('acme', 'lea', 'person', '{{querier}}', null),
            ('default', 'robot', 'service', '{{querier,publisher}}', null),
            ('default', 'left', 'person', '{{publisher}}', now());
         insert into models (name, publisher, organisation, visibility, consortium) values
            ('logd', 'paul', 'default', 'listed', null),
            ('herg', 'paul', 'default', 'consortium', 'friends');
         insert into model_grants values ('logd', 'acme');
         insert into aliases values ('esol', 'stable', {live});
         insert into alias_history (model, alias, from_version, to_version, actor) values
            ('esol', 'stable', null, {old}, 'default/paul');
         insert into alias_history (model, alias, from_version, to_version, actor) values
            ('esol', 'stable', {old}, {live}, 'default/paul');
         insert into quotas (model, organisation, queries_per_day, concurrent_sessions,
            bytes_per_day, compute_ms_per_day, lifetime_queries) values
            ('esol', '*', 1000, 3, null, null, 5000), ('esol', 'acme', 7, 1, 8, 9, 10);
         insert into usage values ('esol', 'default', '1970-01-01', 40, 400, 4),
            ('esol', 'default', '2023-01-01', 40, 400, 4);
         insert into reservations (id, model, organisation, day, queries, expires_at, settled_at)
            values ('00000000-0000-0000-0000-000000000001', 'esol', 'default', '2023-01-01', 10,
                now() + interval '1 hour', null),
            ('00000000-0000-0000-0000-000000000002', 'esol', 'default', '2023-01-01', 30,
                now(), now());
         insert into audit_checkpoints values (3, 1700000000000000, {hash}, {hash}, {signature});
         insert into denied_certificates (subject, reason)
            values ('chemxor://worker/worker-9', 'key lost');"
    )
}

const METERING: &str = "update reservations set settled_before = 2, bytes = 9, compute_ms = 3
    where settled_at is null;";

fn cards_and_certificates(models: &Models) -> String {
    let (live, signature) = (key(&models.approved), bytes(64));
    format!(
        "insert into cards (version, revision, card, signature) values
            ({live}, 1, 'one', {signature}), ({live}, 2, 'two', {signature});
         insert into certificates (id, subject, state, request, certificate, serial, decided_at,
            expires_at, reason) values
            (gen_random_uuid(), 'chemxor://client/lab-1', 'waiting', 'r', null, null, null, null, ''),
            (gen_random_uuid(), 'chemxor://client/lab-2', 'issued', 'r', 'c', '0a', now(), now(), ''),
            (gen_random_uuid(), 'chemxor://client/lab-3', 'refused', 'r', null, null, now(), null,
                'unknown');"
    )
}

fn conformance(models: &Models) -> String {
    let (live, signature) = (key(&models.approved), bytes(64));
    format!(
        "insert into conformance (version, report, signature, recorded_by)
         values ({live}, 'report', {signature}, 'default/paul');"
    )
}

/// A worker that was authorised after the submission.
fn later_worker(models: &Models) -> String {
    let (key, sealed) = (key(&models.shared), bytes(48));
    format!(
        "insert into placements values ({key}, 'worker-4', 0, 2, 0, 0);
         insert into sealed_keys values ({key}, 'worker-4', 0, {sealed}, {sealed});"
    )
}

/// Fills the schema as it was after a migration: an approved and a half uploaded version, workers,
/// tokens and an audit log, which every release could hold, and what came with the later ones. Gives
/// the secret of quinn's token.
pub(crate) async fn populate(connection: &mut PgConnection, after: i64, models: &Models) -> String {
    let (approved, draft) = (&models.approved, &models.draft);
    let secret = token::generate().unwrap().to_string();
    let digest = |secret: &str| token::digest(secret).unwrap().to_vec();
    if after >= 41 {
        let people = "insert into members (organisation, subject, roles) values
            ('default', 'paul', '{publisher}'), ('default', 'quinn', '{querier}'),
            ('default', 'rita', '{reviewer}')";
        sqlx::query(people).execute(&mut *connection).await.unwrap();
    }
    let organisation = if after >= 41 { ", organisation" } else { "" };
    let default = if after >= 41 { ", 'default'" } else { "" };
    for (subject, role, secret) in [
        ("paul", "publisher", token::generate().unwrap().to_string()),
        ("quinn", "querier", secret.clone()),
        ("rita", "reviewer", models.revoked_token.clone()),
    ] {
        let statement = format!(
            "insert into tokens (id, subject, roles, digest, expires_at{organisation})
             values (gen_random_uuid(), $1, array[$2], $3, now() + interval '9 days'{default})"
        );
        sqlx::query(AssertSqlSafe(statement))
            .bind(subject)
            .bind(role)
            .bind(digest(&secret))
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    let revoke = "update tokens set revoked_at = now() where subject = 'rita'";
    run(connection, revoke).await;
    sqlx::query("insert into workers (name, sealing_key, endpoint) values ('worker-1', $1, 'localhost:1'), ('worker-2', $1, 'localhost:2'), ('worker-3', $1, 'localhost:3'), ('worker-4', $1, 'localhost:4')")
        .bind(vec![1u8; 32])
        .execute(&mut *connection)
        .await
        .unwrap();
    if after >= 2 {
        let owner = if after >= 41 {
            "insert into models (name, publisher, organisation) values ('esol', 'paul', 'default')"
        } else {
            "insert into models (name, publisher) values ('esol', 'paul')"
        };
        sqlx::query(owner).execute(&mut *connection).await.unwrap();
    }
    for model in [approved, draft, &models.shared] {
        let request = &model.request;
        let version = VersionId::of(&request.manifest);
        let key = version.as_bytes().to_vec();
        sqlx::query("insert into versions (digest, name, manifest, signature, publisher_key, publisher) values ($1, 'esol', $2, $3, $4, 'paul')")
            .bind(&key)
            .bind(request.manifest.as_ref())
            .bind(request.signature.as_ref())
            .bind(request.publisher_key.as_ref())
            .execute(&mut *connection)
            .await
            .unwrap();
        for (step, blob) in (0i32..).zip(&model.blobs) {
            // the draft's upload stopped in the first blob
            let content = if std::ptr::eq(model, draft) {
                &blob[..1000]
            } else {
                &blob[..]
            };
            let complete = content.len() == blob.len();
            sqlx::query("insert into blobs (version, step, sha256, length, complete) values ($1, $2, $3, $4, $5)")
                .bind(&key)
                .bind(step)
                .bind(model.sha256(step as usize))
                .bind(blob.len() as i64)
                .bind(complete)
                .execute(&mut *connection)
                .await
                .unwrap();
            sqlx::query("insert into blob_pieces (version, sha256, start_at, content) values ($1, $2, 0, $3)")
                .bind(&key)
                .bind(model.sha256(step as usize))
                .bind(content)
                .execute(&mut *connection)
                .await
                .unwrap();
        }
        for sealed in &request.keys {
            sqlx::query("insert into sealed_keys (version, worker, step, encapsulated, ciphertext) values ($1, $2, $3, $4, $5)")
                .bind(&key)
                .bind(&sealed.worker)
                .bind(i64::from(sealed.step))
                .bind(sealed.encapsulated.as_ref())
                .bind(sealed.ciphertext.as_ref())
                .execute(&mut *connection)
                .await
                .unwrap();
        }
        for place in &request.placements {
            sqlx::query("insert into placements (version, worker, first_step, end_step) values ($1, $2, $3, $4)")
                .bind(&key)
                .bind(&place.worker)
                .bind(place.first_step as i32)
                .bind(place.end_step as i32)
                .execute(&mut *connection)
                .await
                .unwrap();
        }
    }
    let live = VersionId::of(&approved.request.manifest);
    for state in ["submitted", "approved"] {
        let statement = format!(
            "update versions set state = '{state}', approved_by = case when '{state}' = 'approved' then 'rita' end, approved_at = case when '{state}' = 'approved' then now() end where digest = $1"
        );
        sqlx::query(AssertSqlSafe(statement))
            .bind(live.as_bytes().to_vec())
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    let mut previous = [0; 32];
    for number in 1..=3 {
        let row = AuditRow {
            number,
            at_micros: 1_700_000_000_000_000 + number,
            actor: "adam".to_owned(),
            action: "token.create".to_owned(),
            object: number.to_string(),
            detail: "of a former release".to_owned(),
            hash: String::new(),
        };
        let hash = row.hash_after(&previous);
        sqlx::query("insert into audit values ($1, to_timestamp(0) + make_interval(secs => 1700000000) + $1 * interval '1 microsecond', $2, $3, $4, $5, $6, $7)")
            .bind(number)
            .bind(&row.actor)
            .bind(&row.action)
            .bind(&row.object)
            .bind(&row.detail)
            .bind(previous.to_vec())
            .bind(hash.to_vec())
            .execute(&mut *connection)
            .await
            .unwrap();
        previous = hash;
    }
    run(connection, &lifecycles(after, models)).await;
    for (since, statements) in [
        (40, shares(models)),
        (41, tenants(models)),
        (50, METERING.to_owned()),
        (60, cards_and_certificates(models)),
        (61, conformance(models)),
        (62, later_worker(models)),
    ] {
        if after >= since {
            run(connection, &statements).await;
        }
    }
    secret
}
