//! A connection to the database that a firewall has cut: nothing comes any more, and no error either.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chemxor_core::{Role, RoleSet};
use chemxor_registry::store::Store;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::cluster::Database;
use crate::platform::DAY;

/// The file of PostgreSQL's socket in its folder.
const SOCKET: &str = ".s.PGSQL.5432";
/// Long before what is remembered ends by itself, after 30 s.
const SOON: Duration = Duration::from_secs(15);

/// Stands between a store and its database.
struct Wall {
    url: String,
    silent: Arc<AtomicBool>,
    _folder: TempDir,
}

impl Wall {
    fn start(database: &Database) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (server, host) = database.url.split_once("host=").unwrap();
        let far: PathBuf = [&host.replace("%2F", "/"), SOCKET].iter().collect();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let silent = Arc::new(AtomicBool::new(false));
        let shared = silent.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = UnixStream::connect(&far).await.unwrap();
                tokio::spawn(pass(near, far, shared.clone()));
            }
        });
        let host = folder.path().display().to_string().replace('/', "%2F");
        Self {
            url: format!("{server}host={host}"),
            silent,
            _folder: folder,
        }
    }
}

/// Passes everything on; of a connection that listens to changes nothing comes back while it is silent.
async fn pass(near: UnixStream, far: UnixStream, silent: Arc<AtomicBool>) {
    let (mut from_store, mut to_store) = near.into_split();
    let (mut from_database, mut to_database) = far.into_split();
    let listens = Arc::new(AtomicBool::new(false));
    let heard = listens.clone();
    let upward = async move {
        let mut buffer = [0; 1 << 14];
        while let Ok(count @ 1..) = from_store.read(&mut buffer).await {
            let listen = buffer[..count].windows(6).any(|text| text == b"LISTEN");
            heard.fetch_or(listen, Ordering::SeqCst);
            if to_database.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    let downward = async move {
        let mut buffer = [0; 1 << 14];
        while let Ok(count @ 1..) = from_database.read(&mut buffer).await {
            let cut = silent.load(Ordering::SeqCst) && listens.load(Ordering::SeqCst);
            if !cut && to_store.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(upward, downward);
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
    let remembered = tokio::time::timeout(SOON, remembered).await;
    remembered.expect("answers are remembered while changes are heard of");

    wall.silent.store(true, Ordering::SeqCst);
    let noticed = async {
        while is_valid().await {
            tokio::task::yield_now().await;
        }
    };
    let noticed = tokio::time::timeout(SOON, noticed).await;
    noticed.expect("a registry that hears nothing asks the database again");
}
