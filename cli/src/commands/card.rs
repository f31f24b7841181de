//! `card`: what a publisher says about a version.

use std::path::Path;

use anyhow::{Context, Result, bail};
use chemxor_core::{Finding, MAX_CARD_BYTES, ModelCard, Severity, sign_card, verify_card};
use chemxor_proto::v1;
use serde_json::json;

use crate::args::{CardCommand, CardDraftArgs, CardLintArgs, CardSetArgs, CardShowArgs, Format};
use crate::commands::govern::{moment_json, registry};
use crate::commands::publish::{read_bundle, signer};
use crate::home::Home;
use crate::output::{self, Ended};

/// Who reads cards, in the order in which the profile's tokens are tried.
const READERS: [&str; 5] = ["querier", "publisher", "reviewer", "org-admin", "admin"];

pub(crate) async fn run(home: &Home, format: Format, command: &CardCommand) -> Result<()> {
    match command {
        CardCommand::Draft(args) => draft(format, args),
        CardCommand::Lint(args) => lint(format, args),
        CardCommand::Set(args) => set(home, format, args).await,
        CardCommand::Show(args) => show(home, format, args).await,
    }
}

pub(crate) fn read(path: &Path) -> Result<ModelCard> {
    let place = || path.display().to_string();
    let length = std::fs::metadata(path).with_context(place)?.len();
    if length > 4 * MAX_CARD_BYTES as u64 {
        bail!(
            "{} has {length} bytes, a card has at most {MAX_CARD_BYTES}",
            place()
        );
    }
    // spaces and line ends of people do not count: the compact form is signed
    let text = std::fs::read(path).with_context(place)?;
    let card: ModelCard = serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} is no model card; begin one with `chemxor card draft`",
            place()
        )
    })?;
    card.to_bytes().with_context(place)?;
    Ok(card)
}

fn draft(format: Format, args: &CardDraftArgs) -> Result<()> {
    let bundle = read_bundle(&args.bundle)?;
    let card = ModelCard::draft(bundle.manifest(), bundle.version());
    let open = card.lint().len();
    let place = args.output.display();
    if args.output.exists() {
        bail!("{place} exists; choose another file");
    }
    let text = serde_json::to_string_pretty(&card)? + "\n";
    chemxor_client::files::replace(&args.output, text.as_bytes())?;
    let value = json!({ "output": args.output, "version": card.version, "open": open });
    output::print(format, &value, || {
        say!("{place} written; {open} places are still to be written");
        say!(
            "check it with `chemxor card lint {place} --bundle {}`",
            args.bundle.display()
        );
    })
}

/// Shows the findings; fails when one must be mended.
fn report(format: Format, path: &Path, findings: &[Finding]) -> Result<()> {
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    let value = json!({ "card": path, "ready": errors == 0, "findings": findings });
    output::print(format, &value, || {
        for Finding {
            severity,
            field,
            problem,
        } in findings
        {
            let severity = match severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            say!("{severity:<8} {field}: {problem}");
        }
        match errors {
            0 => say!("{} can be uploaded", path.display()),
            count => say!("{} cannot be uploaded: {count} errors", path.display()),
        }
    })?;
    if errors > 0 {
        return Err(Ended(1).into());
    }
    Ok(())
}

fn lint(format: Format, args: &CardLintArgs) -> Result<()> {
    let card = read(&args.card)?;
    let findings = match &args.bundle {
        Some(path) => {
            let bundle = read_bundle(path)?;
            card.lint_for(bundle.manifest(), &bundle.version())
        }
        None => card.lint(),
    };
    report(format, &args.card, &findings)
}

async fn set(home: &Home, format: Format, args: &CardSetArgs) -> Result<()> {
    let card = read(&args.card)?;
    let findings = card.lint();
    if findings
        .iter()
        .any(|finding| finding.severity == Severity::Error)
    {
        return report(format, &args.card, &findings);
    }
    let bytes = card.to_bytes()?;
    let signature = sign_card(&signer(home, &args.key)?, &bytes);
    let request = v1::SetCardRequest {
        version: card.version.to_string(),
        card: bytes.into(),
        signature: signature.to_vec().into(),
    };
    let made = registry(home, &["publisher"])
        .await?
        .set_card(request)
        .await?;
    let value = json!({ "name": made.name, "version": made.version, "revision": made.revision });
    output::print(format, &value, || {
        say!(
            "{}@{} has revision {} of its card",
            made.name,
            made.version,
            made.revision
        );
    })
}

async fn show(home: &Home, format: Format, args: &CardShowArgs) -> Result<()> {
    let registry = registry(home, &READERS).await?;
    let model = args.model.clone();
    let found = registry.get_card(v1::GetCardRequest { model }).await?;
    verify_card(&found.publisher_key, &found.card, &found.signature)
        .context("the publisher's signature under the card")?;
    let card = ModelCard::from_bytes(&found.card)?;
    if card.version.to_string() != found.version {
        bail!(
            "the card is about {}, not about {}",
            card.version,
            found.version
        );
    }
    let value = json!({
        "name": found.name, "version": found.version, "revision": found.revision,
        "publisher": found.publisher, "created": moment_json(found.created_unix_ms), "card": card,
    });
    output::print(format, &value, || say!("{}", card.to_markdown().trim_end()))
}
