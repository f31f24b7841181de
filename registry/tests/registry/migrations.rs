//! The schema moves forward only: what was released never changes, and a database that a former
//! release filled comes up to date with everything in it.

use std::collections::BTreeMap;
use std::path::Path;

use chemxor_core::{ErrorId, Role, RoleSet};
use chemxor_registry::store::{Caller, Store, Visibility};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::cluster::Database;
use crate::former::{self, Models};
use crate::model::reference;

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

/// What came with organisations and later, read through the store.
async fn read_back(store: &Store, after: i64, models: &Models) {
    let adam = Caller::new("default", "adam", RoleSet::new([Role::Admin]));
    let name = |text: &str| text.parse().unwrap();
    let esol = name("esol");
    let states = [
        (&models.approved, "approved"),
        (&models.draft, "draft"),
        (&models.deprecated, "deprecated"),
        (&models.revoked, "revoked"),
    ];
    for (model, state) in states {
        let exact = reference("esol", &model.version()).parse().unwrap();
        let row = store.find_version(&adam, &exact).await.unwrap();
        assert_eq!(row.state.as_str(), state, "{after}");
        assert_eq!(row.manifest, model.request.manifest);
        let sunset = after >= 41 && state == "deprecated";
        assert_eq!(row.is_past_sunset, sunset, "{after}");
    }
    let refused = store.find_token(&models.revoked_token).await.unwrap_err();
    assert_eq!(refused.id(), ErrorId::TokenRefused);
    let members = store.list_members(&adam, "default").await.unwrap();
    let quinn = members.iter().find(|member| member.subject == "quinn");
    assert_eq!(quinn.unwrap().roles, ["querier"], "{after}");
    let visibility = store.visibility(&adam, &esol).await.unwrap();
    if after < 41 {
        // as it was: there was nobody who could not see it
        assert_eq!(visibility, Visibility::Everyone);
        return;
    }
    assert_eq!(visibility, Visibility::Private);
    let removed: Vec<&str> = members
        .iter()
        .filter(|member| member.removed)
        .map(|member| &*member.subject)
        .collect();
    assert_eq!(removed, ["left"]);
    let organisations = store.list_organisations(&adam).await.unwrap();
    let organisations: Vec<_> = organisations
        .iter()
        .map(|row| (&*row.name, row.suspended))
        .collect();
    let expected = [("acme", false), ("default", false), ("gone", true)];
    assert_eq!(organisations, expected);
    let friends = ["acme", "default"].map(str::to_owned).to_vec();
    let consortia = store.list_consortia(&adam).await.unwrap();
    assert_eq!(consortia, [("friends".to_owned(), friends)]);
    let listed = store.visibility(&adam, &name("logd")).await.unwrap();
    assert_eq!(listed, Visibility::Listed(vec!["acme".to_owned()]));
    let shown = store.visibility(&adam, &name("herg")).await.unwrap();
    assert_eq!(shown, Visibility::Consortium("friends".to_owned()));

    let stable = "stable".parse().unwrap();
    let moves = store.alias_history(&adam, &esol, &stable).await.unwrap();
    let moves: Vec<_> = moves.iter().map(|change| change.to.to_string()).collect();
    let expected = [models.approved.version(), models.deprecated.version()];
    assert_eq!(moves, expected);
    let back = store.rollback_alias(&adam, &esol, &stable).await.unwrap();
    assert_eq!(back.to.to_string(), models.deprecated.version());

    // five queries were reserved since; of the ten that were under way four are answered
    let (quotas, usage) = store.list_quotas(&adam, &esol).await.unwrap();
    let limits: Vec<_> = quotas
        .iter()
        .map(|quota| (&*quota.organisation, quota.queries_per_day))
        .collect();
    assert_eq!(limits, [("*", Some(1000)), ("acme", Some(7))]);
    assert_eq!((usage[0].lifetime_queries, usage[0].queries_today), (45, 5));
    let open = Uuid::from_u128(former::OPEN);
    for _ in 0..2 {
        store.settle_queries(open, 4, 9, 3).await.unwrap();
    }
    let (_, usage) = store.list_quotas(&adam, &esol).await.unwrap();
    assert_eq!((usage[0].lifetime_queries, usage[0].queries_today), (39, 5));

    let shared = models.shared.version().parse().unwrap();
    let places = store.placements(&shared).await.unwrap();
    let mut groups: Vec<_> = places
        .iter()
        .map(|place| (&*place.worker, place.first_group, place.end_group))
        .collect();
    groups.sort_unstable();
    let expected = [
        ("worker-1", 0, 2),
        ("worker-2", 0, 0),
        ("worker-3", 2, 4),
        ("worker-4", 0, 0),
    ];
    let expected = &expected[..if after >= 62 { 4 } else { 3 }];
    assert_eq!(groups, expected, "{after}");
    let denied = store.require_certificate("chemxor://worker/worker-9", "0a");
    assert!(denied.await.is_err(), "{after}");
    if after >= 60 {
        let card = store.card(&adam, &"esol".parse().unwrap()).await.unwrap();
        assert_eq!((card.revision, &card.card[..]), (2, &b"two"[..]));
        let waiting = store.list_certificates(&adam, true).await.unwrap();
        assert_eq!(waiting.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_populated_database_of_every_former_schema_comes_up_to_date() {
    let versions: Vec<i64> = MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .collect();
    for after in &versions[..versions.len() - 1] {
        let database = Database::empty().await;
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        let until = MIGRATIONS
            .iter()
            .filter(|migration| migration.version <= *after);
        let until = Migrator::with_migrations(until.cloned().collect());
        until.run(&mut connection).await.unwrap();
        let models = Models::new();
        let (approved, draft) = (&models.approved, &models.draft);
        let secret = former::populate(&mut connection, *after, &models).await;
        let before = former::counts(&mut connection).await;
        let empty = before.iter().find(|(_, rows)| **rows == 0);
        assert_eq!(empty, None, "fill it, from release {after} on");

        let store = Store::connect(&database.url).await.unwrap();
        let mut survived = former::counts(&mut connection).await;
        connection.close().await.unwrap();
        survived.retain(|table, _| before.contains_key(table));
        assert_eq!(survived, before, "{after}");
        let quinn = store.find_token(&secret).await.unwrap();
        assert_eq!(
            (&*quinn.organisation, &*quinn.subject),
            ("default", "quinn")
        );
        let exact = reference("esol", &approved.version()).parse().unwrap();
        let session = store.authorize_session(&secret, &exact).await.unwrap();
        assert_eq!(session.version.manifest, approved.request.manifest);
        assert_eq!(session.placements.len(), 2, "{after}");
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
        assert_eq!(store.verify_audit().await.unwrap(), Ok(3), "{after}");
        // what came later works on it
        let order =
            chemxor_registry::store::ReservationOrder::new(Uuid::now_v7(), version, quinn.id, 5);
        assert_eq!(store.reserve_queries(&order).await.unwrap().queries, 5);
        read_back(&store, *after, &models).await;
        store.close().await;
    }
}
