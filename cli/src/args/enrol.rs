//! Certificates and model cards.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SubjectKind {
    /// A person's or program's machine.
    Client,
    /// A partition worker.
    Worker,
    /// A gateway.
    Gateway,
    /// A registry.
    Registry,
    /// Whoever runs the platform.
    Operator,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct JoinArgs {
    /// Name of the machine, e.g. lab-7.
    pub(crate) name: String,
    /// What the certificate is for.
    #[arg(long = "as", value_enum, default_value_t = SubjectKind::Client)]
    pub(crate) kind: SubjectKind,
    /// A host name or address that a service is dialled by; may be given more than once.
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// Folder for key and request.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make a certificate authority; its key stays in the folder, away from every service.
    #[command(after_help = "Example:\n  chemxor cert authority ca --name 'ChemXor of acme'")]
    Authority(AuthorityArgs),
    /// Sign a request with the authority's key, and record the certificate at the registry.
    #[command(
        after_help = "Examples:\n  chemxor cert sign lab-7.csr --authority ca --output lab-7.pem\n  chemxor cert sign 0192f5c0-… --authority ca --days 30"
    )]
    Sign(SignArgs),
    /// List requests and certificates, newest first.
    #[command(after_help = "Example:\n  chemxor cert list --waiting")]
    List(CertListArgs),
    /// Refuse a request that waits.
    #[command(after_help = "Example:\n  chemxor cert refuse 0192f5c0-… --reason 'unknown machine'")]
    Refuse(CertRefuseArgs),
    /// Refuse a certificate from now on; its sessions end.
    #[command(
        after_help = "Example:\n  chemxor cert deny chemxor://client/lab-7 --reason 'laptop lost' --yes"
    )]
    Deny(DenyArgs),
    /// List what is denied.
    #[command(after_help = "Example:\n  chemxor cert denied")]
    Denied,
    /// Renew the certificate of the profile: ask for it, and, once it is signed, put it in place.
    #[command(after_help = "Example:\n  chemxor cert renew")]
    Renew,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AuthorityArgs {
    /// New folder for ca.pem and ca.key.
    pub(crate) folder: PathBuf,
    /// What it calls itself.
    #[arg(long)]
    pub(crate) name: String,
    /// Days until it ends.
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=7300))]
    pub(crate) days: u32,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SignArgs {
    /// File with a request, or the id of one that waits at the registry.
    pub(crate) request: String,
    /// Folder with ca.pem and ca.key.
    #[arg(long, value_name = "DIR")]
    pub(crate) authority: PathBuf,
    /// Days until the certificate ends.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=90))]
    pub(crate) days: u32,
    /// Write the certificate to a new file.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Do not record it at the registry: for the first certificates of a platform.
    #[arg(long, requires = "output")]
    pub(crate) offline: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CertListArgs {
    /// Only requests that wait.
    #[arg(long)]
    pub(crate) waiting: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CertRefuseArgs {
    /// Id of the request, as `cert list` shows it.
    pub(crate) id: String,
    /// What its maker is told.
    #[arg(long)]
    pub(crate) reason: String,
    /// Refuse without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DenyArgs {
    /// E.g. chemxor://client/lab-7.
    pub(crate) subject: String,
    /// Only the certificate with this serial number, hexadecimal; without it, every one.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) serial: String,
    /// For the audit log.
    #[arg(long)]
    pub(crate) reason: String,
    /// Deny without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CardCommand {
    /// Begin the card of a bundle: what the bundle knows is filled in, the rest says TODO.
    #[command(after_help = "Example:\n  chemxor card draft esol.cxb --output esol.card.json")]
    Draft(CardDraftArgs),
    /// Check a card before it is uploaded: what is missing, what contradicts the bundle.
    #[command(after_help = "Example:\n  chemxor card lint esol.card.json --bundle esol.cxb")]
    Lint(CardLintArgs),
    /// Sign a card and add it to its published version.
    #[command(after_help = "Example:\n  chemxor card set esol.card.json")]
    Set(CardSetArgs),
    /// Show the card of a version, as Markdown or JSON.
    #[command(
        after_help = "Example:\n  chemxor card show esol\n  chemxor card show esol --format json"
    )]
    Show(CardShowArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CardDraftArgs {
    /// The bundle.
    pub(crate) bundle: PathBuf,
    /// New file for the card.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CardLintArgs {
    /// The card.
    pub(crate) card: PathBuf,
    /// The bundle that it is about.
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CardSetArgs {
    /// The card.
    pub(crate) card: PathBuf,
    /// Name of the signing key: the one that signed the version.
    #[arg(long, default_value = "publisher")]
    pub(crate) key: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CardShowArgs {
    /// NAME, NAME@ALIAS or NAME@sha256:…
    pub(crate) model: String,
}
