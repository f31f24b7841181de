//! The home folder: keys, and one folder for each platform profile.
//!
//! ```text
//! HOME/keys/NAME.key            lab keys and signing keys, owner-only
//! HOME/config.toml              which profile is used when none is named
//! HOME/PROFILE/profile.toml     addresses and files, below
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chemxor_client::keyring::Keyring;
use chemxor_client::{Access, Token};
use chemxor_runtime::tls::TlsFiles;
use serde::{Deserialize, Serialize};

use crate::args::Args;

/// `profile.toml`; relative paths are relative to its folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// host:port of the registry.
    pub(crate) registry: String,
    /// host:port of the gateway.
    pub(crate) gateway: String,
    /// The platform's authority.
    pub(crate) ca: PathBuf,
    /// Our certificate.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// The only model of a server that serves one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// Token files by role.
    pub(crate) tokens: BTreeMap<String, PathBuf>,
}

/// `config.toml`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The profile that is used when none is named.
    profile: Option<String>,
}

/// The profile of `chemxor up`.
pub(crate) const LOCAL: &str = "local";

/// Where everything lies.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    folder: PathBuf,
    profile: String,
    token_file: Option<PathBuf>,
}

impl Home {
    pub(crate) fn of(args: &Args) -> Result<Self> {
        let folder = match &args.home {
            Some(folder) => folder.clone(),
            None => default_folder()?,
        };
        let folder = std::path::absolute(&folder)
            .with_context(|| format!("{} is not a folder", folder.display()))?;
        let profile = match &args.profile {
            Some(profile) => profile.clone(),
            None => chosen(&folder)?.unwrap_or_else(|| LOCAL.to_owned()),
        };
        check_profile_name(&profile)?;
        Ok(Self {
            folder,
            profile,
            token_file: args.token_file.clone(),
        })
    }

    /// The same home with another profile.
    pub(crate) fn with_profile(&self, profile: &str) -> Self {
        Self {
            profile: profile.to_owned(),
            ..self.clone()
        }
    }

    /// The folder of everything.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The keyring.
    pub(crate) fn keyring(&self) -> Result<Keyring> {
        Ok(Keyring::open(&self.folder.join("keys"))?)
    }

    /// Name of the profile.
    pub(crate) fn profile_name(&self) -> &str {
        &self.profile
    }

    /// Every profile of this home, by name.
    pub(crate) fn profiles(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().join("profile.toml").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    /// Makes a profile the one that is used when none is named.
    pub(crate) fn choose(&self, profile: &str) -> Result<()> {
        let config = Config {
            profile: Some(profile.to_owned()),
        };
        std::fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        write_new(
            &self.folder.join("config.toml"),
            &toml::to_string_pretty(&config)?,
        )
    }

    /// The profile and the model of what a query names: a model of this profile, or the address of a
    /// server that a profile knows.
    pub(crate) fn serving(&self, model: &str) -> Result<(Self, String)> {
        let Some(address) = address(model) else {
            return Ok((self.clone(), model.to_owned()));
        };
        for name in self.profiles() {
            let home = self.with_profile(&name);
            let (_, profile) = home.profile()?;
            if profile.gateway != address {
                continue;
            }
            let Some(model) = profile.model else {
                bail!(
                    "{model} serves more than one model; name one: `chemxor query NAME --profile {name}`"
                );
            };
            return Ok((home, model));
        }
        bail!(
            "no profile knows the server {model}; start one here with `chemxor serve`, or add its addresses, certificate and token with `chemxor profiles add`"
        )
    }

    /// Folder of the profile.
    pub(crate) fn profile_folder(&self) -> PathBuf {
        self.folder.join(&self.profile)
    }

    /// Folder and content of the profile.
    pub(crate) fn profile(&self) -> Result<(PathBuf, Profile)> {
        let folder = self.profile_folder();
        let path = folder.join("profile.toml");
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "no profile {:?} ({}); start a platform with `chemxor up`, or write this file for yours",
                self.profile,
                path.display()
            )
        })?;
        let profile = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
        Ok((folder, profile))
    }

    fn access(&self, role: &str, endpoint: impl Fn(&Profile) -> &String) -> Result<Access> {
        let (folder, profile) = self.profile()?;
        let file = match (&self.token_file, profile.tokens.get(role)) {
            (Some(file), _) => file.clone(),
            (None, Some(file)) => folder.join(file),
            (None, None) => bail!(
                "profile {:?} has no token for the role {role}; add it under [tokens], or pass --token-file",
                self.profile
            ),
        };
        let token: Token = chemxor_client::batch::read_token(&file)?;
        Ok(Access {
            endpoint: endpoint(&profile).clone(),
            tls: TlsFiles {
                ca: folder.join(&profile.ca),
                cert: folder.join(&profile.cert),
                key: folder.join(&profile.key),
            },
            token,
        })
    }

    /// The registry, with the token of a role.
    pub(crate) fn registry(&self, role: &str) -> Result<Access> {
        self.access(role, |profile| &profile.registry)
    }

    /// The registry, with the first token that the profile has of these roles.
    pub(crate) fn registry_as(&self, roles: &[&str]) -> Result<Access> {
        let (_, profile) = self.profile()?;
        let has = |role: &&&str| profile.tokens.contains_key(**role);
        let role = roles.iter().find(has).or(roles.first());
        self.registry(role.copied().unwrap_or_default())
    }

    /// The gateway, with the querier's token.
    pub(crate) fn gateway(&self) -> Result<Access> {
        self.gateway_as("querier")
    }

    /// The gateway, with the token of another role: for what waits for approval.
    pub(crate) fn gateway_as(&self, role: &str) -> Result<Access> {
        self.access(role, |profile| &profile.gateway)
    }
}

impl Profile {
    /// Writes `profile.toml`, replacing an older one at once.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        write_new(&folder.join("profile.toml"), &toml::to_string_pretty(self)?)
    }
}

/// Writes a file, replacing an older one at once.
fn write_new(path: &Path, text: &str) -> Result<()> {
    Ok(chemxor_client::files::replace(path, text.as_bytes())?)
}

/// Refuses what cannot be the name of a folder.
pub(crate) fn check_profile_name(name: &str) -> Result<()> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if name.is_empty() || !name.chars().all(ok) {
        bail!("profile {name:?} is not a name: use letters, digits, '-' and '_'");
    }
    Ok(())
}

/// What `chemxor profiles use` chose.
fn chosen(folder: &Path) -> Result<Option<String>> {
    let path = folder.join("config.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let config: Config =
                toml::from_str(&text).with_context(|| path.display().to_string())?;
            Ok(config.profile)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// host:port of `https://host:port`, as profiles write it; `None` for the name of a model.
fn address(text: &str) -> Option<String> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let rest = rest.or_else(|| {
        text.contains(':')
            .then_some(text)
            .filter(|text| !text.contains('@'))
    })?;
    let rest = rest.split('/').next().unwrap_or_default();
    Some(match rest.split_once(':') {
        Some(("0.0.0.0" | "127.0.0.1", port)) => format!("localhost:{port}"),
        Some(_) => rest.to_owned(),
        None => format!("{rest}:443"),
    })
}

fn default_folder() -> Result<PathBuf> {
    if nix::unistd::Uid::effective().is_root() {
        // PostgreSQL runs as another user, who may not enter /root
        return Ok("/var/lib/chemxor".into());
    }
    if let Some(data) = std::env::var_os("XDG_DATA_HOME") {
        return Ok(PathBuf::from(data).join("chemxor"));
    }
    let home = std::env::var_os("HOME")
        .context("neither HOME nor XDG_DATA_HOME is set; pass --home DIR")?;
    Ok(PathBuf::from(home).join(".local/share/chemxor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_models() {
        for (text, expected) in [
            ("esol", None),
            ("esol@stable", None),
            ("esol@sha256:00", None),
            ("https://localhost:8000", Some("localhost:8000")),
            ("http://0.0.0.0:8000/", Some("localhost:8000")),
            ("127.0.0.1:8000", Some("localhost:8000")),
            ("https://gw.example.org", Some("gw.example.org:443")),
        ] {
            assert_eq!(address(text).as_deref(), expected, "{text}");
        }
    }
}
