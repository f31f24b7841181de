//! Where the database is, and that the way there is safe: what leaves this machine travels in TLS
//! with the server's certificate and name verified, or the registry does not start. sqlx's own
//! default (`prefer`) would fall back to plain text without a word.

use std::net::IpAddr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::RegistryError;

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
