//! What every example needs: its arguments, and a profile of `chemxor up` as access to the services.

use std::path::{Path, PathBuf};

use chemxor_client::{Access, batch};
use chemxor_runtime::tls::TlsFiles;
use serde::Deserialize;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The arguments, as many as `usage` names.
pub(crate) fn arguments<const N: usize>(usage: &str) -> Result<[String; N]> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    arguments
        .try_into()
        .map_err(|_| format!("usage: {usage}").into())
}

#[derive(Deserialize)]
struct Profile {
    registry: String,
    gateway: String,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    tokens: std::collections::BTreeMap<String, PathBuf>,
}

/// Registry and gateway of a profile, as its querier.
pub(crate) fn read(folder: &str) -> Result<(Access, Access)> {
    let folder = Path::new(folder);
    let profile: Profile = toml::from_str(&std::fs::read_to_string(folder.join("profile.toml"))?)?;
    let token = profile
        .tokens
        .get("querier")
        .ok_or("the profile has no querier's token")?;
    let access = |endpoint: &str| -> Result<Access> {
        Ok(Access {
            endpoint: endpoint.to_owned(),
            tls: TlsFiles {
                ca: folder.join(&profile.ca),
                cert: folder.join(&profile.cert),
                key: folder.join(&profile.key),
            },
            token: batch::read_token(&folder.join(token))?,
        })
    };
    Ok((access(&profile.registry)?, access(&profile.gateway)?))
}
