//! The lab's secret keys at rest: a file that only its owner may read, encrypted with a passphrase
//! (age, scrypt) when one is given.

use std::path::Path;

use age::secrecy::SecretString;
use chemxor_core::RingName;
use chemxor_fhe::client::ClientKey;
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::ClientError;
use crate::files::{create_secret, read_secret};

const MAX_KEY_FILE: u64 = 64 << 10;
const AGE_HEAD: &[u8] = b"age-encryption.org/v1";

fn refuse(path: &Path, reason: &str) -> ClientError {
    ClientError::File {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Makes a key for every ring and stores it in a new file.
pub fn create_client_key(path: &Path, passphrase: Option<&str>) -> Result<ClientKey, ClientError> {
    let key = ClientKey::generate(&RingName::ALL)?;
    create_secret(path, &protect(path, &key.to_bytes(), passphrase)?)?;
    Ok(key)
}

/// Reads a key that [`create_client_key`] stored.
pub fn load_client_key(path: &Path, passphrase: Option<&str>) -> Result<ClientKey, ClientError> {
    let bytes = unprotect(path, &read_secret(path, MAX_KEY_FILE)?, passphrase)?;
    Ok(ClientKey::from_bytes(&bytes)?)
}

/// Makes a publisher's signing key and stores it in a new file.
pub fn create_signing_key(path: &Path) -> Result<SigningKey, ClientError> {
    let mut seed = Zeroizing::new([0u8; 32]);
    getrandom::fill(seed.as_mut_slice())
        .map_err(|_| refuse(path, "the operating system gave no random bytes"))?;
    create_secret(path, seed.as_slice())?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Reads a signing key.
pub fn load_signing_key(path: &Path) -> Result<SigningKey, ClientError> {
    let bytes = read_secret(path, 32)?;
    let seed: &[u8; 32] = bytes
        .as_slice()
        .try_into()
        .map_err(|_| refuse(path, "is not a signing key of 32 bytes"))?;
    Ok(SigningKey::from_bytes(seed))
}

fn protect(
    path: &Path,
    secret: &[u8],
    passphrase: Option<&str>,
) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    let Some(passphrase) = passphrase else {
        return Ok(Zeroizing::new(secret.to_vec()));
    };
    let recipient = age::scrypt::Recipient::new(SecretString::from(passphrase.to_owned()));
    let sealed = age::encrypt(&recipient, secret);
    sealed
        .map(Zeroizing::new)
        .map_err(|_| refuse(path, "cannot be encrypted"))
}

fn unprotect(
    path: &Path,
    stored: &[u8],
    passphrase: Option<&str>,
) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    if !stored.starts_with(AGE_HEAD) {
        return Ok(Zeroizing::new(stored.to_vec()));
    }
    let passphrase = passphrase.ok_or_else(|| {
        refuse(
            path,
            "is encrypted; set CHEMXOR_PASSPHRASE to its passphrase",
        )
    })?;
    let identity = age::scrypt::Identity::new(SecretString::from(passphrase.to_owned()));
    let opened = age::decrypt(&identity, stored);
    opened
        .map(Zeroizing::new)
        .map_err(|_| refuse(path, "does not open with this passphrase"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_protects_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.key");
        let key = create_client_key(&path, Some("correct horse")).unwrap();
        let stored = std::fs::read(&path).unwrap();
        assert!(stored.starts_with(AGE_HEAD));
        let back = load_client_key(&path, Some("correct horse")).unwrap();
        assert_eq!(key.to_bytes().as_slice(), back.to_bytes().as_slice());
        let wrong = load_client_key(&path, Some("battery"))
            .unwrap_err()
            .to_string();
        assert!(wrong.contains("does not open"));
        let none = load_client_key(&path, None).unwrap_err().to_string();
        assert!(none.contains("CHEMXOR_PASSPHRASE"));
    }

    #[test]
    fn signing_keys_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("publisher.key");
        let key = create_signing_key(&path).unwrap();
        assert_eq!(load_signing_key(&path).unwrap().to_bytes(), key.to_bytes());
    }
}
