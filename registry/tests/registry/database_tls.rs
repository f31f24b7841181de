//! The way to the database: a real PostgreSQL that serves TLS.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use chemxor_registry::store::Store;
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::postgres::{Durability, LocalCluster};
use sqlx::{Connection, PgConnection};

/// A file that the server's user owns, closed to others.
fn write_for_server(path: &Path, content: &str, cluster: &LocalCluster) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let owner = std::fs::metadata(cluster.folder()).unwrap();
    std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_verified_by_its_authority_and_its_name() {
    let folder = tempfile::Builder::new()
        .prefix("cxtls")
        .tempdir_in("/tmp")
        .unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (ours, foreign) = (folder.path().join("ours"), folder.path().join("foreign"));
    let authority = DevAuthority::create_or_load(&ours).unwrap();
    DevAuthority::create_or_load(&foreign).unwrap();
    // its names are localhost, 127.0.0.1 and ::1
    let files = authority
        .issue_to(&Subject::Registry, &ours, "database")
        .unwrap();
    let place = folder.path().join("pg");
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let server = tokio::task::spawn_blocking(move || {
        let cluster = LocalCluster::start(&place, Durability::None).unwrap();
        cluster.stop().unwrap();
        let (cert, key) = (
            cluster.folder().join("tls.pem"),
            cluster.folder().join("tls.key"),
        );
        for (from, to) in [(&files.cert, &cert), (&files.key, &key)] {
            write_for_server(to, &std::fs::read_to_string(from).unwrap(), &cluster);
        }
        let port = port.to_string();
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        let settings = [
            ("listen_addresses", "127.0.0.1,127.0.0.2"),
            ("port", port.as_str()),
            ("ssl", "on"),
            ("ssl_cert_file", cert.as_str()),
            ("ssl_key_file", key.as_str()),
        ];
        cluster.start_with(Durability::None, &settings).unwrap();
        cluster
    })
    .await
    .unwrap();
    let url = |host: &str, root: &Path| {
        let root = root.join("ca.pem").display().to_string();
        format!("postgres://chemxor@{host}:{port}/postgres?sslmode=verify-full&sslrootcert={root}")
    };

    let good = url("127.0.0.1", &ours);
    Store::connect(&good).await.unwrap().close().await;
    let mut connection = PgConnection::connect(&good).await.unwrap();
    let encrypted: bool =
        sqlx::query_scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert!(encrypted);
    connection.close().await.unwrap();

    for (wrong, why) in [
        (url("127.0.0.1", &foreign), "an authority that did not sign"),
        (url("127.0.0.2", &ours), "a name that the certificate lacks"),
    ] {
        let refused = Store::connect(&wrong).await.unwrap_err().to_string();
        assert!(refused.contains("certificate"), "{why}: {refused}");
    }
    drop(server);
}
