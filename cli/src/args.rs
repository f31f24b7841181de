//! The command line.

mod enrol;
mod govern;
mod lab;
mod load;
mod local;
mod train;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub(crate) use self::train::{
    AuditPrivacyArgs, DataArgs, DistilArgs, ImportArgs, KindArg, StandardArgs, TaskArg, TrainArgs,
};
pub(crate) use enrol::*;
pub(crate) use govern::*;
pub(crate) use lab::*;
pub(crate) use load::LoadArgs;
pub(crate) use local::*;

/// Encrypted predictions from private drug-discovery models.
#[derive(Debug, Parser)]
#[command(name = "chemxor", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Folder with keys and profiles [default: $XDG_DATA_HOME/chemxor, /var/lib/chemxor for root].
    #[arg(long, global = true, env = "CHEMXOR_HOME", value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Which platform to talk to [default: what `profiles use` chose, else local].
    #[arg(long, global = true, env = "CHEMXOR_PROFILE", value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// File with a bearer token, instead of the profile's.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Write logs as JSON, one object a line.
    #[arg(long, global = true)]
    pub(crate) log_json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make, list, rotate, export and delete secret keys.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Train a model on a CSV and write a bundle.
    #[command(
        after_help = "Example:\n  chemxor train --input data/esol.csv --name esol --endpoint 'aqueous solubility' \\\n      --unit 'log10 mol/L' --output esol.cxb --holdout esol-holdout.csv"
    )]
    Train(Box<TrainArgs>),
    /// Make a bundle of a model that another program trained; the table calibrates and measures it.
    #[command(
        after_help = "Examples:\n  chemxor import model.onnx --input calibration.csv --name kinase --output kinase.cxb\n  chemxor import xgboost.json --input calibration.csv --task binary --name herg --output herg.cxb"
    )]
    Import(Box<ImportArgs>),
    /// Train on what another model predicts for a list of molecules (Hinton et al. 2015).
    #[command(
        visible_alias = "distill",
        after_help = "Example:\n  chemxor distil kinase-forest.cxb --input library.smi --model mlp --name kinase --output kinase.cxb"
    )]
    Distil(Box<DistilArgs>),
    /// Write the features of molecules, to compare them with RDKit's.
    #[command(
        after_help = "Examples:\n  chemxor features --featuriser ecfp4-bits --input library.csv --output features.csv\n  chemxor features --featuriser descriptors --input library.smi.gz --smiles-column 1 --output descriptors.csv"
    )]
    Features(FeaturesArgs),
    /// Show what a bundle says about itself.
    #[command(after_help = "Example:\n  chemxor inspect esol.cxb --format json")]
    Inspect(InspectArgs),
    /// Encrypt, sign and upload a bundle, and submit it for approval.
    #[command(after_help = "Example:\n  chemxor publish esol.cxb")]
    Publish(PublishArgs),
    /// Approve a submitted version; not possible for its own publisher.
    #[command(after_help = "Example:\n  chemxor approve esol --note 'checked the card'")]
    Approve(ApproveArgs),
    /// Ask a model's known answers encrypted and compare: is what serves what was signed?
    #[command(after_help = "Examples:\n  chemxor conform esol\n  chemxor conform esol --waiting")]
    Conform(ConformArgs),
    /// Revoke a version; running sessions end at their next step.
    #[command(
        after_help = "Example:\n  chemxor revoke esol@sha256:… --reason 'training data withdrawn' --yes"
    )]
    Revoke(RevokeArgs),
    /// List the models that you may see.
    #[command(after_help = "Example:\n  chemxor catalog --format json")]
    Catalog,
    /// List the workers that a publisher may authorise; authorise one later, withdraw one.
    #[command(after_help = "Example:\n  chemxor workers")]
    Workers(WorkersArgs),
    /// Make, list, suspend and resume organisations.
    #[command(subcommand)]
    Org(OrgCommand),
    /// Groups of organisations that share models.
    #[command(subcommand)]
    Consortium(ConsortiumCommand),
    /// Add, list and remove people and service accounts.
    #[command(subcommand)]
    Member(MemberCommand),
    /// Make, list and revoke tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Show a version, say who sees a model, deprecate a version.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Names that point to versions, with history.
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Limit what organisations may ask of a model.
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Show, export and verify the audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Make a key and a certificate request on this machine, to be signed by an administrator.
    #[command(
        after_help = "Examples:\n  chemxor join lab-7\n  chemxor join worker-3 --as worker --host worker-3.acme.example --output /etc/chemxor/worker"
    )]
    Join(JoinArgs),
    /// Sign, list, renew and deny certificates.
    #[command(subcommand)]
    Cert(CertCommand),
    /// Write, check, sign and show the card of a version.
    #[command(subcommand)]
    Card(CardCommand),
    /// Verify who signed and approved a version, also without the registry.
    #[command(
        after_help = "Examples:\n  chemxor verify esol --registry-key registry-signing.pub --output esol.proof\n  chemxor verify esol.proof --registry-key registry-signing.pub --bundle esol.cxb"
    )]
    Verify(VerifyArgs),
    /// Predict molecules without showing them to anybody.
    #[command(
        after_help = "Examples:\n  chemxor query esol --smiles 'CC(=O)Oc1ccccc1C(=O)O'\n  chemxor query esol --input library.csv --output predictions.csv\n  chemxor query esol --input library.csv --output predictions.csv --resume\n  chemxor query esol --input library.csv --estimate"
    )]
    Query(QueryArgs),
    /// Attack a trained model as published: how well its training molecules can be told from others.
    #[command(
        after_help = "Example:\n  chemxor audit-privacy --bundle esol.cxb --input data/esol.csv --shadows 16 --output esol-audit.json"
    )]
    AuditPrivacy(Box<AuditPrivacyArgs>),
    /// Predict measured molecules encrypted and compare with the measured values.
    #[command(
        visible_alias = "eval",
        after_help = "Examples:\n  chemxor evaluate esol --holdout esol-holdout.csv --rows 24\n  chemxor evaluate esol --holdout esol-holdout.csv --update-card esol.card.json --bundle esol.cxb\n  chemxor eval esol.cxb --encrypted-local --holdout esol-holdout.csv --report esol-eval.html"
    )]
    Evaluate(EvaluateArgs),
    /// Ask a model over and over; report throughput, latency and bytes.
    #[command(
        after_help = "Examples:\n  chemxor load esol --input data/esol.csv --concurrency 1..16 --output load.csv\n  chemxor load esol --input esol-holdout.csv --rate 200 --expect-column twin --tolerance 0.6"
    )]
    Load(LoadArgs),
    /// Start everything on this machine in the background: PostgreSQL, registry, gateway and
    /// workers, with real TLS. Running already, it is left as it is.
    #[command(
        after_help = "Examples:\n  chemxor up                # other commands then use the profile `local`\n  chemxor up --foreground   # until Ctrl-C"
    )]
    Up(UpArgs),
    /// Say whether the platform of `up` runs, and how it is.
    #[command(after_help = "Example:\n  chemxor status")]
    Status,
    /// Show the log of the platform of `up`.
    #[command(after_help = "Example:\n  chemxor logs --follow")]
    Logs(LogsArgs),
    /// Stop the platform of `up`; models, tokens and logs stay.
    #[command(after_help = "Example:\n  chemxor stop")]
    Stop,
    /// Stop the platform of `up` and remove its database, certificates, tokens and logs; keys stay.
    #[command(after_help = "Example:\n  chemxor reset --yes")]
    Reset(ResetArgs),
    /// Serve one trained model on this machine, until Ctrl-C.
    #[command(
        after_help = "Example:\n  chemxor serve olinda_zero --checkpoint model.cxb\n  chemxor query https://localhost:8000 CCO      # in another terminal"
    )]
    Serve(ServeArgs),
    /// Add, choose and list platforms.
    #[command(subcommand)]
    Profiles(ProfilesCommand),
    /// Check this machine and the way to the platform; every failing check prints its fix.
    #[command(after_help = "Example:\n  chemxor doctor")]
    Doctor,
    /// Print a completion script for a shell.
    #[command(
        after_help = "Example:\n  chemxor completions bash > ~/.local/share/bash-completion/completions/chemxor"
    )]
    Completions(CompletionsArgs),
    /// Print the manual page, or write the page of every command.
    #[command(after_help = "Example:\n  chemxor man --output ~/.local/share/man/man1")]
    Man(ManArgs),
    /// Run a registry.
    #[command(
        after_help = "Examples:\n  chemxor registry --config deploy/registry.toml\n  chemxor registry --config deploy/registry.toml --first-token alice@acme --output admin.token"
    )]
    Registry(RegistryArgs),
    /// Run a gateway.
    #[command(after_help = "Example:\n  chemxor gateway --config deploy/gateway.toml")]
    Gateway(ServiceArgs),
    /// Run a partition worker.
    #[command(
        after_help = "Example:\n  chemxor worker --config deploy/worker.toml\n  chemxor worker --config deploy/worker.toml --fingerprint   # for publishers to pin"
    )]
    Worker(WorkerArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FeaturesArgs {
    /// ecfp4-counts+descriptors, ecfp4-counts, ecfp4-bits, fcfp4-counts, fcfp6-counts, fcfp4-bits,
    /// descriptors or image32.
    #[arg(long, default_value = "ecfp4-counts+descriptors", value_name = "NAME")]
    pub(crate) featuriser: String,
    /// CSV, TSV or .smi file, also compressed (.gz).
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// CSV to write: the input's columns, status, reason and the features.
    #[arg(long, value_name = "CSV")]
    pub(crate) output: PathBuf,
    /// Column with the SMILES: a name, or a position from 1 (then a header is not needed).
    #[arg(long, default_value = "smiles", value_name = "COLUMN")]
    pub(crate) smiles_column: String,
    #[command(flatten)]
    pub(crate) standard: StandardArgs,
    /// Do not show progress.
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct InspectArgs {
    /// The bundle.
    pub(crate) bundle: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PublishArgs {
    /// The bundle that `chemxor train` wrote.
    pub(crate) bundle: PathBuf,
    /// Workers to authorise, in the order of the steps; by default all that are registered. With a
    /// fingerprint, nothing is sealed unless the worker's sealing key has it.
    #[arg(long = "worker", value_name = "NAME[=FINGERPRINT]")]
    pub(crate) workers: Vec<String>,
    /// Seal to a worker whose sealing key is another than before; a fingerprint still holds.
    #[arg(long)]
    pub(crate) accept_new_key: bool,
    /// How the steps are spread over the workers.
    #[arg(long, value_enum, default_value_t = SpreadArg::Steps)]
    pub(crate) spread: SpreadArg,
    /// Name of the signing key.
    #[arg(long, default_value = "publisher", value_name = "NAME")]
    pub(crate) key: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct WorkersArgs {
    #[command(subcommand)]
    pub(crate) command: Option<WorkersCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// Authorise another worker for a published version: for every step, or in the place of another.
    #[command(
        after_help = "Examples:\n  chemxor workers authorize esol.cxb worker-3\n  chemxor workers authorize esol.cxb worker-3 --replace worker-1 --yes"
    )]
    Authorize(AuthorizeArgs),
    /// Withdraw a worker from a published version; what is left must still serve every step.
    #[command(after_help = "Example:\n  chemxor workers withdraw esol.cxb worker-1 --yes")]
    Withdraw(WithdrawArgs),
    /// Show which workers serve which steps of a published version.
    #[command(after_help = "Example:\n  chemxor workers show esol.cxb")]
    Show(WorkersShowArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AuthorizeArgs {
    /// The bundle that was published.
    pub(crate) bundle: PathBuf,
    /// The worker, as `chemxor workers` lists it. With a fingerprint, nothing is sealed unless its
    /// sealing key has it.
    #[arg(value_name = "NAME[=FINGERPRINT]")]
    pub(crate) worker: String,
    /// Seal to it although its sealing key is another than before; a fingerprint still holds.
    #[arg(long)]
    pub(crate) accept_new_key: bool,
    /// Take the steps of this worker, which loses them: how a sealing key is rotated.
    #[arg(long, value_name = "NAME")]
    pub(crate) replace: Option<String>,
    /// Name of the signing key: the one that signed the version.
    #[arg(long, default_value = "publisher", value_name = "NAME")]
    pub(crate) key: String,
    /// Replace without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct WithdrawArgs {
    /// The bundle that was published.
    pub(crate) bundle: PathBuf,
    /// The worker.
    pub(crate) worker: String,
    /// Withdraw without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct WorkersShowArgs {
    /// The bundle that was published.
    pub(crate) bundle: PathBuf,
}

/// How steps are spread over workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpreadArg {
    /// Each worker holds a run of steps; workers beyond the number of steps are replicas.
    Steps,
    /// Each worker holds every step.
    Replicas,
    /// The workers of a step share its outputs, and the gateway joins them.
    Shares,
}

impl From<SpreadArg> for chemxor_client::placement::Spread {
    fn from(spread: SpreadArg) -> Self {
        match spread {
            SpreadArg::Steps => Self::Steps,
            SpreadArg::Replicas => Self::Replicas,
            SpreadArg::Shares => Self::Shares,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ApproveArgs {
    /// NAME (the version that waits) or NAME@sha256:…
    pub(crate) model: String,
    /// For the audit log.
    #[arg(long, default_value = "")]
    pub(crate) note: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConformArgs {
    /// NAME, NAME@alias or NAME@sha256:…
    pub(crate) model: String,
    /// The version that waits for approval; for its reviewers.
    #[arg(long)]
    pub(crate) waiting: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RevokeArgs {
    /// NAME@sha256:…
    pub(crate) model: String,
    /// For the audit log.
    #[arg(long)]
    pub(crate) reason: String,
    /// Revoke for ever, without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct EvaluateArgs {
    /// NAME or NAME@sha256:…; with --encrypted-local the file of a bundle.
    pub(crate) model: String,
    /// Evaluate a bundle in this process, both halves of the protocol: needs no platform, hides
    /// nothing, and checks every encrypted run against the clear integers.
    #[arg(long)]
    pub(crate) encrypted_local: bool,
    /// Report to write, one HTML file; with --encrypted-local.
    #[arg(long, value_name = "HTML", requires = "encrypted_local")]
    pub(crate) report: Option<PathBuf>,
    /// Result of `chemxor audit-privacy` for the report.
    #[arg(long, value_name = "JSON", requires = "report")]
    pub(crate) audit: Option<PathBuf>,
    /// Card to fill in with what this run measures of the published version; with --bundle.
    #[arg(
        long,
        value_name = "JSON",
        requires = "bundle",
        conflicts_with = "encrypted_local"
    )]
    pub(crate) update_card: Option<PathBuf>,
    /// The bundle that was published, for what its plan promises; with --update-card.
    #[arg(long, value_name = "FILE", requires = "update_card")]
    pub(crate) bundle: Option<PathBuf>,
    /// CSV with columns smiles, measured, plain (and twin), as `chemxor train --holdout` writes.
    #[arg(long, value_name = "CSV")]
    pub(crate) holdout: PathBuf,
    /// Use the first so many rows.
    #[arg(long)]
    pub(crate) rows: Option<usize>,
    /// Name of the lab's key.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub(crate) key: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServiceArgs {
    /// TOML file; its keys are explained in deploy/.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Write the address it listens on to this file once it is up.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RegistryArgs {
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Make the token of the platform's first administrator and end; it is shown once. Refused while
    /// any administrator has a living token.
    #[arg(long, value_name = "SUBJECT", conflicts_with = "ready_file")]
    pub(crate) first_token: Option<String>,
    /// Days until that token ends.
    #[arg(long, default_value_t = 90, requires = "first_token", value_parser = clap::value_parser!(u64).range(1..=366))]
    pub(crate) days: u64,
    /// Write that token to a new file, readable by you only, and do not show it.
    #[arg(long, value_name = "FILE", requires = "first_token")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Print the fingerprint of this worker's sealing key and end; the key is made when absent.
    #[arg(long)]
    pub(crate) fingerprint: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn check(command: &clap::Command) {
        for sub in command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
        {
            if sub.has_subcommands() {
                check(sub);
                continue;
            }
            let help = sub
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("chemxor "),
                "`{}` has no example",
                sub.get_name()
            );
        }
    }

    #[test]
    fn every_command_has_an_example() {
        let command = Args::command();
        command.clone().debug_assert();
        check(&command);
    }
}
