//! `profiles`: the platforms that this machine knows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use chemxor_client::files;
use serde_json::{Value, json};

use crate::args::{Format, ProfilesAddArgs, ProfilesCommand, ProfilesRemoveArgs};
use crate::commands::keys::confirm;
use crate::home::{Home, Profile, check_profile_name};
use crate::output;

pub(crate) fn run(home: &Home, format: Format, command: &ProfilesCommand) -> Result<()> {
    match command {
        ProfilesCommand::List => list(home, format),
        ProfilesCommand::Add(args) => add(home, format, args),
        ProfilesCommand::Use(args) => {
            home.with_profile(&args.name).profile()?;
            home.choose(&args.name)?;
            let value = json!({ "profile": args.name, "chosen": true });
            output::print(format, &value, || {
                say!("profile {} is used from now on", args.name)
            })
        }
        ProfilesCommand::Remove(args) => remove(home, format, args),
    }
}

fn list(home: &Home, format: Format) -> Result<()> {
    let mut values = Vec::new();
    for name in home.profiles() {
        let (_, profile) = home.with_profile(&name).profile()?;
        values.push(json!({
            "name": name, "chosen": name == home.profile_name(), "registry": profile.registry,
            "gateway": profile.gateway, "model": profile.model,
            "roles": profile.tokens.keys().collect::<Vec<_>>(),
        }));
    }
    output::print(format, &values, || {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let row = |value: &Value| {
            let roles: Vec<String> = value["roles"]
                .as_array()
                .into_iter()
                .flatten()
                .map(text)
                .collect();
            let mark = if value["chosen"] == true { "*" } else { "" };
            vec![
                mark.to_owned(),
                text(&value["name"]),
                text(&value["registry"]),
                text(&value["gateway"]),
                roles.join(","),
            ]
        };
        let header = ["", "name", "registry", "gateway", "tokens"];
        output::table(&header, &values.iter().map(row).collect::<Vec<_>>());
    })
}

fn add(home: &Home, format: Format, args: &ProfilesAddArgs) -> Result<()> {
    check_profile_name(&args.name)?;
    if ["keys", "local", "serve"].contains(&args.name.as_str()) {
        bail!("the name {:?} is taken; choose another one", args.name);
    }
    let folder = home.with_profile(&args.name).profile_folder();
    if folder.exists() {
        bail!(
            "profile {:?} exists; remove it first: `chemxor profiles remove {0}`",
            args.name
        );
    }
    for address in [&args.registry, &args.gateway] {
        let port = address
            .rsplit_once(':')
            .map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            bail!("{address:?} is not an address; write host:port");
        }
    }
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| path.display().to_string());
    let (ca, cert) = (read(&args.ca)?, read(&args.cert)?);
    let key = files::read_secret(&args.tls_key, 64 << 10)?;
    let mut tokens = Vec::new();
    for token in &args.tokens {
        let Some((role, file)) = token.split_once('=') else {
            bail!("--token {token:?}: write ROLE=FILE, e.g. querier=token.txt");
        };
        check_profile_name(role)?;
        tokens.push((role, files::read_secret(file.as_ref(), 4096)?));
    }
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let write = |name: &str, bytes: &[u8]| files::create_secret(&folder.join(name), bytes);
    write("ca.pem", &ca)?;
    write("client.pem", &cert)?;
    write("client.key", &key)?;
    let mut files = BTreeMap::new();
    for (role, token) in tokens {
        let name = format!("{role}.token");
        write(&name, &token)?;
        files.insert(role.to_owned(), name.into());
    }
    Profile {
        registry: args.registry.clone(),
        gateway: args.gateway.clone(),
        ca: "ca.pem".into(),
        cert: "client.pem".into(),
        key: "client.key".into(),
        model: None,
        tokens: files,
    }
    .write(&folder)?;
    let value = json!({ "name": args.name, "folder": folder });
    output::print(format, &value, || {
        say!(
            "profile {} written; check it with `chemxor doctor --profile {0}`",
            args.name
        );
    })
}

fn remove(home: &Home, format: Format, args: &ProfilesRemoveArgs) -> Result<()> {
    check_profile_name(&args.name)?;
    let home = home.with_profile(&args.name);
    home.profile()?;
    let folder = home.profile_folder();
    if folder.join("postgres").exists() {
        bail!(
            "profile {:?} is a platform of this machine; remove it with `chemxor reset --profile {0}`",
            args.name
        );
    }
    confirm(
        args.yes,
        "remove",
        &format!("the profile {} with its certificate and tokens", args.name),
    )?;
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let value = json!({ "name": args.name, "removed": true });
    output::print(format, &value, || say!("removed: {}", args.name))
}
