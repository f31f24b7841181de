//! The home folder: keys, and one folder for each platform profile.
//!
//! ```text
//! HOME/keys/NAME.key            lab keys and signing keys, owner-only
//! HOME/PROFILE/profile.toml     addresses and files, below
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
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
    /// Token files by role.
    pub(crate) tokens: BTreeMap<String, PathBuf>,
}

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
        if args.profile.is_empty() || args.profile.contains(['/', '\\', '.']) {
            bail!(
                "profile {:?} is not a name: use letters, digits, '-' and '_'",
                args.profile
            );
        }
        let folder = std::path::absolute(&folder)
            .with_context(|| format!("{} is not a folder", folder.display()))?;
        Ok(Self {
            folder,
            profile: args.profile.clone(),
            token_file: args.token_file.clone(),
        })
    }

    /// File of a key.
    pub(crate) fn key(&self, name: &str) -> Result<PathBuf> {
        if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
            bail!("key name {name:?} is not a file name: use letters, digits, '-' and '_'");
        }
        Ok(self.folder.join("keys").join(format!("{name}.key")))
    }

    /// Folder of the profile.
    pub(crate) fn profile_folder(&self) -> PathBuf {
        self.folder.join(&self.profile)
    }

    fn profile(&self) -> Result<(PathBuf, Profile)> {
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

    /// The gateway, with the querier's token.
    pub(crate) fn gateway(&self) -> Result<Access> {
        self.access("querier", |profile| &profile.gateway)
    }
}

impl Profile {
    /// Writes `profile.toml`, replacing an older one at once.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let text = toml::to_string_pretty(self)?;
        let (new, path) = (folder.join("profile.toml.new"), folder.join("profile.toml"));
        std::fs::write(&new, text).with_context(|| format!("{}", new.display()))?;
        std::fs::rename(&new, &path).with_context(|| format!("{}", path.display()))
    }
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
