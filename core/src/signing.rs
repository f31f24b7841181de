//! Manifest signatures: Ed25519 over a context string and the manifest bytes, so that a signature
//! made for something else never counts here.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

const CONTEXT: &[u8] = b"chemxor manifest v1\0";

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the manifest's signature does not verify under the publisher's key")]
pub struct SignatureError;

fn message(manifest: &[u8]) -> Vec<u8> {
    [CONTEXT, manifest].concat()
}

/// Signs manifest bytes.
pub fn sign_manifest(key: &SigningKey, manifest: &[u8]) -> [u8; 64] {
    key.sign(&message(manifest)).to_bytes()
}

/// Verifies manifest bytes under a 32-byte public key; weak keys are refused.
pub fn verify_manifest(
    public_key: &[u8],
    manifest: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let public_key: &[u8; 32] = public_key.try_into().map_err(|_| SignatureError)?;
    let key = VerifyingKey::from_bytes(public_key).map_err(|_| SignatureError)?;
    let signature = Signature::from_slice(signature).map_err(|_| SignatureError)?;
    key.verify_strict(&message(manifest), &signature)
        .map_err(|_| SignatureError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signed_bytes_under_the_signing_key_verify() {
        let (key, other) = (
            SigningKey::from_bytes(&[1; 32]),
            SigningKey::from_bytes(&[2; 32]),
        );
        let signature = sign_manifest(&key, b"manifest");
        let public = key.verifying_key().to_bytes();
        assert_eq!(verify_manifest(&public, b"manifest", &signature), Ok(()));
        assert_eq!(
            verify_manifest(&public, b"manifesT", &signature),
            Err(SignatureError)
        );
        let other = other.verifying_key().to_bytes();
        assert_eq!(
            verify_manifest(&other, b"manifest", &signature),
            Err(SignatureError)
        );
        assert_eq!(
            verify_manifest(&public, b"manifest", &signature[1..]),
            Err(SignatureError)
        );
        // a signature over the bytes without the context is for something else
        let bare = key.sign(b"manifest").to_bytes();
        assert_eq!(
            verify_manifest(&public, b"manifest", &bare),
            Err(SignatureError)
        );
    }
}
