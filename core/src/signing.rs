//! Signatures: Ed25519 over a context string and the bytes, so that a signature made for something
//! else never counts. The publisher signs a manifest, the registry counter-signs its approval and
//! signs checkpoints of the audit log.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::VersionId;

const MANIFEST: &[u8] = b"chemxor manifest v1\0";
const APPROVAL: &[u8] = b"chemxor approval v1\0";
const CARD: &[u8] = b"chemxor card v1\0";
const CONFORMANCE: &[u8] = b"chemxor conformance v1\0";
const CHECKPOINT: &[u8] = b"chemxor audit checkpoint v1\0";

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify under the given key")]
pub struct SignatureError;

fn verify(
    public_key: &[u8],
    context: &[u8],
    content: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let public_key: &[u8; 32] = public_key.try_into().map_err(|_| SignatureError)?;
    let key = VerifyingKey::from_bytes(public_key).map_err(|_| SignatureError)?;
    let signature = Signature::from_slice(signature).map_err(|_| SignatureError)?;
    key.verify_strict(&[context, content].concat(), &signature)
        .map_err(|_| SignatureError)
}

/// What an approval covers: the version, and the publisher's key and signature.
fn approval(version: &VersionId, publisher_key: &[u8], signature: &[u8]) -> Vec<u8> {
    [version.as_bytes().as_slice(), publisher_key, signature].concat()
}

/// The registry's counter-signature of an approved version.
pub fn sign_approval(
    key: &SigningKey,
    version: &VersionId,
    publisher_key: &[u8],
    signature: &[u8],
) -> [u8; 64] {
    let content = approval(version, publisher_key, signature);
    key.sign(&[APPROVAL, &content].concat()).to_bytes()
}

/// Verifies the registry's counter-signature.
pub fn verify_approval(
    registry_key: &[u8],
    version: &VersionId,
    publisher_key: &[u8],
    signature: &[u8],
    counter_signature: &[u8],
) -> Result<(), SignatureError> {
    let content = approval(version, publisher_key, signature);
    verify(registry_key, APPROVAL, &content, counter_signature)
}

/// Signs a conformance run with the key that signed its version.
pub fn sign_conformance(key: &SigningKey, report: &[u8]) -> [u8; 64] {
    key.sign(&[CONFORMANCE, report].concat()).to_bytes()
}

/// Verifies the signature over a conformance run.
pub fn verify_conformance(
    public_key: &[u8],
    report: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    verify(public_key, CONFORMANCE, report, signature)
}

/// Signs a model card with the key that signed its version.
pub fn sign_card(key: &SigningKey, card: &[u8]) -> [u8; 64] {
    key.sign(&[CARD, card].concat()).to_bytes()
}

/// Verifies a model card.
pub fn verify_card(
    publisher_key: &[u8],
    card: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    verify(publisher_key, CARD, card, signature)
}

fn checkpoint(number: i64, at_micros: i64, hash: &[u8; 32]) -> Vec<u8> {
    let (number, at) = (number.to_le_bytes(), at_micros.to_le_bytes());
    [number.as_slice(), &at, hash].concat()
}

/// Signs that the audit log had this hash at row `number` at this time.
pub fn sign_checkpoint(key: &SigningKey, number: i64, at_micros: i64, hash: &[u8; 32]) -> [u8; 64] {
    let content = checkpoint(number, at_micros, hash);
    key.sign(&[CHECKPOINT, &content].concat()).to_bytes()
}

/// Verifies a checkpoint of the audit log.
pub fn verify_checkpoint(
    registry_key: &[u8],
    number: i64,
    at_micros: i64,
    hash: &[u8; 32],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let content = checkpoint(number, at_micros, hash);
    verify(registry_key, CHECKPOINT, &content, signature)
}

/// Signs manifest bytes.
pub fn sign_manifest(key: &SigningKey, manifest: &[u8]) -> [u8; 64] {
    key.sign(&[MANIFEST, manifest].concat()).to_bytes()
}

/// Verifies manifest bytes under a 32-byte public key; weak keys are refused.
pub fn verify_manifest(
    public_key: &[u8],
    manifest: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    verify(public_key, MANIFEST, manifest, signature)
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

    #[test]
    fn an_approval_covers_version_key_and_signature_and_counts_for_nothing_else() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let public = key.verifying_key().to_bytes();
        let (one, two) = (VersionId::of(b"1"), VersionId::of(b"2"));
        let signed = sign_approval(&key, &one, &[1; 32], &[2; 64]);
        assert_eq!(
            verify_approval(&public, &one, &[1; 32], &[2; 64], &signed),
            Ok(())
        );
        for (version, publisher, signature) in [
            (two, [1; 32], [2; 64]),
            (one, [9; 32], [2; 64]),
            (one, [1; 32], [9; 64]),
        ] {
            let refused = verify_approval(&public, &version, &publisher, &signature, &signed);
            assert_eq!(refused, Err(SignatureError));
        }
        let content = approval(&one, &[1; 32], &[2; 64]);
        assert_eq!(
            verify_manifest(&public, &content, &signed),
            Err(SignatureError)
        );
    }
}
