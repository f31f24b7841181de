//! `join` and `cert`: keys that never leave their machine, requests, certificates.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chemxor_client::governance::Holder;
use chemxor_proto::v1;
use chemxor_runtime::enrol::{
    Authority, MAX_PEM_BYTES, Request, check_issued, new_request, read_certificate, write_key,
    write_public,
};
use chemxor_runtime::pki::Subject;
use chemxor_runtime::tls::TlsFiles;
use serde_json::{Value, json};
use time::Duration;

use crate::args::{
    AuthorityArgs, CertCommand, CertListArgs, CertRefuseArgs, DenyArgs, Format, JoinArgs, SignArgs,
    SubjectKind,
};
use crate::commands::govern::{ask, moment_json, registry, rows};
use crate::home::Home;
use crate::output;

pub(crate) async fn run(home: &Home, format: Format, command: &CertCommand) -> Result<()> {
    match command {
        CertCommand::Authority(args) => authority(format, args),
        CertCommand::Sign(args) => sign(home, format, args).await,
        CertCommand::List(args) => list(home, format, args).await,
        CertCommand::Refuse(args) => refuse(home, format, args).await,
        CertCommand::Deny(args) => deny(home, format, args).await,
        CertCommand::Denied => denied(home, format).await,
        CertCommand::Renew => renew(home, format).await,
    }
}

fn new_file(path: &Path) -> Result<()> {
    if path.exists() {
        bail!("{} exists; choose another place", path.display());
    }
    Ok(())
}

pub(crate) fn join(format: Format, args: &JoinArgs) -> Result<()> {
    let name = || {
        args.name
            .parse()
            .with_context(|| format!("the name {:?}", args.name))
    };
    let subject = match args.kind {
        SubjectKind::Client => Subject::Client(name()?),
        SubjectKind::Worker => Subject::Worker(name()?),
        SubjectKind::Operator => Subject::Operator(name()?),
        SubjectKind::Gateway => Subject::Gateway,
        SubjectKind::Registry => Subject::Registry,
    };
    let serves = !matches!(args.kind, SubjectKind::Client | SubjectKind::Operator);
    if serves && args.hosts.is_empty() {
        bail!("a service needs --host: the name or address that others dial");
    }
    if !serves && !args.hosts.is_empty() {
        bail!("{subject} serves nobody; leave --host away");
    }
    std::fs::create_dir_all(&args.output).with_context(|| args.output.display().to_string())?;
    let place = |ending: &str| args.output.join(format!("{}.{ending}", args.name));
    let (key, csr) = (place("key"), place("csr"));
    new_file(&key)?;
    new_file(&csr)?;
    let request = new_request(&subject, &args.hosts)?;
    let fingerprint = Request::read(&request.request_pem)?.key_fingerprint();
    write_key(&key, &request.key_pem)?;
    write_public(&csr, &request.request_pem)?;
    let value = json!({
        "subject": subject.to_string(), "key": key, "request": csr, "fingerprint": fingerprint,
    });
    output::print(format, &value, || {
        say!("subject      {subject}");
        say!("key          {} (stays on this machine)", key.display());
        say!("request      {}", csr.display());
        say!("fingerprint  {fingerprint}");
        say!("send the request to the platform's administrator and read the fingerprint to them;");
        say!("they sign it with `chemxor cert sign {}`", csr.display());
    })
}

fn authority(format: Format, args: &AuthorityArgs) -> Result<()> {
    Authority::create(&args.folder, &args.name, Duration::days(args.days.into()))?;
    let value = json!({ "folder": args.folder, "certificate": args.folder.join("ca.pem") });
    output::print(format, &value, || {
        say!(
            "ca.pem is for everybody, ca.key for nobody else: {}",
            args.folder.display()
        );
    })
}

fn read_pem(path: &Path) -> Result<String> {
    let place = || path.display().to_string();
    let length = std::fs::metadata(path).with_context(place)?.len();
    if length > MAX_PEM_BYTES as u64 {
        bail!(
            "{} has {length} bytes, a request has at most {MAX_PEM_BYTES}",
            place()
        );
    }
    std::fs::read_to_string(path).with_context(place)
}

async fn sign(home: &Home, format: Format, args: &SignArgs) -> Result<()> {
    if let Some(path) = &args.output {
        new_file(path)?;
    }
    let authority = Authority::load(&args.authority)?;
    let file = Path::new(&args.request);
    let registry = match args.offline {
        true => None,
        false => Some(registry(home, &["admin"]).await?),
    };
    let (id, request_pem) = match &registry {
        _ if file.is_file() => (String::new(), read_pem(file)?),
        Some(registry) => {
            let waiting = v1::ListCertificatesRequest { waiting: true };
            let waiting = registry.list_certificates(waiting).await?.certificates;
            let found = waiting.into_iter().find(|record| record.id == args.request);
            let Some(found) = found else {
                bail!(
                    "{} is neither a file nor a request that waits; see `chemxor cert list --waiting`",
                    args.request
                );
            };
            (found.id, found.request_pem)
        }
        None => bail!("{} is not a file", args.request),
    };
    let request = Request::read(&request_pem)?;
    let certificate_pem = authority.sign(&request, Duration::days(args.days.into()))?;
    let facts = read_certificate(&certificate_pem)?;
    if let Some(registry) = &registry {
        let issue = v1::IssueCertificateRequest {
            id: id.clone(),
            request_pem: if id.is_empty() {
                request_pem
            } else {
                String::new()
            },
            certificate_pem: certificate_pem.clone(),
        };
        registry.issue_certificate(issue).await?;
    }
    if let Some(path) = &args.output {
        write_public(path, &certificate_pem)?;
    }
    let expires = moment_json(facts.not_after.unix_timestamp() * 1000);
    let value = json!({
        "subject": facts.subject.to_string(), "serial": facts.serial, "expires": expires,
        "hosts": request.hosts(), "fingerprint": request.key_fingerprint(), "output": args.output,
        "recorded": registry.is_some(),
    });
    output::print(format, &value, || {
        say!("subject      {}", facts.subject);
        say!("fingerprint  {}", request.key_fingerprint());
        say!("serial       {}", facts.serial);
        say!("expires      {}", expires.as_str().unwrap_or_default());
        if let Some(path) = &args.output {
            say!("certificate  {}", path.display());
        }
        if !id.is_empty() {
            say!("its holder fetches it with `chemxor cert renew`");
        }
    })
}

fn record(record: &v1::CertificateRecord) -> Value {
    let fingerprint = Request::read(&record.request_pem).map(|request| request.key_fingerprint());
    json!({
        "id": record.id, "subject": record.subject, "state": record.state, "serial": record.serial,
        "fingerprint": fingerprint.ok(), "requested": moment_json(record.requested_unix_ms),
        "expires": moment_json(record.expires_unix_ms), "reason": record.reason,
    })
}

async fn list(home: &Home, format: Format, args: &CertListArgs) -> Result<()> {
    let waiting = args.waiting;
    let request = v1::ListCertificatesRequest { waiting };
    let found = registry(home, &["admin"])
        .await?
        .list_certificates(request)
        .await?;
    let values: Vec<Value> = found.certificates.iter().map(record).collect();
    output::print(format, &values, || {
        let columns = [
            ("id", "id"),
            ("subject", "subject"),
            ("state", "state"),
            ("serial", "serial"),
            ("expires", "expires"),
        ];
        rows(&columns, &values);
    })
}

async fn refuse(home: &Home, format: Format, args: &CertRefuseArgs) -> Result<()> {
    let consequence = "its maker has to hand in a new one";
    ask(args.yes, "refuse", &args.id, consequence)?;
    let request = v1::RefuseCertificateRequest {
        id: args.id.clone(),
        reason: args.reason.clone(),
    };
    let refused = registry(home, &["admin"])
        .await?
        .refuse_certificate(request)
        .await?;
    output::print(format, &record(&refused), || {
        say!("refused: {} for {}", refused.id, refused.subject);
    })
}

async fn deny(home: &Home, format: Format, args: &DenyArgs) -> Result<()> {
    let consequence = "it is refused from now on and its running sessions end";
    ask(args.yes, "deny", &args.subject, consequence)?;
    let request = v1::DenyCertificateRequest {
        subject: args.subject.clone(),
        serial: args.serial.clone(),
        reason: args.reason.clone(),
    };
    registry(home, &["admin"])
        .await?
        .deny_certificate(request)
        .await?;
    let value = json!({ "subject": args.subject, "serial": args.serial, "state": "denied" });
    output::print(format, &value, || match args.serial.as_str() {
        "" => say!("denied: every certificate of {}", args.subject),
        serial => say!("denied: {} with the serial {serial}", args.subject),
    })
}

async fn denied(home: &Home, format: Format) -> Result<()> {
    let registry = registry(home, &["admin"]).await?;
    let request = v1::ListDeniedCertificatesRequest {};
    let found = registry.list_denied_certificates(request).await?.denied;
    let values: Vec<Value> = found
        .iter()
        .map(|denied| {
            json!({ "subject": denied.subject, "serial": denied.serial, "reason": denied.reason })
        })
        .collect();
    output::print(format, &values, || {
        rows(
            &[
                ("subject", "subject"),
                ("serial", "serial"),
                ("reason", "reason"),
            ],
            &values,
        );
    })
}

/// Where a renewal waits beside the profile.
struct Renewal {
    key: PathBuf,
    csr: PathBuf,
}

async fn renew(home: &Home, format: Format) -> Result<()> {
    let (folder, profile) = home.profile()?;
    let files = TlsFiles {
        ca: folder.join(&profile.ca),
        cert: folder.join(&profile.cert),
        key: folder.join(&profile.key),
    };
    let renewal = Renewal {
        key: folder.join("renewal.key"),
        csr: folder.join("renewal.csr"),
    };
    let now = read_certificate(&read_pem(&files.cert)?)?;
    if !renewal.csr.exists() {
        // who serves nobody gets no host name; certificates of `chemxor up` name loopback for all
        let hosts = match now.subject {
            Subject::Client(_) | Subject::Operator(_) => &[][..],
            _ => &now.hosts,
        };
        let request = new_request(&now.subject, hosts)?;
        // a key without a request is left from an interruption
        let _ = std::fs::remove_file(&renewal.key);
        write_key(&renewal.key, &request.key_pem)?;
        write_public(&renewal.csr, &request.request_pem)?;
    }
    let request_pem = read_pem(&renewal.csr)?;
    let holder = Holder::connect(&profile.registry, &files).await?;
    // the same request again is the same one: this also asks what became of it
    let answer = holder.request(&request_pem).await?;
    let forget =
        || std::fs::remove_file(&renewal.csr).with_context(|| renewal.csr.display().to_string());
    match answer.state.as_str() {
        "issued" => {
            let ca = std::fs::read_to_string(&files.ca);
            let ca = ca.with_context(|| files.ca.display().to_string())?;
            let request = Request::read(&request_pem)?;
            let facts = check_issued(&ca, &request, &answer.certificate_pem)?;
            // each by one rename; services that watch the files wait until both fit
            let fresh = folder.join("renewal.pem");
            let _ = std::fs::remove_file(&fresh);
            write_public(&fresh, &answer.certificate_pem)?;
            for (from, to) in [(&fresh, &files.cert), (&renewal.key, &files.key)] {
                std::fs::rename(from, to).with_context(|| to.display().to_string())?;
            }
            forget()?;
            let expires = moment_json(facts.not_after.unix_timestamp() * 1000);
            let value = json!({
                "id": answer.id, "state": "issued", "serial": facts.serial, "expires": expires,
            });
            output::print(format, &value, || {
                say!(
                    "renewed: {} until {}",
                    facts.subject,
                    expires.as_str().unwrap_or_default()
                );
            })
        }
        "refused" => {
            forget()?;
            bail!(
                "the request {} was refused: {}; the old certificate ends {}",
                answer.id,
                answer.reason,
                now.not_after.date()
            );
        }
        state => {
            let value = json!({ "id": answer.id, "state": state });
            output::print(format, &value, || {
                say!("request {} waits for an administrator", answer.id);
                say!("run `chemxor cert renew` again once it is signed");
            })
        }
    }
}
