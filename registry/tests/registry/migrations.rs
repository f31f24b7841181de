//! The schema moves forward only: what was released never changes, and a database that a former
//! release filled comes up to date with everything in it.

use std::collections::BTreeMap;
use std::path::Path;

use chemxor_core::{AuditRow, Role, RoleSet};
use chemxor_registry::store::{Caller, Store};
use chemxor_registry::token;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::cluster::Database;
use crate::model::{Model, reference};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// SHA-256 of every migration that a release has carried out somewhere. Lines are only added.
const RELEASED: &str = include_str!("../data/migrations.sha256");

#[test]
fn released_migrations_never_change_and_new_ones_come_after_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read(&path).unwrap();
        assert!(
            text.starts_with(b"-- "),
            "{name} begins with what it is for"
        );
        files.insert(name, HEXLOWER.encode(&Sha256::digest(text)));
    }
    let mut last = "";
    for line in RELEASED.lines() {
        let (digest, name) = line.split_once("  ").unwrap();
        assert_eq!(
            files.get(name).map(String::as_str),
            Some(digest),
            "{name} was released"
        );
        assert!(last < name, "{name} is out of order");
        last = name;
    }
    // so that none is forgotten when it is released
    let pinned: Vec<&str> = RELEASED.lines().map(|line| &line[66..]).collect();
    assert!(
        files.keys().eq(pinned.iter()),
        "add the digests of new migrations: (cd migrations && sha256sum *.sql)"
    );
    assert!(files.values().all(|digest| digest.len() == 64));
}

/// What every release could hold: an approved and a half uploaded version, a worker, two tokens and
/// an audit log.
async fn populate(
    connection: &mut PgConnection,
    after: i64,
    approved: &Model,
    draft: &Model,
) -> String {
    let secret = token::generate().unwrap().to_string();
    let digest = |secret: &str| token::digest(secret).unwrap().to_vec();
    if after >= 41 {
        let people = "insert into members (organisation, subject, roles) values
            ('default', 'paul', '{publisher}'), ('default', 'quinn', '{querier}')";
        sqlx::query(people).execute(&mut *connection).await.unwrap();
    }
    let organisation = if after >= 41 { ", organisation" } else { "" };
    let default = if after >= 41 { ", 'default'" } else { "" };
    for (subject, role, secret) in [
        ("paul", "publisher", token::generate().unwrap().to_string()),
        ("quinn", "querier", secret.clone()),
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
    sqlx::query("insert into workers (name, sealing_key, endpoint) values ('worker-1', $1, 'localhost:1'), ('worker-2', $1, 'localhost:2')")
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
    for model in [approved, draft] {
        let request = &model.request;
        let version = chemxor_core::VersionId::of(&request.manifest);
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
    let live = chemxor_core::VersionId::of(&approved.request.manifest);
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
    secret
}

#[tokio::test(flavor = "multi_thread")]
async fn a_populated_database_of_every_former_schema_comes_up_to_date() {
    let versions: Vec<i64> = MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .collect();
    for former in &versions[..versions.len() - 1] {
        let database = Database::empty().await;
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        let until = MIGRATIONS
            .iter()
            .filter(|migration| migration.version <= *former);
        let until = Migrator::with_migrations(until.cloned().collect());
        until.run(&mut connection).await.unwrap();
        let (approved, draft) = (Model::new("esol", 1), Model::new("esol", 2));
        let secret = populate(&mut connection, *former, &approved, &draft).await;
        connection.close().await.unwrap();

        let store = Store::connect(&database.url).await.unwrap();
        let quinn = store.find_token(&secret).await.unwrap();
        assert_eq!(
            (&*quinn.organisation, &*quinn.subject),
            ("default", "quinn")
        );
        let exact = reference("esol", &approved.version()).parse().unwrap();
        let session = store.authorize_session(&secret, &exact).await.unwrap();
        assert_eq!(session.version.manifest, approved.request.manifest);
        assert_eq!(session.placements.len(), 2, "{former}");
        let version = approved.version().parse().unwrap();
        let piece = store
            .read_piece("worker-1", &version, &approved.sha256(0), 0)
            .await;
        assert_eq!(piece.unwrap().unwrap(), approved.blobs[0]);
        let worker = "worker-2".parse().unwrap();
        let assigned = store.assignments(&worker).await.unwrap();
        assert!(assigned.iter().any(|one| one.version == approved.version()));
        // the upload that stopped goes on
        let paul = Caller::new("default", "paul", RoleSet::new([Role::Publisher]));
        let (id, sha256) = (draft.version().parse().unwrap(), draft.sha256(0));
        let rest = &draft.blobs[0][1000..];
        store
            .append_piece(&paul, &id, &sha256, 1000, rest)
            .await
            .unwrap();
        let missing = store.missing_blobs(&id).await.unwrap();
        assert_eq!((missing.len(), missing[0].offset), (1, 1000));
        assert_eq!(store.verify_audit().await.unwrap(), Ok(3), "{former}");
        // what came later works on it
        let order = chemxor_registry::store::ReservationOrder::new(
            uuid::Uuid::now_v7(),
            version,
            quinn.id,
            5,
        );
        assert_eq!(store.reserve_queries(&order).await.unwrap().queries, 5);
        store.close().await;
    }
}
