//! Arguments of a lab's commands: keys, query, profiles, doctor.

use std::path::PathBuf;

use chemxor_client::keyring::ROTATE_AFTER;
use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a new key. With a passphrase (CHEMXOR_PASSPHRASE, or typed) it is encrypted.
    #[command(after_help = "Examples:\n  chemxor keys new\n  chemxor keys new --publisher")]
    New(KeysNewArgs),
    /// List the keys: what they are for, their age, their queries.
    #[command(after_help = "Example:\n  chemxor keys list")]
    List,
    /// Replace a lab key by a fresh one, now or after a number of queries.
    #[command(
        after_help = "Examples:\n  chemxor keys rotate\n  chemxor keys rotate --after 100000   # on its own, from now on"
    )]
    Rotate(KeysRotateArgs),
    /// Write a copy of a key, encrypted with a passphrase of its own (an age file).
    #[command(after_help = "Example:\n  chemxor keys export --output lab-key.age")]
    Export(KeysExportArgs),
    /// Take over an exported key under a new name.
    #[command(after_help = "Example:\n  chemxor keys import lab-key.age --name second")]
    Import(KeysImportArgs),
    /// Change the passphrase of a key; an empty one takes the encryption away.
    #[command(
        after_help = "Example:\n  CHEMXOR_PASSPHRASE=old CHEMXOR_NEW_PASSPHRASE=new chemxor keys passphrase"
    )]
    Passphrase(KeyName),
    /// Overwrite a key and remove it.
    #[command(after_help = "Example:\n  chemxor keys delete old --yes")]
    Delete(KeysDeleteArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct KeysNewArgs {
    /// Name of the key.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// A publisher's signing key, instead of a lab's key for queries.
    #[arg(long)]
    pub(crate) publisher: bool,
    /// Replace the key on its own after so many queries; 0 for never.
    #[arg(long, default_value_t = ROTATE_AFTER, value_name = "QUERIES", conflicts_with = "publisher")]
    pub(crate) rotate_after: u64,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct KeyName {
    /// Name of the key.
    #[arg(default_value = "default")]
    pub(crate) name: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct KeysRotateArgs {
    /// Name of the key.
    #[arg(default_value = "default")]
    pub(crate) name: String,
    /// Not now: on its own after so many queries; 0 for never.
    #[arg(long, value_name = "QUERIES")]
    pub(crate) after: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct KeysExportArgs {
    /// Name of the key.
    #[arg(default_value = "default")]
    pub(crate) name: String,
    /// File to write; it must not exist. Its passphrase: CHEMXOR_NEW_PASSPHRASE, or typed.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct KeysImportArgs {
    /// What `chemxor keys export` wrote.
    pub(crate) file: PathBuf,
    /// Name of the new key.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct KeysDeleteArgs {
    /// Name of the key.
    pub(crate) name: String,
    /// Delete without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct QueryArgs {
    /// NAME, NAME@ALIAS, NAME@sha256:…, or the address of a server (https://host:port).
    pub(crate) model: String,
    /// One molecule.
    #[arg(value_name = "SMILES", conflicts_with_all = ["smiles", "input"])]
    pub(crate) molecule: Option<String>,
    /// One molecule.
    #[arg(long, conflicts_with = "input", required_unless_present_any = ["input", "molecule"])]
    pub(crate) smiles: Option<String>,
    /// CSV or TSV with a header, or a SMILES file (.smi); also compressed (.gz).
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Table to write: the input's columns, the prediction, status and reason.
    #[arg(
        long,
        requires = "input",
        value_name = "FILE",
        required_unless_present_any = ["smiles", "molecule", "estimate"]
    )]
    pub(crate) output: Option<PathBuf>,
    /// Column with the SMILES: its name, or its position from 1.
    #[arg(long, default_value = "smiles", value_name = "COLUMN")]
    pub(crate) smiles_column: String,
    /// Go on with an unfinished run; a finished one is left as it is.
    #[arg(long, requires = "input", conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Replace the output, or begin an unfinished run again.
    #[arg(long, requires = "input")]
    pub(crate) overwrite: bool,
    /// Ask for molecules with equal features once.
    #[arg(long, requires = "input")]
    pub(crate) dedupe: bool,
    /// Only say what the run will take; a short probe asks for the first molecules.
    #[arg(long, requires = "input")]
    pub(crate) estimate: bool,
    /// Ask before a run that will take longer, in minutes.
    #[arg(long, default_value_t = 10.0, value_name = "MINUTES")]
    pub(crate) ask_above: f64,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Queries at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) in_flight: u16,
    /// How long a molecule of a run waits while the platform is away; then the run stops, and
    /// `--resume` goes on.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub(crate) patience: u16,
    /// Name of the lab's key; `default` is made when it is absent.
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub(crate) key: String,
    /// Do not show progress.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfilesCommand {
    /// List the platforms that this machine knows.
    #[command(after_help = "Example:\n  chemxor profiles list")]
    List,
    /// Remember a platform.
    #[command(
        after_help = "Example:\n  chemxor profiles add basel --registry reg.example.org:443 --gateway gw.example.org:443 \\\n      --ca ca.pem --cert lab.pem --key lab.key --token querier=token.txt"
    )]
    Add(ProfilesAddArgs),
    /// Talk to this platform when no --profile is given.
    #[command(after_help = "Example:\n  chemxor profiles use basel")]
    Use(ProfileName),
    /// Forget a platform: its addresses, certificate and tokens.
    #[command(after_help = "Example:\n  chemxor profiles remove basel --yes")]
    Remove(ProfilesRemoveArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ProfileName {
    /// Name of the profile.
    pub(crate) name: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ProfilesAddArgs {
    /// Name of the profile.
    pub(crate) name: String,
    /// host:port of the registry.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) registry: String,
    /// host:port of the gateway.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) gateway: String,
    /// Certificate of the platform's authority (PEM); copied.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: PathBuf,
    /// Your certificate (PEM); copied.
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: PathBuf,
    /// Its private key (PEM); copied, readable by you only.
    #[arg(long = "key", value_name = "FILE")]
    pub(crate) tls_key: PathBuf,
    /// A role and the file with its token; may be given more than once. Copied.
    #[arg(long = "token", value_name = "ROLE=FILE")]
    pub(crate) tokens: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ProfilesRemoveArgs {
    /// Name of the profile.
    pub(crate) name: String,
    /// Remove without being asked.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ManArgs {
    /// Folder for a page of each command; by default the first page goes to standard output.
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}
