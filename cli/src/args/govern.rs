//! Verbs of administrators and of owners of models.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum OrgCommand {
    /// Make an organisation.
    #[command(after_help = "Example:\n  chemxor org create uni-basel")]
    Create(Name),
    /// List the organisations.
    #[command(after_help = "Example:\n  chemxor org list --format json")]
    List,
    /// Refuse every token of an organisation, until it is resumed.
    #[command(after_help = "Example:\n  chemxor org suspend uni-basel --yes")]
    Suspend(NameAndYes),
    /// Accept the tokens of a suspended organisation again.
    #[command(after_help = "Example:\n  chemxor org resume uni-basel")]
    Resume(Name),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConsortiumCommand {
    /// Make a consortium, or replace its members.
    #[command(after_help = "Example:\n  chemxor consortium set solubility acme uni-basel --yes")]
    Set(ConsortiumArgs),
    /// List the consortia with their members.
    #[command(after_help = "Example:\n  chemxor consortium list")]
    List,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConsortiumArgs {
    /// Name of the consortium.
    pub(crate) name: String,
    /// Every member; who is not named leaves.
    pub(crate) organisations: Vec<String>,
    /// Let members leave without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Name {
    /// Lower-case letters, digits, '.', '_' and '-'.
    pub(crate) name: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NameAndYes {
    /// Its name.
    pub(crate) name: String,
    /// Do it without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Whose members or tokens.
#[derive(Debug, ClapArgs)]
pub(crate) struct InOrg {
    /// The organisation [default: your own].
    #[arg(
        long = "org",
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    pub(crate) organisation: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Add a person or a service account, or replace its roles.
    #[command(
        after_help = "Examples:\n  chemxor member add alice@uni-basel --org uni-basel --role querier\n  chemxor member add pipeline --service --role publisher"
    )]
    Add(MemberAddArgs),
    /// List the members of an organisation.
    #[command(after_help = "Example:\n  chemxor member list --org uni-basel")]
    List(InOrg),
    /// End a member: its tokens are refused from now on.
    #[command(
        after_help = "Example:\n  chemxor member remove alice@uni-basel --org uni-basel --yes"
    )]
    Remove(MemberRemoveArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct MemberAddArgs {
    /// Who, e.g. alice@uni-basel.
    pub(crate) subject: String,
    /// org-admin, publisher, reviewer, querier; by platform administrators also admin, auditor. May
    /// be given more than once.
    #[arg(long = "role", required = true, value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// A program, not a person.
    #[arg(long)]
    pub(crate) service: bool,
    /// Take roles away without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) place: InOrg,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct MemberRemoveArgs {
    /// Who.
    pub(crate) subject: String,
    #[command(flatten)]
    pub(crate) place: InOrg,
    /// Remove without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; it is shown once.
    #[command(
        after_help = "Examples:\n  chemxor token create --subject alice@uni-basel --role querier --days 30\n  chemxor token create --org uni-basel --subject screen --role querier --model esol --output screen.token"
    )]
    Create(TokenCreateArgs),
    /// List the tokens of an organisation, without their secrets.
    #[command(after_help = "Example:\n  chemxor token list --org uni-basel")]
    List(InOrg),
    /// Refuse a token from now on; its running sessions end.
    #[command(after_help = "Example:\n  chemxor token revoke 0192f5c0-… --yes")]
    Revoke(TokenRevokeArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TokenCreateArgs {
    /// Who will hold it, e.g. alice@uni-basel; made a member with these roles when absent.
    #[arg(long)]
    pub(crate) subject: String,
    /// admin, org-admin, publisher, reviewer, querier or auditor; may be given more than once.
    #[arg(long = "role", required = true, value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// Narrow it to a model; may be given more than once.
    #[arg(long = "model", value_name = "NAME")]
    pub(crate) models: Vec<String>,
    /// Days until it ends.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=366))]
    pub(crate) days: u64,
    /// Write the token to a new file, readable by you only, and do not show it.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: InOrg,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TokenRevokeArgs {
    /// Id of the token, as `token list` shows it.
    pub(crate) id: String,
    /// Revoke without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AliasCommand {
    /// Point an alias to an approved version.
    #[command(after_help = "Example:\n  chemxor alias set esol stable sha256:…")]
    Set(AliasSetArgs),
    /// List the aliases of a model.
    #[command(after_help = "Example:\n  chemxor alias list esol")]
    List(ModelNameArg),
    /// Show who pointed an alias where, newest first.
    #[command(after_help = "Example:\n  chemxor alias history esol stable")]
    History(AliasArgs),
    /// Point an alias to where it pointed before.
    #[command(after_help = "Example:\n  chemxor alias rollback esol stable --yes")]
    Rollback(AliasRollbackArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ModelNameArg {
    /// Name of the model.
    pub(crate) model: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AliasArgs {
    /// Name of the model.
    pub(crate) model: String,
    /// Name of the alias.
    pub(crate) alias: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AliasSetArgs {
    /// Name of the model.
    pub(crate) model: String,
    /// Name of the alias.
    pub(crate) alias: String,
    /// sha256:…
    pub(crate) version: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AliasRollbackArgs {
    #[command(flatten)]
    pub(crate) which: AliasArgs,
    /// Go back without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Limit what an organisation may ask of a model; limits that are not named stay.
    #[command(
        after_help = "Examples:\n  chemxor quota set esol --org uni-basel --queries-per-day 1000 --lifetime-queries 20000\n  chemxor quota set esol --org '*' --queries-per-day none"
    )]
    Set(QuotaSetArgs),
    /// Take every limit of an organisation's own away: those of '*' hold for it again.
    #[command(after_help = "Example:\n  chemxor quota unset esol --org uni-basel")]
    Unset(QuotaUnsetArgs),
    /// Show limits and use of a model.
    #[command(after_help = "Example:\n  chemxor quota show esol")]
    Show(ModelNameArg),
}

/// A limit, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<u64>);

impl std::str::FromStr for Limit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            digits => digits
                .parse()
                .map(|limit| Self(Some(limit)))
                .map_err(|_| "write a number, or `none` for no limit".to_owned()),
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct QuotaUnsetArgs {
    /// Name of the model.
    pub(crate) model: String,
    /// The organisation; '*' is every one, in what its own limits do not name.
    #[arg(long = "org", value_name = "NAME")]
    pub(crate) organisation: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct QuotaSetArgs {
    /// Name of the model.
    pub(crate) model: String,
    /// The organisation; '*' is every one, in what its own limits do not name.
    #[arg(long = "org", value_name = "NAME")]
    pub(crate) organisation: String,
    /// Queries a UTC day; `none`: what '*' says, and for '*' itself no limit. So for each of these.
    #[arg(long, value_name = "N")]
    pub(crate) queries_per_day: Option<Limit>,
    /// Sessions at the same time.
    #[arg(long, value_name = "N")]
    pub(crate) concurrent_sessions: Option<Limit>,
    /// Bytes a UTC day, both ways.
    #[arg(long, value_name = "BYTES")]
    pub(crate) bytes_per_day: Option<Limit>,
    /// Computing time of the workers a UTC day.
    #[arg(long, value_name = "MS")]
    pub(crate) compute_ms_per_day: Option<Limit>,
    /// Extraction budget: queries over all tokens of the organisation, for ever.
    #[arg(long, value_name = "N")]
    pub(crate) lifetime_queries: Option<Limit>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Show a version: state, owner, signatures, figures.
    #[command(after_help = "Example:\n  chemxor model show esol")]
    Show(ModelRefArg),
    /// Show or say who sees a model.
    #[command(
        after_help = "Examples:\n  chemxor model visibility esol\n  chemxor model visibility esol listed --org uni-basel --org acme\n  chemxor model visibility esol consortium --consortium solubility"
    )]
    Visibility(VisibilityArgs),
    /// Say that a version will no longer be served after a day.
    #[command(
        after_help = "Example:\n  chemxor model deprecate esol@sha256:… --sunset 2027-03-31 --reason 'superseded' --yes"
    )]
    Deprecate(DeprecateArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ModelRefArg {
    /// NAME, NAME@ALIAS or NAME@sha256:…
    pub(crate) model: String,
}

/// Who sees a model beside its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VisibilityKind {
    /// Nobody.
    Private,
    /// The organisations named with --org.
    Listed,
    /// The members of --consortium.
    Consortium,
    /// Everybody with a token.
    Everyone,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct VisibilityArgs {
    /// Name of the model.
    pub(crate) model: String,
    /// Who sees it from now on; without this, the visibility is shown.
    #[arg(value_enum)]
    pub(crate) visibility: Option<VisibilityKind>,
    /// With `listed`: an organisation that sees it; may be given more than once.
    #[arg(long = "org", value_name = "NAME", requires = "visibility")]
    pub(crate) organisations: Vec<String>,
    /// With `consortium`: its name.
    #[arg(long, value_name = "NAME", requires = "visibility")]
    pub(crate) consortium: Option<String>,
    /// Show it to everyone without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DeprecateArgs {
    /// NAME@sha256:…
    pub(crate) model: String,
    /// First UTC day on which it is no longer served, YYYY-MM-DD; without this, never.
    #[arg(long, value_name = "DAY")]
    pub(crate) sunset: Option<String>,
    /// For the audit log.
    #[arg(long)]
    pub(crate) reason: String,
    /// Deprecate without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show the last events.
    #[command(after_help = "Example:\n  chemxor audit list --last 50 --action token.create")]
    List(AuditListArgs),
    /// Write the whole log with its signed checkpoints to a file.
    #[command(after_help = "Example:\n  chemxor audit export --output audit.jsonl")]
    Export(AuditExportArgs),
    /// Verify an export without the registry: finds a changed, removed or reordered row.
    #[command(
        after_help = "Examples:\n  chemxor audit verify audit.jsonl --registry-key registry-signing.pub\n  chemxor audit verify november.jsonl --since october.jsonl --registry-key registry-signing.pub"
    )]
    Verify(AuditVerifyArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AuditListArgs {
    /// So many events, the newest last.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) last: usize,
    /// Only this action, e.g. version.approve.
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// Only this actor, e.g. uni-basel/alice.
    #[arg(long)]
    pub(crate) actor: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AuditExportArgs {
    /// New file: one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AuditVerifyArgs {
    /// The export.
    pub(crate) file: PathBuf,
    /// The registry's public key: 64 hexadecimal digits, or the file with them.
    #[arg(long, value_name = "KEY")]
    pub(crate) registry_key: String,
    /// An earlier export that was kept: the log must begin with all of it. Finds a past that was
    /// rewritten and signed anew.
    #[arg(long, value_name = "FILE")]
    pub(crate) since: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct VerifyArgs {
    /// NAME, NAME@ALIAS or NAME@sha256:… of the registry; or a file that --output wrote.
    pub(crate) model: String,
    /// The registry's public key: 64 hexadecimal digits, or the file with them.
    #[arg(long, value_name = "KEY")]
    pub(crate) registry_key: Option<String>,
    /// The publisher's public key: 64 hexadecimal digits, or the file with them.
    #[arg(long, value_name = "KEY")]
    pub(crate) publisher_key: Option<String>,
    /// Also check that this bundle is the version.
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: Option<PathBuf>,
    /// Keep manifest and signatures in a new file, to verify them later without the registry.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}
