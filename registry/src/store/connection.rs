//! Where the database is, and that the way there is safe: what leaves this machine travels in TLS
//! with the server's certificate and name verified, or the registry does not start. sqlx's own
//! default (`prefer`) would fall back to plain text without a word.
//!
//! And when a connection is given up. One that a firewall has cut, or whose other end has vanished, says
//! nothing for ever, and TCP takes a quarter of an hour to find out; sqlx can set no limit of the socket.
//! So each end asks or waits for a bounded time: the pool before it hands a connection out and when it
//! takes it back, PostgreSQL for the next statement of a transaction.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use crate::RegistryError;

/// Connections of one registry.
const CONNECTIONS: u32 = 16;
/// How long a call waits for a free connection.
const ACQUIRE: Duration = Duration::from_secs(5);
/// A connection that was asked so short a time ago is handed out without asking, so that under load each
/// call still costs two questions.
const FRESH: Duration = Duration::from_millis(100);
/// How long an idle connection may take to say that it is there: half of what the readiness probe waits.
const IDLE: Duration = Duration::from_secs(1);
/// The same for one that comes back, which may be busy with a statement that its caller gave up.
const BACK: Duration = Duration::from_secs(2);

/// Settings of every connection. All statements are short: starting a parallel worker would take longer
/// than what it saves. A transaction waits for nothing but its own statements, so one that is idle has
/// lost its registry, and others wait for what it has locked. A session that has lost it takes a place
/// on the server.
const SESSION: &str = "set statement_timeout = '20s'; set max_parallel_workers_per_gather = 0;
    set idle_in_transaction_session_timeout = '10s';
    set tcp_keepalives_idle = 60; set tcp_keepalives_interval = 10; set tcp_keepalives_count = 6";

/// The pool's limits and questions.
pub(super) fn pool() -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE)
        .after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SESSION).execute(connection).await.map(drop) })
        })
        // its own question has no deadline: the caller's would be spent on it
        .test_before_acquire(false)
        .before_acquire(|connection, known| {
            Box::pin(async move {
                match known.idle_for < FRESH {
                    true => Ok(true),
                    false => answers(connection, IDLE).await,
                }
            })
        })
        // before its own question, which has no deadline and keeps the place in the pool meanwhile
        .after_release(|connection, _| Box::pin(answers(connection, BACK)))
}

/// Whether a connection is there. An error and not `false` when it is not: then it is closed without a
/// farewell.
async fn answers(connection: &mut PgConnection, within: Duration) -> Result<bool, sqlx::Error> {
    match timeout(within, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(silent()),
    }
}

/// The error of a database that does not answer in time.
pub(crate) fn silent() -> sqlx::Error {
    let reason = "the database does not answer";
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, reason))
}

/// The options of a URL, or why it is refused.
pub(super) fn options(url: &str) -> Result<PgConnectOptions, RegistryError> {
    let options: PgConnectOptions = url.parse()?;
    let host = options.get_host();
    let local = options.get_socket().is_some() || host.starts_with('/') || is_loopback(host);
    if local || matches!(options.get_ssl_mode(), PgSslMode::VerifyFull) {
        return Ok(options);
    }
    let reason = format!(
        "the database at {host} would be reached without verified TLS; add `sslmode=verify-full` and \
         `sslrootcert=/path/of/the/database/ca.pem` to `database_url`, or use a unix socket"
    );
    Err(sqlx::Error::Configuration(reason.into()).into())
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::options;

    #[test]
    fn another_machine_is_reached_with_verified_tls_only() {
        for url in [
            "postgres://cx@db.internal/cx",
            "postgres://cx@db.internal/cx?sslmode=disable",
            "postgres://cx@db.internal/cx?sslmode=prefer",
            "postgres://cx@db.internal/cx?sslmode=require",
            "postgres://cx@db.internal/cx?sslmode=verify-ca&sslrootcert=/etc/ca.pem",
            "postgres://cx@10.0.0.7/cx",
            "postgres://cx@[2001:db8::7]/cx",
            "postgres://cx@localhost/cx?host=db.internal",
            "postgres://cx@localhost.example.org/cx",
        ] {
            let refused = options(url).unwrap_err().to_string();
            assert!(refused.contains("sslmode=verify-full"), "{url}: {refused}");
            assert!(refused.contains("sslrootcert="), "{url}: {refused}");
        }
        let verified = "postgres://cx@db.internal/cx?sslmode=verify-full&sslrootcert=/etc/ca.pem";
        options(verified).unwrap();
    }

    #[test]
    fn a_socket_and_loopback_stay_on_this_machine() {
        for url in [
            "postgres://cx@localhost/cx",
            "postgres://cx@127.0.0.1/cx",
            "postgres://cx@[::1]:5433/cx?sslmode=disable",
            "postgres://cx@localhost/cx?host=/run/postgresql",
            "postgres://cx@%2Frun%2Fpostgresql/cx",
        ] {
            options(url).unwrap();
        }
    }

    #[test]
    fn a_refusal_holds_no_password() {
        let refused = options("postgres://cx:sesame@db.internal/cx").unwrap_err();
        assert!(!refused.to_string().contains("sesame"), "{refused}");
    }
}
