//! Connections to the database that a firewall has cut: nothing comes any more, and no error either.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chemxor_core::{ErrorId, Role, RoleSet};
use chemxor_proto::v1;
use chemxor_registry::store::Store;
use futures::future::join_all;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::availability::Registry;
use crate::cluster::Database;
use crate::platform::{DAY, id};

/// The file of PostgreSQL's socket in its folder.
const SOCKET: &str = ".s.PGSQL.5432";
/// Long before what is remembered ends by itself, after 30 s.
const SOON: Duration = Duration::from_secs(15);
/// Connections of a store's pool.
const POOL: usize = 16;
/// How long a caller waits for an answer, and how often it asks: fewer times than there are connections.
const ATTEMPTS: (usize, Duration) = (4, Duration::from_secs(3));

/// Stands between a store and its database.
struct Wall {
    url: String,
    rules: Arc<Rules>,
    _folder: TempDir,
}

/// What it lets pass.
#[derive(Default)]
struct Rules {
    /// Whether nothing comes back over connections that listen to changes.
    silent: AtomicBool,
    /// Connections so far.
    count: AtomicUsize,
    /// Nothing passes over so many of the first connections, ever.
    cut: AtomicUsize,
}

impl Wall {
    fn start(database: &Database) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (server, host) = database.url.split_once("host=").unwrap();
        let far: PathBuf = [&host.replace("%2F", "/"), SOCKET].iter().collect();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let rules = Arc::new(Rules::default());
        let shared = rules.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = UnixStream::connect(&far).await.unwrap();
                tokio::spawn(pass(near, far, shared.clone()));
            }
        });
        let host = folder.path().display().to_string().replace('/', "%2F");
        Self {
            url: format!("{server}host={host}"),
            rules,
            _folder: folder,
        }
    }

    /// Connections so far.
    fn connections(&self) -> usize {
        self.rules.count.load(Ordering::SeqCst)
    }

    /// Cuts every connection, and those to come.
    fn cut(&self) {
        self.rules.cut.store(usize::MAX, Ordering::SeqCst);
    }

    /// Lets new connections pass; what was cut stays so.
    fn open(&self) {
        self.rules.cut.store(self.connections(), Ordering::SeqCst);
    }
}

/// Passes on what the rules let pass. Of a connection that is cut neither end hears that the other one
/// has gone.
async fn pass(near: UnixStream, far: UnixStream, rules: Arc<Rules>) {
    let number = rules.count.fetch_add(1, Ordering::SeqCst);
    let is_cut = || number < rules.cut.load(Ordering::SeqCst);
    let (mut from_store, mut to_store) = near.into_split();
    let (mut from_database, mut to_database) = far.into_split();
    let listens = AtomicBool::new(false);
    let upward = async {
        let mut buffer = [0; 1 << 14];
        while let Ok(count @ 1..) = from_store.read(&mut buffer).await {
            let listen = buffer[..count].windows(6).any(|text| text == b"LISTEN");
            listens.fetch_or(listen, Ordering::SeqCst);
            if !is_cut() && to_database.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        match is_cut() {
            true => pending().await,
            // an error says that the database has gone first
            false => drop(to_database.shutdown().await),
        }
    };
    let downward = async {
        let mut buffer = [0; 1 << 14];
        while let Ok(count @ 1..) = from_database.read(&mut buffer).await {
            let is_silent = rules.silent.load(Ordering::SeqCst) && listens.load(Ordering::SeqCst);
            let passes = !is_cut() && !is_silent;
            if passes && to_store.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        match is_cut() {
            true => pending().await,
            // an error says that the store has gone first
            false => drop(to_store.shutdown().await),
        }
    };
    tokio::join!(upward, downward);
}

/// Asks until there is an answer, a few times.
async fn answers_again(store: &Store) {
    let (attempts, patience) = ATTEMPTS;
    for _ in 0..attempts {
        if let Ok(Ok(_)) = timeout(patience, store.placement_view()).await {
            return;
        }
    }
    panic!("no answer in {attempts} attempts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_cannot_hear_of_changes_remembers_nothing() {
    let database = Database::create().await;
    let wall = Wall::start(&database);
    let store = Store::connect(&wall.url).await.unwrap();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(store.follow_rights(stop));
    let roles = RoleSet::new([Role::Querier]);
    let token = store.create_token("test", "quinn", &roles, DAY);
    let secret = token.await.unwrap().secret;
    let is_valid = || async { store.find_token(&secret).await.is_ok() };
    // changes of which the database tells nobody, so that what is remembered shows
    let untold = "alter table organisations disable trigger organisations_tell";
    database.execute(untold).await.unwrap();
    let remembered = async {
        loop {
            assert!(is_valid().await);
            let suspend = "update organisations set suspended_at = now()";
            database.execute(suspend).await.unwrap();
            if is_valid().await {
                return;
            }
            // it did not listen yet
            let resume = "update organisations set suspended_at = null";
            database.execute(resume).await.unwrap();
        }
    };
    let remembered = timeout(SOON, remembered).await;
    remembered.expect("answers are remembered while changes are heard of");

    wall.rules.silent.store(true, Ordering::SeqCst);
    let noticed = async {
        while is_valid().await {
            tokio::task::yield_now().await;
        }
    };
    let noticed = timeout(SOON, noticed).await;
    noticed.expect("a registry that hears nothing asks the database again");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_that_were_cut_cost_one_call_at_most() {
    let database = Database::create().await;
    let wall = Wall::start(&database);
    let store = Store::connect(&wall.url).await.unwrap();
    let filled = async {
        // one more upgraded the schema
        while wall.connections() <= POOL {
            join_all((0..POOL).map(|_| store.placement_view())).await;
        }
    };
    timeout(SOON, filled).await.expect("the pool is full");
    wall.cut();
    wall.open();
    answers_again(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_were_cut_keep_neither_places_in_the_pool_nor_locks() {
    let database = Database::create().await;
    let wall = Wall::start(&database);
    let store = Store::connect(&wall.url).await.unwrap();
    // every call waits for the database
    let mut holder = PgConnection::connect(&database.url).await.unwrap();
    let hold = "begin; lock table versions in access exclusive mode";
    sqlx::raw_sql(hold).execute(&mut holder).await.unwrap();
    let call = |_| {
        let store = store.clone();
        tokio::spawn(async move { store.placement_view().await })
    };
    let calls: Vec<_> = (0..POOL).map(call).collect();
    let waiting = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    let all_wait = async { while database.number(waiting).await < POOL as i64 {} };
    timeout(SOON, all_wait).await.expect("the calls wait");

    wall.cut();
    // what comes now is lost, and the callers go away
    sqlx::raw_sql("rollback")
        .execute(&mut holder)
        .await
        .unwrap();
    calls.iter().for_each(|call| call.abort());
    join_all(calls).await;
    wall.open();
    answers_again(&store).await;

    // their transactions are under way still, as far as the database knows
    let lock = "begin; lock table versions in access exclusive mode; commit";
    let locked = timeout(2 * SOON, database.execute(lock)).await;
    locked.expect("the locks are given up").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_when_the_database_is_silent() {
    let database = Database::create().await;
    let wall = Wall::start(&database);
    let registry = Registry::start(wall.url.clone()).await;
    let mut control = registry.gateway().await;
    let request = v1::WatchPlacementsRequest::default;
    let watch = control.watch_placements(request()).await;
    let mut views = watch.unwrap().into_inner();
    assert!(views.message().await.unwrap().is_some(), "the first view");

    wall.cut();
    let ended = timeout(SOON, views.message()).await;
    let ended = ended.expect("the watch ends").unwrap_err();
    assert_eq!(id(&ended), ErrorId::StorageUnavailable);
    wall.open();
    let (attempts, patience) = ATTEMPTS;
    let mut opened = None;
    for _ in 0..attempts {
        let watch = control.watch_placements(request());
        if let Ok(Ok(watch)) = timeout(patience, watch).await {
            opened = Some(watch.into_inner());
            break;
        }
    }
    let mut views = opened.expect("it opens again");
    assert!(views.message().await.unwrap().is_some(), "a first view");
    registry.stop.cancel();
    registry.running.wait().await.unwrap();
}
