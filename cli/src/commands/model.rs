//! `model`, `alias`, `quota`: what the owner of a model decides.

use anyhow::{Context, Result, bail};
use chemxor_proto::v1;
use serde_json::{Value, json};
use time::macros::format_description;

use crate::args::{
    AliasArgs, AliasCommand, AliasRollbackArgs, AliasSetArgs, DeprecateArgs, Format, Limit,
    ModelCommand, ModelNameArg, ModelRefArg, QuotaCommand, QuotaSetArgs, QuotaUnsetArgs,
    VisibilityArgs, VisibilityKind,
};
use crate::commands::govern::{ask, moment, moment_json, registry, rows};
use crate::commands::verify::verified;
use crate::home::Home;
use crate::output;

/// Who manages models, in the order in which the profile's tokens are tried.
const OWNERS: [&str; 3] = ["admin", "org-admin", "publisher"];
/// Who reads them.
const READERS: [&str; 5] = ["querier", "publisher", "reviewer", "org-admin", "admin"];

pub(crate) async fn models(home: &Home, format: Format, command: &ModelCommand) -> Result<()> {
    match command {
        ModelCommand::Show(args) => show(home, format, args).await,
        ModelCommand::Visibility(args) => visibility(home, format, args).await,
        ModelCommand::Deprecate(args) => deprecate(home, format, args).await,
    }
}

async fn show(home: &Home, format: Format, args: &ModelRefArg) -> Result<()> {
    let registry = registry(home, &READERS).await?;
    let model = args.model.clone();
    let version = registry.get_model(v1::GetModelRequest { model }).await?;
    let (manifest, signed) = verified(&version, None, None)?;
    let value = json!({
        "name": version.name, "version": version.version, "state": version.state,
        "organisation": version.organisation, "publisher": version.publisher,
        "created": moment_json(version.created_unix_ms),
        "sunset": moment_json(version.sunset_unix_ms), "signatures": signed, "manifest": manifest,
    });
    output::print(format, &value, || {
        say!("{}@{}", version.name, version.version);
        say!("state         {}", version.state);
        if version.sunset_unix_ms != 0 {
            say!("sunset        {}", moment(version.sunset_unix_ms));
        }
        say!("organisation  {}", version.organisation);
        say!("publisher     {}", version.publisher);
        say!("begun         {}", moment(version.created_unix_ms));
        let unit = match manifest.unit.as_str() {
            "" => String::new(),
            unit => format!(" [{unit}]"),
        };
        say!("endpoint      {}{unit}", manifest.endpoint);
        say!(
            "held out      {} {:.4}",
            manifest.metrics.metric,
            manifest.metrics.twin
        );
        say!(
            "leakage       {} bits a query",
            manifest.leakage_bits_per_query
        );
        say!("signed by     {}", signed.publisher_key);
        match &signed.registry_key {
            Some(key) => say!("approved by   registry {key}"),
            None => say!("approved by   nobody yet"),
        }
    })
}

fn visibility_text(value: &v1::SetVisibilityRequest) -> String {
    match value.visibility.as_str() {
        "listed" => format!("listed: {}", value.organisations.join(", ")),
        "consortium" => format!("the consortium {}", value.consortium),
        other => other.to_owned(),
    }
}

/// Whether somebody who sees a model now may not see it any more. Members of a consortium count as
/// others than those listed: who they are is not known here.
fn narrows(now: &v1::SetVisibilityRequest, next: &v1::SetVisibilityRequest) -> bool {
    let listed = |name: &String| next.organisations.contains(name);
    match (now.visibility.as_str(), next.visibility.as_str()) {
        ("private", _) | (_, "everyone") => false,
        ("listed", "listed") => !now.organisations.iter().all(listed),
        ("consortium", "consortium") => now.consortium != next.consortium,
        _ => true,
    }
}

async fn visibility(home: &Home, format: Format, args: &VisibilityArgs) -> Result<()> {
    let request = match args.visibility {
        None => None,
        Some(kind) => {
            let (listed, consortium) = (!args.organisations.is_empty(), args.consortium.is_some());
            let kind = match (kind, listed, consortium) {
                (VisibilityKind::Private, false, false) => "private",
                (VisibilityKind::Everyone, false, false) => "everyone",
                (VisibilityKind::Listed, true, false) => "listed",
                (VisibilityKind::Consortium, false, true) => "consortium",
                _ => bail!(
                    "write `private`, `everyone`, `listed` with --org, or `consortium` with --consortium"
                ),
            };
            Some(v1::SetVisibilityRequest {
                model: args.model.clone(),
                visibility: kind.to_owned(),
                organisations: args.organisations.clone(),
                consortium: args.consortium.clone().unwrap_or_default(),
            })
        }
    };
    let registry = registry(home, &OWNERS).await?;
    let model = args.model.clone();
    let mut now = registry
        .get_visibility(v1::GetVisibilityRequest { model })
        .await?;
    if let Some(request) = request {
        let model = &args.model;
        if request.visibility == "everyone" && now.visibility != "everyone" {
            let consequence = "every organisation of the platform sees it";
            ask(
                args.yes,
                "show",
                &format!("{model} to everyone"),
                consequence,
            )?;
        } else if narrows(&now, &request) {
            let what = format!("{model} from who sees it now ({})", visibility_text(&now));
            let consequence = "their running sessions end at the next step";
            ask(args.yes, "hide", &what, consequence)?;
        }
        registry.set_visibility(request.clone()).await?;
        now = request;
    }
    let consortium = (!now.consortium.is_empty()).then_some(&now.consortium);
    let value = json!({
        "model": now.model, "visibility": now.visibility, "organisations": now.organisations,
        "consortium": consortium,
    });
    output::print(format, &value, || {
        say!(
            "{} is seen by its owner and: {}",
            now.model,
            visibility_text(&now)
        );
    })
}

fn sunset(day: &str) -> Result<i64> {
    let form = format_description!("[year]-[month]-[day]");
    let day = time::Date::parse(day, form)
        .with_context(|| format!("--sunset {day:?} is no day; write YYYY-MM-DD"))?;
    Ok(day.midnight().assume_utc().unix_timestamp() * 1000)
}

async fn deprecate(home: &Home, format: Format, args: &DeprecateArgs) -> Result<()> {
    let sunset_unix_ms = args.sunset.as_deref().map(sunset).transpose()?.unwrap_or(0);
    let consequence = match &args.sunset {
        Some(day) => format!("it is not served from {day} on, and never becomes approved again"),
        None => "it never becomes approved again".to_owned(),
    };
    ask(args.yes, "deprecate", &args.model, &consequence)?;
    let registry = registry(home, &OWNERS).await?;
    let version = registry
        .deprecate_version(v1::DeprecateVersionRequest {
            model: args.model.clone(),
            sunset_unix_ms,
            reason: args.reason.clone(),
        })
        .await?;
    let value = json!({
        "name": version.name, "version": version.version, "state": version.state,
        "sunset": moment_json(version.sunset_unix_ms),
    });
    output::print(format, &value, || {
        say!("{}@{} is {}", version.name, version.version, version.state);
        if version.sunset_unix_ms != 0 {
            say!("it is served until {}", moment(version.sunset_unix_ms));
        }
    })
}

fn change(change: &v1::AliasChange) -> Value {
    let from = (!change.from_version.is_empty()).then_some(&change.from_version);
    json!({
        "alias": change.alias, "from": from, "to": change.to_version, "actor": change.actor,
        "at": moment_json(change.at_unix_ms),
    })
}

pub(crate) async fn aliases(home: &Home, format: Format, command: &AliasCommand) -> Result<()> {
    match command {
        AliasCommand::Set(args) => set_alias(home, format, args).await,
        AliasCommand::List(args) => list_aliases(home, format, args).await,
        AliasCommand::History(args) => history(home, format, args).await,
        AliasCommand::Rollback(args) => rollback(home, format, args).await,
    }
}

fn moved(format: Format, model: &str, moved: &v1::AliasChange) -> Result<()> {
    output::print(format, &change(moved), || {
        say!("{model}@{} is {}", moved.alias, moved.to_version);
        if !moved.from_version.is_empty() {
            say!("it was {}", moved.from_version);
        }
    })
}

async fn set_alias(home: &Home, format: Format, args: &AliasSetArgs) -> Result<()> {
    let registry = registry(home, &OWNERS).await?;
    let done = registry
        .set_alias(v1::SetAliasRequest {
            model: args.model.clone(),
            alias: args.alias.clone(),
            version: args.version.clone(),
        })
        .await?;
    moved(format, &args.model, &done)
}

async fn list_aliases(home: &Home, format: Format, args: &ModelNameArg) -> Result<()> {
    let registry = registry(home, &READERS).await?;
    let model = args.model.clone();
    let answer = registry
        .list_aliases(v1::ListAliasesRequest { model })
        .await?;
    let values: Vec<Value> = answer.changes.iter().map(change).collect();
    output::print(format, &values, || {
        let columns = [
            ("alias", "alias"),
            ("version", "to"),
            ("since", "at"),
            ("by", "actor"),
        ];
        rows(&columns, &values);
    })
}

async fn history(home: &Home, format: Format, args: &AliasArgs) -> Result<()> {
    let registry = registry(home, &READERS).await?;
    let answer = registry
        .alias_history(v1::AliasHistoryRequest {
            model: args.model.clone(),
            alias: args.alias.clone(),
        })
        .await?;
    let values: Vec<Value> = answer.changes.iter().map(change).collect();
    output::print(format, &values, || {
        rows(
            &[
                ("at", "at"),
                ("by", "actor"),
                ("from", "from"),
                ("to", "to"),
            ],
            &values,
        );
    })
}

async fn rollback(home: &Home, format: Format, args: &AliasRollbackArgs) -> Result<()> {
    let (model, alias) = (&args.which.model, &args.which.alias);
    let consequence = "who queries the alias gets the version before from now on";
    ask(
        args.yes,
        "rollback",
        &format!("{model}@{alias}"),
        consequence,
    )?;
    let registry = registry(home, &OWNERS).await?;
    let done = registry
        .rollback_alias(v1::RollbackAliasRequest {
            model: model.clone(),
            alias: alias.clone(),
        })
        .await?;
    moved(format, model, &done)
}

pub(crate) async fn quotas(home: &Home, format: Format, command: &QuotaCommand) -> Result<()> {
    match command {
        QuotaCommand::Set(args) => set_quota(home, format, args).await,
        QuotaCommand::Unset(args) => unset_quota(home, format, args).await,
        QuotaCommand::Show(args) => show_quotas(home, format, args).await,
    }
}

fn quota(quota: &v1::Quota) -> Value {
    json!({
        "organisation": quota.organisation, "queries_per_day": quota.queries_per_day,
        "concurrent_sessions": quota.concurrent_sessions, "bytes_per_day": quota.bytes_per_day,
        "compute_ms_per_day": quota.compute_ms_per_day, "lifetime_queries": quota.lifetime_queries,
    })
}

const LIMITS: [(&str, &str); 6] = [
    ("organisation", "organisation"),
    ("queries/day", "queries_per_day"),
    ("sessions", "concurrent_sessions"),
    ("bytes/day", "bytes_per_day"),
    ("compute ms/day", "compute_ms_per_day"),
    ("queries ever", "lifetime_queries"),
];

async fn set_quota(home: &Home, format: Format, args: &QuotaSetArgs) -> Result<()> {
    let limits = [
        args.queries_per_day,
        args.concurrent_sessions,
        args.bytes_per_day,
        args.compute_ms_per_day,
        args.lifetime_queries,
    ];
    if limits.iter().all(Option::is_none) {
        bail!("name a limit, e.g. --queries-per-day 1000, or --queries-per-day none");
    }
    let registry = registry(home, &OWNERS[..2]).await?;
    let model = args.model.clone();
    let known = registry
        .list_quotas(v1::ListQuotasRequest { model })
        .await?;
    let before = known
        .quotas
        .into_iter()
        .find(|quota| quota.organisation == args.organisation)
        .unwrap_or_default();
    let keep = |given: Option<Limit>, before: Option<u64>| given.map_or(before, |limit| limit.0);
    let made = registry
        .set_quota(v1::Quota {
            model: args.model.clone(),
            organisation: args.organisation.clone(),
            queries_per_day: keep(limits[0], before.queries_per_day),
            concurrent_sessions: keep(limits[1], before.concurrent_sessions),
            bytes_per_day: keep(limits[2], before.bytes_per_day),
            compute_ms_per_day: keep(limits[3], before.compute_ms_per_day),
            lifetime_queries: keep(limits[4], before.lifetime_queries),
        })
        .await?;
    let value = quota(&made);
    output::print(format, &value, || {
        rows(&LIMITS, std::slice::from_ref(&value))
    })
}

async fn unset_quota(home: &Home, format: Format, args: &QuotaUnsetArgs) -> Result<()> {
    let made = registry(home, &OWNERS[..2])
        .await?
        .set_quota(v1::Quota {
            model: args.model.clone(),
            organisation: args.organisation.clone(),
            ..Default::default()
        })
        .await?;
    let value = quota(&made);
    output::print(format, &value, || match args.organisation.as_str() {
        "*" => say!("{} has no limits for everyone now", args.model),
        name => say!("{name} has no limits of its own for {} now", args.model),
    })
}

async fn show_quotas(home: &Home, format: Format, args: &ModelNameArg) -> Result<()> {
    let registry = registry(home, &OWNERS[..2]).await?;
    let model = args.model.clone();
    let answer = registry
        .list_quotas(v1::ListQuotasRequest { model })
        .await?;
    let quotas: Vec<Value> = answer.quotas.iter().map(quota).collect();
    let usage: Vec<Value> = answer
        .usage
        .iter()
        .map(|usage| {
            json!({
                "organisation": usage.organisation, "queries_today": usage.queries_today,
                "bytes_today": usage.bytes_today, "compute_ms_today": usage.compute_ms_today,
                "lifetime_queries": usage.lifetime_queries,
            })
        })
        .collect();
    let value = json!({ "model": args.model, "quotas": quotas, "usage": usage });
    output::print(format, &value, || {
        say!("limits (empty: those of *, and for * none)");
        rows(&LIMITS, &quotas);
        say!("\nused");
        let columns = [
            ("organisation", "organisation"),
            ("queries today", "queries_today"),
            ("bytes today", "bytes_today"),
            ("compute ms today", "compute_ms_today"),
            ("queries ever", "lifetime_queries"),
        ];
        rows(&columns, &usage);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visibility_narrows_when_somebody_may_lose_sight() {
        let seen =
            |visibility: &str, organisations: &[&str], consortium: &str| v1::SetVisibilityRequest {
                model: "esol".to_owned(),
                visibility: visibility.to_owned(),
                organisations: organisations.iter().map(ToString::to_string).collect(),
                consortium: consortium.to_owned(),
            };
        let (private, everyone) = (seen("private", &[], ""), seen("everyone", &[], ""));
        let (one, two) = (seen("listed", &["a"], ""), seen("listed", &["a", "b"], ""));
        let (club, other) = (seen("consortium", &[], "c"), seen("consortium", &[], "d"));
        let all = [&private, &everyone, &one, &two, &club, &other];
        for any in all {
            assert!(!narrows(&private, any) && !narrows(any, &everyone));
            assert!(!narrows(any, any));
        }
        for any in &all[1..] {
            assert!(narrows(any, &private), "{any:?}");
        }
        assert!(!narrows(&one, &two) && narrows(&two, &one));
        assert!(narrows(&club, &other) && narrows(&club, &two) && narrows(&two, &club));
        assert!(narrows(&everyone, &two));
    }

    #[test]
    fn a_sunset_is_the_begin_of_a_day() {
        assert_eq!(sunset("1970-01-02").unwrap(), 86_400_000);
        for bad in ["", "tomorrow", "2027-02-30", "2027-1-1"] {
            let refused = sunset(bad).unwrap_err().to_string();
            assert!(refused.contains("YYYY-MM-DD"), "{refused}");
        }
    }
}
