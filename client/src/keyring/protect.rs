//! Passphrases: age files with scrypt.

use std::path::Path;

use age::secrecy::SecretString;
use zeroize::Zeroizing;

use super::refuse;
use crate::ClientError;

const AGE_HEAD: &[u8] = b"age-encryption.org/v1";
/// Work factors above are refused: log2 of scrypt's cost, some ten seconds.
const MAX_WORK: u8 = 22;

/// A passphrase; prints `[redacted]`, wiped when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// From its text; `None` when it is empty.
    pub fn new(text: Zeroizing<String>) -> Option<Self> {
        (!text.is_empty()).then_some(Self(text))
    }

    fn secret(&self) -> SecretString {
        SecretString::from(self.0.to_string())
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase([redacted])")
    }
}

pub(super) fn is_protected(stored: &[u8]) -> bool {
    stored.starts_with(AGE_HEAD)
}

pub(super) fn protect(
    path: &Path,
    secret: &[u8],
    passphrase: Option<&Passphrase>,
    work: Option<u8>,
) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    let Some(passphrase) = passphrase else {
        return Ok(Zeroizing::new(secret.to_vec()));
    };
    let mut recipient = age::scrypt::Recipient::new(passphrase.secret());
    if let Some(work) = work {
        recipient.set_work_factor(work);
    }
    let sealed = age::encrypt(&recipient, secret);
    sealed
        .map(Zeroizing::new)
        .map_err(|_| refuse(path, "cannot be encrypted"))
}

pub(super) fn unprotect(
    path: &Path,
    stored: &[u8],
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    if !is_protected(stored) {
        return Ok(Zeroizing::new(stored.to_vec()));
    }
    let passphrase = passphrase.ok_or_else(|| {
        refuse(
            path,
            "is encrypted; set CHEMXOR_PASSPHRASE to its passphrase",
        )
    })?;
    let mut identity = age::scrypt::Identity::new(passphrase.secret());
    identity.set_max_work_factor(MAX_WORK);
    let opened = age::decrypt(&identity, stored);
    opened
        .map(Zeroizing::new)
        .map_err(|_| refuse(path, "does not open with this passphrase"))
}
