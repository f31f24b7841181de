//! `keys`: the keyring of this home.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use anyhow::{Context, Result, bail};
use chemxor_client::keyring::{KeyInfo, KeyKind, Keyring, Passphrase};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::args::{
    Format, KeyName, KeysCommand, KeysDeleteArgs, KeysExportArgs, KeysImportArgs, KeysNewArgs,
    KeysRotateArgs,
};
use crate::home::Home;
use crate::output;

/// Passphrase of the keys that are there.
const PASSPHRASE: &str = "CHEMXOR_PASSPHRASE";
/// Passphrase of what is written.
const NEW_PASSPHRASE: &str = "CHEMXOR_NEW_PASSPHRASE";

fn from_environment(variable: &str) -> Option<Zeroizing<String>> {
    std::env::var(variable).ok().map(Zeroizing::new)
}

fn typed(question: &str) -> Result<Zeroizing<String>> {
    rpassword::prompt_password(format!("{question}: "))
        .map(Zeroizing::new)
        .context("the terminal gave no passphrase")
}

fn typed_twice(question: &str) -> Result<Zeroizing<String>> {
    let once = typed(question)?;
    if !once.is_empty() && typed("the same again")? != once {
        bail!("the two passphrases differ; nothing was changed");
    }
    Ok(once)
}

/// The passphrase of a stored key: from the environment, or typed; none when it is not encrypted.
pub(crate) fn passphrase_of(ring: &Keyring, name: &str) -> Result<Option<Passphrase>> {
    if !ring.info(name)?.encrypted {
        return Ok(None);
    }
    let text = match from_environment(PASSPHRASE) {
        Some(text) => text,
        None if std::io::stdin().is_terminal() => typed(&format!("passphrase of the key {name}"))?,
        None => return Ok(None),
    };
    Ok(Passphrase::new(text))
}

/// The passphrase of a key that is made: from the environment, or typed on a terminal.
fn new_passphrase() -> Result<Option<Passphrase>> {
    let text = match from_environment(PASSPHRASE) {
        Some(text) => text,
        None if std::io::stdin().is_terminal() => {
            typed_twice("passphrase for the new key (empty for none)")?
        }
        None => return Ok(None),
    };
    Ok(Passphrase::new(text))
}

fn changed_passphrase() -> Result<Option<Passphrase>> {
    let text = match from_environment(NEW_PASSPHRASE) {
        Some(text) => text,
        None if std::io::stdin().is_terminal() => typed_twice("new passphrase")?,
        None => bail!("set {NEW_PASSPHRASE}, or run this on a terminal"),
    };
    Ok(Passphrase::new(text))
}

fn value(name: &str, path: &Path, info: &KeyInfo) -> Value {
    json!({
        "name": name, "path": path, "kind": info.kind, "id": info.id, "passphrase": info.encrypted,
        "created_unix_s": info.created_unix_s, "queries": info.queries,
        "rotate_after": info.rotate_after, "rotations": info.rotations,
    })
}

fn said(ring: &Keyring, format: Format, name: &str, info: &KeyInfo, what: &str) -> Result<()> {
    let path = ring.path(name)?;
    output::print(format, &value(name, &path, info), || {
        say!("{what}: {name} ({})", path.display());
        if !info.encrypted {
            say!(
                "it is protected by file permissions only; encrypt it with `chemxor keys passphrase {name}`"
            );
        }
    })
}

pub(crate) fn run(home: &Home, format: Format, command: &KeysCommand) -> Result<()> {
    let ring = home.keyring()?;
    match command {
        KeysCommand::New(args) => new(&ring, format, args),
        KeysCommand::List => list(&ring, format),
        KeysCommand::Rotate(args) => rotate(&ring, format, args),
        KeysCommand::Export(args) => export(&ring, format, args),
        KeysCommand::Import(args) => import(&ring, format, args),
        KeysCommand::Passphrase(args) => passphrase(&ring, format, args),
        KeysCommand::Delete(args) => delete(&ring, format, args),
    }
}

fn new(ring: &Keyring, format: Format, args: &KeysNewArgs) -> Result<()> {
    let passphrase = new_passphrase()?;
    let default = if args.publisher {
        "publisher"
    } else {
        "default"
    };
    let name = args.name.as_deref().unwrap_or(default);
    let info = if args.publisher {
        ring.create_signing_key(name, passphrase.as_ref())?
    } else {
        ring.create_query_key(name, passphrase.as_ref(), args.rotate_after)?
    };
    let what = match info.kind {
        KeyKind::Query => "made a query key",
        KeyKind::Signing => "made a signing key",
    };
    said(ring, format, name, &info, what)
}

fn list(ring: &Keyring, format: Format) -> Result<()> {
    let keys = ring.list()?;
    let values = keys
        .iter()
        .map(|(name, info)| Ok(value(name, &ring.path(name)?, info)))
        .collect::<Result<Vec<Value>>>()?;
    output::print(format, &values, || {
        let row = |(name, info): &(String, KeyInfo)| {
            let kind = match info.kind {
                KeyKind::Query => "query",
                KeyKind::Signing => "signing",
            };
            let protection = if info.encrypted {
                "passphrase"
            } else {
                "file permissions"
            };
            let rotation = match (info.kind, info.rotate_after) {
                (KeyKind::Signing, _) | (_, 0) => "never".to_owned(),
                (KeyKind::Query, queries) => format!("after {queries}"),
            };
            let made = output::date(info.created_unix_s);
            [
                name,
                kind,
                &info.id,
                &made,
                protection,
                &info.queries.to_string(),
                &rotation,
            ]
            .map(str::to_owned)
            .to_vec()
        };
        let header = [
            "name",
            "kind",
            "id",
            "made",
            "protected by",
            "queries",
            "replaced",
        ];
        output::table(&header, &keys.iter().map(row).collect::<Vec<_>>());
    })
}

fn rotate(ring: &Keyring, format: Format, args: &KeysRotateArgs) -> Result<()> {
    let (info, what) = match args.after {
        Some(queries) => (
            ring.set_rotation(&args.name, queries)?,
            "will be replaced on its own",
        ),
        None => {
            let passphrase = passphrase_of(ring, &args.name)?;
            (
                ring.rotate(&args.name, passphrase.as_ref())?.0,
                "replaced by a fresh key",
            )
        }
    };
    said(ring, format, &args.name, &info, what)
}

fn export(ring: &Keyring, format: Format, args: &KeysExportArgs) -> Result<()> {
    let passphrase = passphrase_of(ring, &args.name)?;
    let Some(copy) = changed_passphrase()? else {
        bail!("a copy needs a passphrase: it leaves this folder and its permissions");
    };
    let info = ring.export(&args.name, passphrase.as_ref(), &copy, &args.output)?;
    let value = json!({ "name": args.name, "id": info.id, "output": args.output });
    output::print(format, &value, || {
        say!("{} written, encrypted", args.output.display())
    })
}

fn import(ring: &Keyring, format: Format, args: &KeysImportArgs) -> Result<()> {
    let text = match from_environment(PASSPHRASE) {
        Some(text) => text,
        None if std::io::stdin().is_terminal() => typed("passphrase of the file")?,
        None => bail!("set {PASSPHRASE} to the passphrase of the file"),
    };
    let Some(passphrase) = Passphrase::new(text) else {
        bail!("an exported key has a passphrase; it was empty");
    };
    let info = ring.import(&args.name, &args.file, &passphrase)?;
    said(ring, format, &args.name, &info, "imported")
}

fn passphrase(ring: &Keyring, format: Format, args: &KeyName) -> Result<()> {
    let old = passphrase_of(ring, &args.name)?;
    let new = changed_passphrase()?;
    let info = ring.set_passphrase(&args.name, old.as_ref(), new.as_ref())?;
    said(ring, format, &args.name, &info, "protection changed")
}

fn delete(ring: &Keyring, format: Format, args: &KeysDeleteArgs) -> Result<()> {
    let info = ring.info(&args.name)?;
    confirm(
        args.yes,
        "delete",
        &format!("the key {} ({:?}, id {})", args.name, info.kind, info.id),
    )?;
    ring.delete(&args.name)?;
    let value = json!({ "name": args.name, "id": info.id, "deleted": true });
    output::print(format, &value, || say!("deleted: {}", args.name))
}

/// Has `word` typed before something is lost; `yes` skips the question.
pub(crate) fn confirm(yes: bool, word: &str, what: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("{word} {what}: this cannot be undone; pass --yes to do it without a question");
    }
    eprint!("{word} {what} for ever? type `{word}`: ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() != word {
        bail!("nothing was changed");
    }
    Ok(())
}
