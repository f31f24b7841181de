//! `doctor`: the usual reasons why nothing works, each with its fix.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use chemxor_client::health::{self, Health};
use chemxor_client::{catalog, files};
use chemxor_core::{Action, Role, allowed};
use chemxor_proto::PROTOCOL_VERSION;
use chemxor_runtime::postgres;
use chemxor_runtime::tls::TlsFiles;
use indicatif::HumanBytes;
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use serde_json::json;
use x509_parser::pem::parse_x509_pem;

use crate::args::Format;
use crate::home::{Home, LOCAL, Profile};
use crate::output::{self, Ended};

/// How far clocks may be apart; certificates forgive five minutes.
const CLOCK: Duration = Duration::from_secs(60);
/// A certificate that ends sooner is worth a warning.
const SOON: i64 = 7 * 86_400;
/// Free bytes that a platform needs, and that are comfortable.
const DISK: [u64; 2] = [100 << 20, 1 << 30];
/// The role that most profiles have a token for.
const QUERIER: &str = "querier";
/// The fix for a profile with no token that may read the catalogue.
const NO_READER: &str = "ask an administrator for a token with the role querier, and add it under [tokens] in profile.toml: querier = \"FILE\"";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// What to do; empty when all is well.
    fix: String,
}

/// The checks so far.
#[derive(Default)]
struct Report(Vec<Check>);

impl Report {
    fn add(
        &mut self,
        name: &'static str,
        state: State,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let (found, fix) = (found.into(), fix.into());
        self.0.push(Check {
            name,
            state,
            found,
            fix,
        });
    }

    fn ok(&mut self, name: &'static str, found: impl Into<String>) {
        self.add(name, State::Ok, found, "");
    }

    fn failed(&mut self, name: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        self.add(name, State::Failed, found, fix);
    }
}

pub(crate) async fn run(home: &Home, format: Format) -> Result<()> {
    let mut report = Report::default();
    folder(home, &mut report);
    disk(home, &mut report);
    keys(home, &mut report);
    database_programs(home, &mut report);
    match home.profile() {
        Err(error) => {
            let fix =
                "start a platform here with `chemxor up`, or add yours with `chemxor profiles add`";
            report.failed("profile", format!("{error:#}"), fix);
        }
        Ok((folder, profile)) => {
            report.ok(
                "profile",
                format!(
                    "{}: registry {}, gateway {}",
                    home.profile_name(),
                    profile.registry,
                    profile.gateway
                ),
            );
            certificates(&folder, &profile, &mut report);
            tokens(&folder, &profile, &mut report);
            services(home, &folder, &profile, &mut report).await;
        }
    }
    let failed = report
        .0
        .iter()
        .filter(|check| check.state == State::Failed)
        .count();
    let value = json!({ "healthy": failed == 0, "checks": report.0 });
    output::print(format, &value, || {
        for check in &report.0 {
            let mark = match check.state {
                State::Ok => "ok     ",
                State::Warning => "warning",
                State::Failed => "FAILED ",
            };
            say!("{mark}  {:12}  {}", check.name, check.found);
            if !check.fix.is_empty() {
                say!("         fix: {}", check.fix);
            }
        }
    })?;
    if failed > 0 {
        return Err(Ended(1).into());
    }
    Ok(())
}

fn folder(home: &Home, report: &mut Report) {
    let folder = home.folder();
    let probe = folder.join(format!(".doctor-{}", std::process::id()));
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&probe, b""));
    let _ = std::fs::remove_file(&probe);
    match written {
        Ok(()) => report.ok("home", folder.display().to_string()),
        Err(error) => {
            let fix = format!(
                "make {} writable for you, or choose another folder with --home or CHEMXOR_HOME",
                folder.display()
            );
            report.failed("home", format!("{}: {error}", folder.display()), fix);
        }
    }
}

fn disk(home: &Home, report: &mut Report) {
    let Ok(found) = statvfs(home.folder()) else {
        return; // the check of the folder has failed
    };
    let free = found
        .blocks_available()
        .saturating_mul(found.fragment_size());
    let text = format!("{} free", HumanBytes(free));
    let fix = format!("make room on the disk of {}", home.folder().display());
    match free {
        free if free < DISK[0] => report.failed("disk", text, fix),
        free if free < DISK[1] => report.add("disk", State::Warning, text, fix),
        _ => report.ok("disk", text),
    }
}

fn keys(home: &Home, report: &mut Report) {
    let listed = home.keyring().and_then(|ring| Ok(ring.list()?));
    match listed {
        Ok(keys) if keys.is_empty() => report.ok("keys", "none yet; the first query makes one"),
        Ok(keys) => {
            let open: Vec<&str> = keys
                .iter()
                .filter(|(_, info)| !info.encrypted)
                .map(|(name, _)| name.as_str())
                .collect();
            let text = format!("{} in the keyring", keys.len());
            if open.is_empty() {
                report.ok("keys", text);
            } else {
                let found = format!("{text}; without a passphrase: {}", open.join(", "));
                report.add(
                    "keys",
                    State::Warning,
                    found,
                    format!("`chemxor keys passphrase {}`", open[0]),
                );
            }
        }
        // the keyring's own errors say what to do
        Err(error) => report.failed("keys", format!("{error:#}"), "do what the message says"),
    }
}

fn database_programs(home: &Home, report: &mut Report) {
    if home.profile_name() != LOCAL {
        return;
    }
    match postgres::installed() {
        Some(folder) => report.ok("postgresql", folder.display().to_string()),
        None => report.failed(
            "postgresql",
            "initdb and pg_ctl were not found in $PG_BIN, on PATH or under /usr/lib/postgresql",
            "`apt-get install postgresql`, or pass --database-url to `chemxor up`",
        ),
    }
}

fn certificates(folder: &Path, profile: &Profile, report: &mut Report) {
    let renew =
        "ask the operator for a new certificate; `chemxor up` makes new ones at every start";
    let mut soonest: Option<(i64, PathBuf)> = None;
    for file in [&profile.ca, &profile.cert] {
        let path = folder.join(file);
        match validity(&path) {
            Err(reason) => {
                report.failed(
                    "certificate",
                    format!("{}: {reason}", path.display()),
                    renew,
                );
                return;
            }
            Ok((from, until)) => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |time| time.as_secs() as i64);
                if now < from {
                    let found = format!(
                        "{} is valid from {} on only",
                        path.display(),
                        output::date(from as u64)
                    );
                    report.failed(
                        "certificate",
                        found,
                        "set this machine's clock: `timedatectl set-ntp true`",
                    );
                    return;
                }
                let left = until - now;
                if soonest.as_ref().is_none_or(|(soonest, _)| left < *soonest) {
                    soonest = Some((left, path));
                }
            }
        }
    }
    let Some((left, path)) = soonest else {
        return;
    };
    let until = output::date(
        (SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs() as i64)
            + left)
            .max(0) as u64,
    );
    let text = format!("{} is valid until {until}", path.display());
    match left {
        ..0 => report.failed(
            "certificate",
            format!("{} has ended on {until}", path.display()),
            renew,
        ),
        0..SOON => report.add("certificate", State::Warning, text, renew),
        _ => report.ok("certificate", text),
    }
    let key = folder.join(&profile.key);
    match files::read_secret(&key, 64 << 10) {
        Ok(_) => {}
        Err(error) => report.failed(
            "certificate",
            error.to_string(),
            format!("`chmod 600 {}`", key.display()),
        ),
    }
}

/// Seconds since 1970 from and until which a certificate is valid.
fn validity(path: &Path) -> std::result::Result<(i64, i64), String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let (_, pem) = parse_x509_pem(&bytes).map_err(|_| "is no PEM file".to_owned())?;
    let cert = pem
        .parse_x509()
        .map_err(|_| "is no certificate".to_owned())?;
    let validity = cert.validity();
    Ok((
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    ))
}

fn tokens(folder: &Path, profile: &Profile, report: &mut Report) {
    for (role, file) in &profile.tokens {
        let path = folder.join(file);
        if let Err(error) = files::read_secret(&path, 4096) {
            let open =
                std::fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
            let fix = if open {
                format!("`chmod 600 {}`", path.display())
            } else {
                format!("ask an administrator for a token with the role {role}, and write it there")
            };
            report.failed("token", error.to_string(), fix);
            return;
        }
    }
    let roles: Vec<&str> = profile.tokens.keys().map(String::as_str).collect();
    match roles[..] {
        [] => report.failed(
            "token",
            "the profile has none",
            "add one under [tokens] in profile.toml: querier = \"FILE\"",
        ),
        _ => report.ok("token", format!("for {}", roles.join(", "))),
    }
}

async fn services(home: &Home, folder: &Path, profile: &Profile, report: &mut Report) {
    // no token is needed to ask a service how it is
    let tls = TlsFiles {
        ca: folder.join(&profile.ca),
        cert: folder.join(&profile.cert),
        key: folder.join(&profile.key),
    };
    let start = if home.profile_name() == LOCAL {
        "start the platform with `chemxor up`".to_owned()
    } else {
        "ask the operator whether it runs; check address, firewall and certificate".to_owned()
    };
    for (name, address) in [
        ("registry", &profile.registry),
        ("gateway", &profile.gateway),
    ] {
        match health::check(address, &tls).await {
            Err(error) => report.failed(name, error.to_string(), start.clone()),
            Ok(health) => one_service(name, address, &health, report),
        }
    }
    if report
        .0
        .iter()
        .any(|check| check.name == "registry" && check.state == State::Ok)
    {
        database(home, profile, report).await;
    }
}

fn one_service(name: &'static str, address: &str, health: &Health, report: &mut Report) {
    let elapsed = health.elapsed.as_secs_f64() * 1e3;
    if health.serving {
        report.ok(
            name,
            format!("{address} answers over mutual TLS 1.3 in {elapsed:.0} ms"),
        );
    } else {
        let fix = "it is starting or stopping: try again in a moment";
        report.add(
            name,
            State::Warning,
            format!("{address} answers but takes no calls"),
            fix,
        );
    }
    let ours = env!("CARGO_PKG_VERSION");
    match (&health.version, health.protocol) {
        (Some(theirs), Some(protocol)) if protocol != PROTOCOL_VERSION => {
            let (older, newer) = if protocol < PROTOCOL_VERSION {
                (name, "this client")
            } else {
                ("this client", name)
            };
            let found = format!(
                "{name} is release {theirs} with protocol {protocol}, this client {ours} with {PROTOCOL_VERSION}"
            );
            report.failed(
                "version",
                found,
                format!("upgrade {older}: {newer} is ahead"),
            );
        }
        (Some(theirs), _) => report.ok(
            "version",
            format!("{name} {theirs}, this client {ours}, protocol {PROTOCOL_VERSION}"),
        ),
        (None, _) => report.add(
            "version",
            State::Warning,
            format!("{name} does not name its release"),
            "upgrade it",
        ),
    }
    match health.clock {
        Some((apart, ahead)) if apart > CLOCK => {
            let way = if ahead { "behind" } else { "ahead of" };
            let found = format!("this machine is {} s {way} the {name}", apart.as_secs());
            report.failed("clock", found, "set the clock: `timedatectl set-ntp true`");
        }
        Some((apart, _)) => report.ok(
            "clock",
            format!("within {} s of the {name}", apart.as_secs() + 1),
        ),
        None => {}
    }
}

/// The role whose token reads the catalogue: the querier's where the profile has one, else the first
/// that may.
fn reader(profile: &Profile) -> Option<&str> {
    let may_read = |name: &&str| {
        let role = name.parse::<Role>();
        role.is_ok_and(|role| allowed(role, Action::ReadCatalogue))
    };
    let names = profile.tokens.keys().map(String::as_str);
    names.filter(may_read).min_by_key(|name| *name != QUERIER)
}

async fn database(home: &Home, profile: &Profile, report: &mut Report) {
    let role = reader(profile);
    let access = match home.registry(role.unwrap_or(QUERIER)) {
        Ok(access) => access,
        Err(error) => {
            let fix = match role {
                Some(_) => "do what the message says",
                None => NO_READER,
            };
            let found = format!("the catalogue was not read: {error:#}");
            report.add("database", State::Warning, found, fix);
            return;
        }
    };
    match catalog::list(&access).await {
        Ok(models) => report.ok(
            "database",
            format!("the registry lists {} models for you", models.len()),
        ),
        Err(error) => report.failed("database", error.to_string(), "do what the message says"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

    /// A home whose profile has tokens for these roles, and no certificate.
    fn home(folder: &Path, roles: &[&str]) -> Home {
        let place = folder.to_str().unwrap();
        let args = ["chemxor", "--home", place, "--profile", "prod", "doctor"];
        let home = Home::of(&Args::try_parse_from(args).unwrap()).unwrap();
        let own = home.profile_folder();
        std::fs::create_dir_all(&own).unwrap();
        let token = |role: &&str| {
            let file = PathBuf::from(format!("{role}.token"));
            files::create_secret(&own.join(&file), b"secret").unwrap();
            ((*role).to_owned(), file)
        };
        let profile = Profile {
            registry: "localhost:1".to_owned(),
            gateway: "localhost:1".to_owned(),
            ca: "ca.pem".into(),
            cert: "client.pem".into(),
            key: "client.key".into(),
            model: None,
            tokens: roles.iter().map(token).collect(),
        };
        profile.write(&own).unwrap();
        home
    }

    #[tokio::test]
    async fn services_are_looked_at_whatever_tokens_a_profile_has() {
        for roles in [&["admin"][..], &["auditor"], &[]] {
            let place = tempfile::tempdir().unwrap();
            let home = home(place.path(), roles);
            let (folder, profile) = home.profile().unwrap();
            let mut report = Report::default();
            services(&home, &folder, &profile, &mut report).await;
            let found = report.0.iter().map(|check| (check.name, check.state));
            let expected = ["registry", "gateway"].map(|name| (name, State::Failed));
            assert!(found.eq(expected), "{roles:?}: {:?}", report.0);
        }
    }

    #[tokio::test]
    async fn the_catalogue_is_read_with_a_token_that_may_and_else_the_report_says_so() {
        for (roles, expected) in [
            ("admin", Some("admin")),
            ("admin querier", Some("querier")),
            ("auditor publisher", Some("publisher")),
            ("auditor", None),
            ("", None),
        ] {
            let place = tempfile::tempdir().unwrap();
            let roles: Vec<&str> = roles.split_whitespace().collect();
            let home = home(place.path(), &roles);
            let (_, profile) = home.profile().unwrap();
            assert_eq!(reader(&profile), expected, "{roles:?}");
            if expected.is_none() {
                let mut report = Report::default();
                database(&home, &profile, &mut report).await;
                let [check] = &report.0[..] else {
                    panic!("{roles:?}: {:?}", report.0);
                };
                assert_eq!((check.name, check.state), ("database", State::Warning));
                assert!(check.fix.contains("role querier"), "{}", check.fix);
            }
        }
    }
}
