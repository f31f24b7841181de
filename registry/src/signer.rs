//! The registry's signing key: counter-signatures of approvals, checkpoints of the audit log.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::RegistryError;

/// Loads the key of a file, or makes one. The file holds 64 hexadecimal digits; beside it, ending in
/// `.pub`, stands the public key that `chemxor verify` and `chemxor audit verify` take.
pub(crate) fn load_or_create(path: &Path) -> Result<SigningKey, RegistryError> {
    let refuse = |reason: String| RegistryError::SigningKey(path.to_owned(), reason);
    match std::fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => {
            let bytes = HEXLOWER.decode(text.trim().as_bytes()).map(Zeroizing::new);
            let bytes = bytes
                .ok()
                .and_then(|bytes| bytes.as_slice().try_into().ok());
            let bytes: [u8; 32] =
                bytes.ok_or_else(|| refuse("not 64 hexadecimal digits".to_owned()))?;
            Ok(SigningKey::from_bytes(&Zeroizing::new(bytes)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
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
        Err(error) => Err(refuse(error.to_string())),
    }
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
