//! The registry's signing key: counter-signatures of approvals, checkpoints of the audit log.
//!
//! Invariant: a key is made only for a database without signatures; what was signed is never left
//! to a key that nobody has any more.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::RegistryError;
use crate::store::Store;

/// Loads the key of a file, or makes one when the database holds no signature. The file holds 64
/// hexadecimal digits; beside it, ending in `.pub`, stands the public key that `chemxor verify` and
/// `chemxor audit verify` take.
pub(crate) async fn load_or_create(
    path: &Path,
    store: &Store,
) -> Result<SigningKey, RegistryError> {
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    if let Some(known) = store.newest_signer().await? {
        let known = HEXLOWER.encode(&known);
        let reason = format!("the file is missing, and the database holds signatures of {known}");
        return Err(RegistryError::SigningKey(path.to_owned(), reason));
    }
    create(path)
}

/// None when there is no such file.
fn load(path: &Path) -> Result<Option<SigningKey>, RegistryError> {
    let refuse = |reason: String| RegistryError::SigningKey(path.to_owned(), reason);
    let text = match std::fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(error.to_string())),
    };
    require_private(path)?;
    let bytes = HEXLOWER.decode(text.trim().as_bytes()).map(Zeroizing::new);
    let bytes = bytes
        .ok()
        .and_then(|bytes| bytes.as_slice().try_into().ok());
    let bytes: [u8; 32] = bytes.ok_or_else(|| refuse("not 64 hexadecimal digits".to_owned()))?;
    Ok(Some(SigningKey::from_bytes(&Zeroizing::new(bytes))))
}

/// Refuses a file that others can use or its group can change: the key may be somebody else's by now.
/// A right of the group to read is taken away where that can be done; Kubernetes mounts secrets so,
/// read-only, and gives the registry that group.
fn require_private(path: &Path) -> Result<(), RegistryError> {
    let refuse = |reason: String| RegistryError::SigningKey(path.to_owned(), reason);
    let file = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
    let mode = file.permissions().mode() & 0o777;
    if mode & 0o037 != 0 {
        let reason =
            format!("group or others have rights to the file (mode {mode:o}): `chmod 600` it");
        return Err(refuse(reason));
    }
    if mode & 0o077 != 0 && std::fs::set_permissions(path, Permissions::from_mode(0o600)).is_ok() {
        tracing::warn!(path = %path.display(), "signing key was open to its group; its mode is 600 now");
    }
    Ok(())
}

fn create(path: &Path) -> Result<SigningKey, RegistryError> {
    let refuse = |reason: String| RegistryError::SigningKey(path.to_owned(), reason);
    let mut bytes = Zeroizing::new([0u8; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| refuse(error.to_string()))?;
    let key = SigningKey::from_bytes(&bytes);
    let text = Zeroizing::new(HEXLOWER.encode(bytes.as_slice()));
    write(path, text.as_bytes(), 0o600).map_err(|error| refuse(error.to_string()))?;
    let public = HEXLOWER.encode(key.verifying_key().as_bytes());
    write(&path.with_extension("pub"), public.as_bytes(), 0o644)
        .map_err(|error| refuse(error.to_string()))?;
    Ok(key)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry-signing.key");
        let made = create(&path).unwrap();
        for (mode, accepted) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o644, false),
            (0o660, false),
            (0o604, false),
        ] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match load(&path) {
                Ok(key) => assert!(accepted && key.unwrap() == made, "{mode:o}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!accepted && error.contains("chmod 600"), "{mode:o} {error}");
                }
            }
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        load(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
