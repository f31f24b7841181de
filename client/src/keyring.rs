//! Secret keys at rest: files that only their owner may read, in a folder that only its owner may
//! enter, encrypted with a passphrase (age, scrypt) when one is given.
//!
//! ```text
//! FOLDER/NAME.key     the key, plain or age-encrypted
//! FOLDER/NAME.json    what may be known of it: kind, id, age, queries, when it is rotated
//! FOLDER/.lock        held while a .json is changed
//! ```
//!
//! A lab key works for every model: it has a part for each ring. It is only needed while a session
//! is open, so rotation replaces it and nothing is lost; the public keys are made afresh for each
//! session and uploaded once.

mod managed;
mod protect;

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use chemxor_core::RingName;
use chemxor_fhe::client::ClientKey;
use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::ClientError;
use crate::files::{create_secret, read_secret, replace_secret};
pub use managed::{Keys, ManagedKey};
pub use protect::Passphrase;

const MAX_KEY_FILE: u64 = 64 << 10;
/// A lab key is replaced after so many queries unless it says otherwise.
pub const ROTATE_AFTER: u64 = 1_000_000;

fn refuse(path: &Path, reason: impl std::fmt::Display) -> ClientError {
    ClientError::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// A lab's queries.
    Query,
    /// A publisher's signatures.
    Signing,
}

/// What may be known of a key without its passphrase; the content of `NAME.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyInfo {
    /// Always 1.
    pub format: u32,
    /// What it is for.
    pub kind: KeyKind,
    /// Eight bytes of a hash of the key, hex; tells keys apart and reveals nothing.
    pub id: String,
    /// Whether the file is encrypted with a passphrase.
    pub encrypted: bool,
    /// When this key was made, seconds since 1970.
    pub created_unix_s: u64,
    /// Queries asked with this key.
    pub queries: u64,
    /// Queries after which it is replaced; 0 for never.
    pub rotate_after: u64,
    /// How often it was replaced under this name.
    pub rotations: u64,
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

fn id_of(secret: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(b"chemxor key id v1\0");
    hash.update(secret);
    HEXLOWER.encode(&hash.finalize()[..8])
}

/// A folder of keys.
#[derive(Debug, Clone)]
pub struct Keyring {
    folder: PathBuf,
    /// log2 of scrypt's cost; by default about a second of this machine.
    work: Option<u8>,
}

impl Keyring {
    /// The keyring in `folder`, made when absent. A folder of somebody else is refused; one that
    /// others may enter is closed to them.
    pub fn open(folder: &Path) -> Result<Self, ClientError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(folder)
            .map_err(|error| refuse(folder, error))?;
        let metadata = std::fs::metadata(folder).map_err(|error| refuse(folder, error))?;
        if metadata.uid() != nix::unistd::Uid::effective().as_raw() {
            return Err(refuse(
                folder,
                "belongs to another user; choose your own folder with --home",
            ));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
                .map_err(|error| refuse(folder, error))?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            work: None,
        })
    }

    /// Encrypts with scrypt's cost 2^`work` instead of what takes about a second.
    #[must_use]
    pub fn with_work_factor(self, work: u8) -> Self {
        Self {
            work: Some(work),
            ..self
        }
    }

    fn protect(
        &self,
        path: &Path,
        secret: &[u8],
        passphrase: Option<&Passphrase>,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        protect::protect(path, secret, passphrase, self.work)
    }

    /// File of a key.
    pub fn path(&self, name: &str) -> Result<PathBuf, ClientError> {
        let ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(ok) {
            return Err(refuse(
                Path::new(name),
                "is not a key name: use letters, digits, '-', '_' and '.'",
            ));
        }
        Ok(self.folder.join(format!("{name}.key")))
    }

    fn info_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    /// Held by whoever changes what is known of a key.
    fn lock(&self) -> Result<File, ClientError> {
        let path = self.folder.join(".lock");
        let file = File::options().append(true).create(true).open(&path);
        let file = file.map_err(|error| refuse(&path, error))?;
        file.lock().map_err(|error| refuse(&path, error))?;
        Ok(file)
    }

    /// Makes a key for every ring and stores it under a new name.
    pub fn create_query_key(
        &self,
        name: &str,
        passphrase: Option<&Passphrase>,
        rotate_after: u64,
    ) -> Result<KeyInfo, ClientError> {
        let key = ClientKey::generate(&RingName::ALL)?;
        self.store(
            name,
            KeyKind::Query,
            &key.to_bytes(),
            passphrase,
            rotate_after,
        )
    }

    /// Makes a publisher's signing key and stores it under a new name.
    pub fn create_signing_key(
        &self,
        name: &str,
        passphrase: Option<&Passphrase>,
    ) -> Result<KeyInfo, ClientError> {
        self.store(
            name,
            KeyKind::Signing,
            &random_seed(&self.folder)?[..],
            passphrase,
            0,
        )
    }

    fn store(
        &self,
        name: &str,
        kind: KeyKind,
        secret: &[u8],
        passphrase: Option<&Passphrase>,
        rotate_after: u64,
    ) -> Result<KeyInfo, ClientError> {
        let path = self.path(name)?;
        let _lock = self.lock()?;
        create_secret(&path, &self.protect(&path, secret, passphrase)?)?;
        let info = KeyInfo {
            format: 1,
            kind,
            id: id_of(secret),
            encrypted: passphrase.is_some(),
            created_unix_s: now(),
            queries: 0,
            rotate_after,
            rotations: 0,
        };
        self.write_info(name, &info)?;
        Ok(info)
    }

    fn write_info(&self, name: &str, info: &KeyInfo) -> Result<(), ClientError> {
        let path = self.info_path(name);
        let text = serde_json::to_vec(info).map_err(|error| refuse(&path, error))?;
        replace_secret(&path, &text)
    }

    /// What is known of a key. A key file without its `.json` is described from its bytes.
    pub fn info(&self, name: &str) -> Result<KeyInfo, ClientError> {
        let path = self.info_path(name);
        if path.exists() {
            let text = read_secret(&path, MAX_KEY_FILE)?;
            let info: KeyInfo = serde_json::from_slice(&text).map_err(|error| {
                refuse(
                    &path,
                    format!("{error}; remove this file, the key itself is kept apart"),
                )
            })?;
            if info.format != 1 {
                let reason = format!(
                    "has format {}, this release knows 1; upgrade chemxor",
                    info.format
                );
                return Err(refuse(&path, reason));
            }
            return Ok(info);
        }
        let key = self.path(name)?;
        if !key.exists() {
            let reason = "there is no such key; list them with `chemxor keys list`, make one with `chemxor keys new`";
            return Err(refuse(&key, reason));
        }
        let stored = read_secret(&key, MAX_KEY_FILE)?;
        let metadata = std::fs::metadata(&key).map_err(|error| refuse(&key, error))?;
        let made = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let encrypted = protect::is_protected(&stored);
        Ok(KeyInfo {
            format: 1,
            kind: if stored.len() == 32 {
                KeyKind::Signing
            } else {
                KeyKind::Query
            },
            id: if encrypted {
                String::new()
            } else {
                id_of(&stored)
            },
            encrypted,
            created_unix_s: made.map_or(0, |time| time.as_secs()),
            queries: 0,
            rotate_after: ROTATE_AFTER,
            rotations: 0,
        })
    }

    /// Every key, by name.
    pub fn list(&self) -> Result<Vec<(String, KeyInfo)>, ClientError> {
        let entries =
            std::fs::read_dir(&self.folder).map_err(|error| refuse(&self.folder, error))?;
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".key")?.to_owned()))
            .collect();
        names.sort_unstable();
        names
            .into_iter()
            .map(|name| self.info(&name).map(|info| (name, info)))
            .collect()
    }

    fn secret(
        &self,
        name: &str,
        passphrase: Option<&Passphrase>,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.info(name)?;
        let path = self.path(name)?;
        protect::unprotect(&path, &read_secret(&path, MAX_KEY_FILE)?, passphrase)
    }

    /// Reads a lab key.
    pub fn query_key(
        &self,
        name: &str,
        passphrase: Option<&Passphrase>,
    ) -> Result<ClientKey, ClientError> {
        Ok(ClientKey::from_bytes(&self.secret(name, passphrase)?)?)
    }

    /// Reads a signing key.
    pub fn signing_key(
        &self,
        name: &str,
        passphrase: Option<&Passphrase>,
    ) -> Result<SigningKey, ClientError> {
        let secret = self.secret(name, passphrase)?;
        let seed: &[u8; 32] = secret
            .as_slice()
            .try_into()
            .map_err(|_| refuse(Path::new(name), "is not a signing key of 32 bytes"))?;
        Ok(SigningKey::from_bytes(seed))
    }

    /// Replaces a lab key by a fresh one under the same name and protection. The old one is gone:
    /// open sessions keep it in memory until they end.
    pub fn rotate(
        &self,
        name: &str,
        passphrase: Option<&Passphrase>,
    ) -> Result<(KeyInfo, ClientKey), ClientError> {
        let _lock = self.lock()?;
        self.rotate_locked(name, passphrase)
    }

    fn rotate_locked(
        &self,
        name: &str,
        passphrase: Option<&Passphrase>,
    ) -> Result<(KeyInfo, ClientKey), ClientError> {
        let old = self.info(name)?;
        let path = self.path(name)?;
        if old.kind == KeyKind::Signing {
            let reason = "is a signing key: a new one is another publisher's identity; make it with `chemxor keys new --publisher --name NEW`";
            return Err(refuse(&path, reason));
        }
        if old.encrypted {
            // a wrong passphrase must not lock the new key
            self.secret(name, passphrase)?;
        }
        let key = ClientKey::generate(&RingName::ALL)?;
        let secret = key.to_bytes();
        let passphrase = passphrase.filter(|_| old.encrypted);
        replace_secret(&path, &self.protect(&path, &secret, passphrase)?)?;
        let info = KeyInfo {
            id: id_of(&secret),
            created_unix_s: now(),
            queries: 0,
            rotations: old.rotations + 1,
            ..old
        };
        self.write_info(name, &info)?;
        Ok((info, key))
    }

    /// Encrypts a stored key with another passphrase, or with none.
    pub fn set_passphrase(
        &self,
        name: &str,
        old: Option<&Passphrase>,
        new: Option<&Passphrase>,
    ) -> Result<KeyInfo, ClientError> {
        let _lock = self.lock()?;
        let (path, secret) = (self.path(name)?, self.secret(name, old)?);
        replace_secret(&path, &self.protect(&path, &secret, new)?)?;
        let info = KeyInfo {
            id: id_of(&secret),
            encrypted: new.is_some(),
            ..self.info(name)?
        };
        self.write_info(name, &info)?;
        Ok(info)
    }

    /// Writes a copy, encrypted with `copy`, to a new file: an age file that `age -d` opens too.
    pub fn export(
        &self,
        name: &str,
        passphrase: Option<&Passphrase>,
        copy: &Passphrase,
        output: &Path,
    ) -> Result<KeyInfo, ClientError> {
        let secret = self.secret(name, passphrase)?;
        create_secret(output, &self.protect(output, &secret, Some(copy))?)?;
        self.info(name)
    }

    /// Stores an exported key under a new name, encrypted with the passphrase of the copy.
    pub fn import(
        &self,
        name: &str,
        input: &Path,
        passphrase: &Passphrase,
    ) -> Result<KeyInfo, ClientError> {
        let secret =
            protect::unprotect(input, &read_secret(input, MAX_KEY_FILE)?, Some(passphrase))?;
        let (kind, rotate_after) = match secret.len() {
            32 => (KeyKind::Signing, 0),
            _ => {
                ClientKey::from_bytes(&secret)?;
                (KeyKind::Query, ROTATE_AFTER)
            }
        };
        self.store(name, kind, &secret, Some(passphrase), rotate_after)
    }

    /// Overwrites a key and removes it. On disks that keep old blocks (flash, snapshots) the bytes
    /// may survive: a passphrase protects there, overwriting does not.
    pub fn delete(&self, name: &str) -> Result<(), ClientError> {
        use std::io::Write;
        let _lock = self.lock()?;
        self.info(name)?;
        let path = self.path(name)?;
        let wipe = || {
            let mut file = File::options().write(true).open(&path)?;
            let length = file.metadata()?.len() as usize;
            file.write_all(&vec![0; length])?;
            file.sync_all()?;
            std::fs::remove_file(&path)
        };
        wipe().map_err(|error| refuse(&path, error))?;
        let info = self.info_path(name);
        match std::fs::remove_file(&info) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(refuse(&info, error)),
            _ => Ok(()),
        }
    }

    /// When the key is replaced on its own.
    pub fn set_rotation(&self, name: &str, rotate_after: u64) -> Result<KeyInfo, ClientError> {
        let _lock = self.lock()?;
        let info = KeyInfo {
            rotate_after,
            ..self.info(name)?
        };
        self.write_info(name, &info)?;
        Ok(info)
    }

    /// Adds to the queries of a key.
    fn count(&self, name: &str, id: &str, queries: i64) -> Result<KeyInfo, ClientError> {
        let _lock = self.lock()?;
        let mut info = self.info(name)?;
        // another process may have replaced it meanwhile
        if info.id == id {
            info.queries = info.queries.saturating_add_signed(queries);
            self.write_info(name, &info)?;
        }
        Ok(info)
    }
}

fn random_seed(folder: &Path) -> Result<Zeroizing<[u8; 32]>, ClientError> {
    let mut seed = Zeroizing::new([0u8; 32]);
    getrandom::fill(seed.as_mut_slice())
        .map_err(|_| refuse(folder, "the operating system gave no random bytes"))?;
    Ok(seed)
}

#[cfg(test)]
mod tests;
