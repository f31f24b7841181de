//! `org`, `consortium`, `member`, `token`.

use std::path::Path;

use anyhow::Result;
use chemxor_client::files;
use chemxor_proto::v1;
use serde_json::{Value, json};

use crate::args::{
    ConsortiumCommand, Format, InOrg, MemberAddArgs, MemberCommand, MemberRemoveArgs, OrgCommand,
    TokenCommand, TokenCreateArgs, TokenRevokeArgs,
};
use crate::commands::govern::{ask, moment, moment_json, registry, rows};
use crate::home::Home;
use crate::output;

/// Who may do it, in the order in which the profile's tokens are tried.
const ADMINS: [&str; 2] = ["admin", "org-admin"];

fn organisation(organisation: &v1::Organisation) -> Value {
    json!({
        "name": organisation.name, "state": if organisation.suspended { "suspended" } else { "active" },
        "created": moment_json(organisation.created_unix_ms),
    })
}

pub(crate) async fn org(home: &Home, format: Format, command: &OrgCommand) -> Result<()> {
    let (name, suspended) = match command {
        OrgCommand::List => return list_orgs(home, format).await,
        OrgCommand::Create(args) | OrgCommand::Resume(args) => (&args.name, false),
        OrgCommand::Suspend(args) => {
            let consequence = "every token of its members is refused until it is resumed";
            ask(args.yes, "suspend", &args.name, consequence)?;
            (&args.name, true)
        }
    };
    let registry = registry(home, &["admin"]).await?;
    let name = name.clone();
    let made = registry
        .set_organisation(v1::SetOrganisationRequest { name, suspended })
        .await?;
    let value = organisation(&made);
    output::print(format, &value, || {
        say!(
            "{} is {}",
            made.name,
            value["state"].as_str().unwrap_or_default()
        );
    })
}

async fn list_orgs(home: &Home, format: Format) -> Result<()> {
    let registry = registry(home, &["admin"]).await?;
    let answer = registry
        .list_organisations(v1::ListOrganisationsRequest {})
        .await?;
    let values: Vec<Value> = answer.organisations.iter().map(organisation).collect();
    output::print(format, &values, || {
        let columns = [("name", "name"), ("state", "state"), ("made", "created")];
        rows(&columns, &values);
    })
}

fn consortium(consortium: &v1::SetConsortiumRequest) -> Value {
    json!({ "name": consortium.name, "organisations": consortium.organisations })
}

pub(crate) async fn consortia(
    home: &Home,
    format: Format,
    command: &ConsortiumCommand,
) -> Result<()> {
    let registry = registry(home, &["admin"]).await?;
    let known = registry
        .list_consortia(v1::ListConsortiaRequest {})
        .await?
        .consortia;
    let args = match command {
        ConsortiumCommand::Set(args) => args,
        ConsortiumCommand::List => {
            let values: Vec<Value> = known.iter().map(consortium).collect();
            return output::print(format, &values, || {
                rows(
                    &[("name", "name"), ("organisations", "organisations")],
                    &values,
                );
            });
        }
    };
    let before = known.iter().find(|known| known.name == args.name);
    let leaving: Vec<&str> = before
        .iter()
        .flat_map(|known| &known.organisations)
        .filter(|name| !args.organisations.contains(name))
        .map(String::as_str)
        .collect();
    if !leaving.is_empty() {
        let consequence = format!("{} will no longer see its models", leaving.join(", "));
        ask(args.yes, "set", &args.name, &consequence)?;
    }
    let request = v1::SetConsortiumRequest {
        name: args.name.clone(),
        organisations: args.organisations.clone(),
    };
    let value = consortium(&request);
    registry.set_consortium(request).await?;
    output::print(format, &value, || {
        say!("{} has {} members", args.name, args.organisations.len());
    })
}

fn member(member: &v1::Member) -> Value {
    json!({
        "organisation": member.organisation, "subject": member.subject, "kind": member.kind,
        "roles": member.roles, "state": if member.removed { "removed" } else { "active" },
    })
}

pub(crate) async fn members(home: &Home, format: Format, command: &MemberCommand) -> Result<()> {
    match command {
        MemberCommand::Add(args) => add_member(home, format, args).await,
        MemberCommand::List(args) => list_members(home, format, args).await,
        MemberCommand::Remove(args) => remove_member(home, format, args).await,
    }
}

/// Roles that a member has and would not have afterwards.
fn lost_roles<'a>(listed: &'a [v1::Member], subject: &str, roles: &[String]) -> Vec<&'a str> {
    let before = listed
        .iter()
        .filter(|member| member.subject == subject && !member.removed);
    let had = before.flat_map(|member| &member.roles);
    had.filter(|role| !roles.contains(role))
        .map(String::as_str)
        .collect()
}

async fn add_member(home: &Home, format: Format, args: &MemberAddArgs) -> Result<()> {
    let registry = registry(home, &ADMINS).await?;
    let organisation = args.place.organisation.clone();
    let listed = registry
        .list_members(v1::ListMembersRequest { organisation })
        .await?
        .members;
    let lost = lost_roles(&listed, &args.subject, &args.roles);
    if !lost.is_empty() {
        let consequence = format!("it is no longer {}", lost.join(", "));
        ask(args.yes, "set", &args.subject, &consequence)?;
    }
    let kind = if args.service { "service" } else { "person" };
    let made = registry
        .set_member(v1::Member {
            organisation: args.place.organisation.clone(),
            subject: args.subject.clone(),
            kind: kind.to_owned(),
            roles: args.roles.clone(),
            removed: false,
        })
        .await?;
    output::print(format, &member(&made), || {
        say!(
            "{} of {} may be: {}",
            made.subject,
            made.organisation,
            made.roles.join(", ")
        );
    })
}

async fn list_members(home: &Home, format: Format, args: &InOrg) -> Result<()> {
    let registry = registry(home, &ADMINS).await?;
    let organisation = args.organisation.clone();
    let request = v1::ListMembersRequest { organisation };
    let answer = registry.list_members(request).await?;
    let values: Vec<Value> = answer.members.iter().map(member).collect();
    output::print(format, &values, || {
        let columns = [
            ("organisation", "organisation"),
            ("subject", "subject"),
            ("kind", "kind"),
            ("roles", "roles"),
            ("state", "state"),
        ];
        rows(&columns, &values);
    })
}

async fn remove_member(home: &Home, format: Format, args: &MemberRemoveArgs) -> Result<()> {
    let consequence = "every token of this member is refused from now on";
    ask(args.yes, "remove", &args.subject, consequence)?;
    let registry = registry(home, &ADMINS).await?;
    let request = v1::RemoveMemberRequest {
        organisation: args.place.organisation.clone(),
        subject: args.subject.clone(),
    };
    registry.remove_member(request).await?;
    let value = json!({ "subject": args.subject, "state": "removed" });
    output::print(format, &value, || say!("removed: {}", args.subject))
}

pub(crate) async fn tokens(home: &Home, format: Format, command: &TokenCommand) -> Result<()> {
    match command {
        TokenCommand::Create(args) => create_token(home, format, args).await,
        TokenCommand::List(args) => list_tokens(home, format, args).await,
        TokenCommand::Revoke(args) => revoke_token(home, format, args).await,
    }
}

async fn create_token(home: &Home, format: Format, args: &TokenCreateArgs) -> Result<()> {
    if let Some(path) = args.output.as_ref().filter(|path| path.exists()) {
        anyhow::bail!("{} exists; choose another file", path.display());
    }
    let registry = registry(home, &ADMINS).await?;
    let made = registry
        .create_token(v1::CreateTokenRequest {
            subject: args.subject.clone(),
            roles: args.roles.clone(),
            lifetime_s: args.days * 86_400,
            organisation: args.place.organisation.clone(),
            models: args.models.clone(),
        })
        .await?;
    if let Some(path) = &args.output {
        files::create_secret(path, made.secret.as_bytes())?;
    }
    print_token(
        format,
        &made.token_id,
        made.expires_unix_ms,
        &made.secret,
        args.output.as_deref(),
    )
}

/// A token that was just made; shown unless it is in a file.
pub(crate) fn print_token(
    format: Format,
    id: &str,
    expires_unix_ms: i64,
    secret: &str,
    kept: Option<&Path>,
) -> Result<()> {
    let mut value = json!({
        "id": id, "expires_unix_ms": expires_unix_ms,
        "expires": moment_json(expires_unix_ms), "output": kept,
    });
    if kept.is_none() {
        value["token"] = secret.into();
    }
    output::print(format, &value, || {
        say!("token id  {id}");
        say!("expires   {}", moment(expires_unix_ms));
        match kept {
            Some(path) => say!("token     in {}, nowhere else", path.display()),
            None => {
                say!("token     {secret}");
                say!("it is not shown again: keep it in a file that only its holder may read");
            }
        }
    })
}

fn token(token: &v1::TokenInfo, now_ms: i64) -> Value {
    let state = match token {
        token if token.revoked_unix_ms != 0 => "revoked",
        token if token.expires_unix_ms <= now_ms => "expired",
        _ => "active",
    };
    json!({
        "id": token.token_id, "organisation": token.organisation, "subject": token.subject,
        "roles": token.roles, "models": token.models, "state": state,
        "created": moment_json(token.created_unix_ms), "expires": moment_json(token.expires_unix_ms),
        "revoked": moment_json(token.revoked_unix_ms),
    })
}

async fn list_tokens(home: &Home, format: Format, args: &InOrg) -> Result<()> {
    let registry = registry(home, &ADMINS).await?;
    let organisation = args.organisation.clone();
    let request = v1::ListTokensRequest { organisation };
    let answer = registry.list_tokens(request).await?;
    let now_ms = (time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as i64;
    let values: Vec<Value> = answer
        .tokens
        .iter()
        .map(|info| token(info, now_ms))
        .collect();
    output::print(format, &values, || {
        let columns = [
            ("id", "id"),
            ("organisation", "organisation"),
            ("subject", "subject"),
            ("roles", "roles"),
            ("models", "models"),
            ("state", "state"),
            ("expires", "expires"),
        ];
        rows(&columns, &values);
    })
}

async fn revoke_token(home: &Home, format: Format, args: &TokenRevokeArgs) -> Result<()> {
    let consequence = "it is refused for ever and its running sessions end";
    ask(
        args.yes,
        "revoke",
        &format!("the token {}", args.id),
        consequence,
    )?;
    let registry = registry(home, &ADMINS).await?;
    let token_id = args.id.clone();
    registry
        .revoke_token(v1::RevokeTokenRequest { token_id })
        .await?;
    let value = json!({ "id": args.id, "state": "revoked" });
    output::print(format, &value, || say!("revoked: {}", args.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_roles_that_a_present_member_loses_are_asked_about() {
        let member = |subject: &str, roles: &[&str], removed| v1::Member {
            subject: subject.to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            removed,
            ..Default::default()
        };
        let listed = [
            member("alice", &["publisher", "querier"], false),
            member("bob", &["reviewer"], true),
        ];
        let querier = ["querier".to_owned()];
        assert_eq!(lost_roles(&listed, "alice", &querier), ["publisher"]);
        let more = ["publisher", "querier", "reviewer"].map(str::to_owned);
        assert!(lost_roles(&listed, "alice", &more).is_empty());
        assert!(lost_roles(&listed, "bob", &querier).is_empty());
        assert!(lost_roles(&listed, "carol", &querier).is_empty());
    }
}
