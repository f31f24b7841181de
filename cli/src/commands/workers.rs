//! `workers`: which there are, which serve a version, and how that changes.

use anyhow::{Result, bail};
use chemxor_client::known_workers::grouped;
use chemxor_client::publish;
use chemxor_proto::v1;
use chemxor_runtime::pki::sealing_fingerprint;
use serde_json::{Value, json};

use crate::args::{AuthorizeArgs, Format, WithdrawArgs, WorkersCommand};
use crate::commands::govern::ask;
use crate::commands::publish::{SealTo, read_bundle, signer};
use crate::home::Home;
use crate::output;

pub(crate) async fn run(
    home: &Home,
    format: Format,
    command: Option<WorkersCommand>,
) -> Result<()> {
    match command {
        None => workers(home, format).await,
        Some(WorkersCommand::Authorize(args)) => authorize(home, format, &args).await,
        Some(WorkersCommand::Withdraw(args)) => withdraw(home, format, &args).await,
        Some(WorkersCommand::Show(args)) => {
            let version = read_bundle(&args.bundle)?.version();
            let access = home.registry("publisher")?;
            show(
                format,
                &publish::withdraw(&access, &version, Vec::new()).await?,
            )
        }
    }
}

async fn authorize(home: &Home, format: Format, args: &AuthorizeArgs) -> Result<()> {
    let bundle = read_bundle(&args.bundle)?;
    if let Some(old) = &args.replace {
        let consequence = "it unloads the weights and its running steps go to others";
        ask(args.yes, "withdraw", old, consequence)?;
    }
    let signer = signer(home, &args.key)?;
    let access = home.registry("publisher")?;
    let to = SealTo {
        names: std::slice::from_ref(&args.worker),
        accept_new_key: args.accept_new_key,
    };
    let chosen = to.workers(home).await?;
    let [worker] = chosen.as_slice() else {
        bail!("name one worker");
    };
    let replaced = args.replace.as_deref();
    let placements = publish::authorize(&access, &bundle, &signer, worker, replaced).await?;
    show(format, &placements)
}

async fn withdraw(home: &Home, format: Format, args: &WithdrawArgs) -> Result<()> {
    let version = read_bundle(&args.bundle)?.version();
    let consequence = "it unloads the weights and its running steps go to others";
    ask(args.yes, "withdraw", &args.worker, consequence)?;
    let access = home.registry("publisher")?;
    let before = publish::withdraw(&access, &version, Vec::new()).await?;
    if !before.iter().any(|place| place.worker == args.worker) {
        bail!("worker {:?} does not serve {version}", args.worker);
    }
    let left = publish::withdraw(&access, &version, vec![args.worker.clone()]).await?;
    show(format, &left)
}

fn show(format: Format, placements: &[v1::Placement]) -> Result<()> {
    output::print(format, &listed(placements), || lines(placements))
}

/// Placements for programs.
pub(crate) fn listed(placements: &[v1::Placement]) -> Vec<Value> {
    let listed = placements.iter().map(|place| {
        json!({
            "worker": place.worker, "first_step": place.first_step, "end_step": place.end_step,
            "first_group": place.first_group, "end_group": place.end_group,
        })
    });
    listed.collect()
}

/// Placements for people.
pub(crate) fn lines(placements: &[v1::Placement]) {
    for place in placements {
        let (first, last, worker) = (
            place.first_step,
            place.end_step.saturating_sub(1),
            &place.worker,
        );
        match (place.first_group, place.end_group) {
            (0, 0) => say!("steps {first} to {last} run on {worker}"),
            (from, end) => {
                say!(
                    "output ciphertexts {from} to {} of step {first} run on {worker}",
                    end.saturating_sub(1)
                );
            }
        }
    }
}

async fn workers(home: &Home, format: Format) -> Result<()> {
    let workers = publish::workers(&home.registry("publisher")?).await?;
    let value: Vec<Value> = workers
        .iter()
        .map(|worker| {
            let fingerprint = sealing_fingerprint(&worker.sealing_key);
            json!({
                "name": worker.name, "endpoint": worker.endpoint, "fingerprint": fingerprint,
            })
        })
        .collect();
    output::print(format, &value, || {
        let row = |worker: &_| -> Vec<String> {
            let worker: &Value = worker;
            let text = |key: &str| worker[key].as_str().unwrap_or_default();
            vec![
                text("name").to_owned(),
                text("endpoint").to_owned(),
                grouped(text("fingerprint")),
            ]
        };
        output::table(
            &["name", "endpoint", "sealing key"],
            &value.iter().map(row).collect::<Vec<_>>(),
        );
    })
}
