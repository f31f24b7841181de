//! Weights at rest: each step's blob is encrypted under a data key (XChaCha20-Poly1305) that only its
//! publisher can derive again (HKDF, RFC 5869, from the signing key), and that key is sealed to each worker that serves the step (HPKE base mode, RFC 9180,
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305). Version digest and step are
//! associated data everywhere, so a blob or key moved to another version or step does not open.
//! Registry and gateway never hold a key of either kind.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use chemxor_core::VersionId;
use hkdf::Hkdf;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem as _, OpModeR, OpModeS, Serializable};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

type Kem = X25519HkdfSha256;

const INFO: &[u8] = b"chemxor v1 sealed model key";
const NONCE: usize = 24;

/// Why something did not open or could not be sealed. Holds no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealingError {
    /// Not an X25519 key.
    #[error("not a valid sealing key")]
    Key,
    /// Damaged, forged, for another worker, version or step.
    #[error("the sealed data does not open: it is damaged, or for another worker, version or step")]
    Refused,
    /// No randomness.
    #[error(transparent)]
    Randomness(#[from] crate::rng::RandomnessError),
}

/// A 256-bit symmetric key: data key of a step, or state key of a version.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ModelKey([u8; 32]);

impl std::fmt::Debug for ModelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ModelKey([redacted])")
    }
}

/// HKDF-SHA256, which gives up to 255 * 32 bytes.
fn expand<const N: usize>(secret: &[u8; 32], salt: &[u8], info: &[u8]) -> [u8; N] {
    const { assert!(N <= 255 * 32) };
    let mut out = [0; N];
    let given = Hkdf::<Sha256>::new(Some(salt), secret).expand(info, &mut out);
    debug_assert!(given.is_ok(), "the length was checked");
    out
}

fn associated_data(version: &VersionId, step: u32) -> Vec<u8> {
    let mut data = b"chemxor v1 model\0".to_vec();
    data.extend_from_slice(version.as_bytes());
    data.extend_from_slice(&step.to_le_bytes());
    data
}

impl ModelKey {
    /// Fresh from the operating system.
    pub fn generate() -> Result<Self, SealingError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|_| crate::rng::RandomnessError)?;
        Ok(Self(key))
    }

    /// The key of a step of a version, or its state key, from the 32 secret bytes of the publisher's
    /// signing key: HKDF-SHA256 with the version as salt. So the publisher who keeps bundle and signing
    /// key can authorise another worker at any time, and has nothing else to keep.
    pub fn derive(publisher: &[u8; 32], version: &VersionId, step: u32) -> Self {
        let mut info = b"chemxor v1 key of a model\0".to_vec();
        info.extend_from_slice(&step.to_le_bytes());
        Self(expand(publisher, version.as_bytes(), &info))
    }

    /// The bytes, for use as another key type.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals this key to a worker: encapsulated key and ciphertext.
    pub fn seal_to(
        &self,
        worker: &[u8],
        version: &VersionId,
        step: u32,
    ) -> Result<(Vec<u8>, Vec<u8>), SealingError> {
        let public =
            <Kem as hpke::Kem>::PublicKey::from_bytes(worker).map_err(|_| SealingError::Key)?;
        let (encapsulated, mut context) =
            hpke::setup_sender::<ChaCha20Poly1305, HkdfSha256, Kem>(&OpModeS::Base, &public, INFO)
                .map_err(|_| SealingError::Key)?;
        let sealed = context
            .seal(&self.0, &associated_data(version, step))
            .map_err(|_| SealingError::Refused)?;
        Ok((encapsulated.to_bytes().to_vec(), sealed))
    }

    /// Encrypts a blob. The nonce, which goes in front, follows from key, blob, version and step: the
    /// same publication gives the same ciphertext, so that an upload goes on where it was killed, and
    /// another blob or step gets another nonce (the idea of synthetic IVs, RFC 8452).
    pub fn encrypt_blob(
        &self,
        blob: &[u8],
        version: &VersionId,
        step: u32,
    ) -> Result<Vec<u8>, SealingError> {
        let data = associated_data(version, step);
        let nonce: [u8; NONCE] = expand(&self.0, b"chemxor v1 nonce of a blob", &{
            let mut info = Sha256::digest(blob).to_vec();
            info.extend_from_slice(&data);
            info
        });
        let payload = Payload {
            msg: blob,
            aad: &data,
        };
        let cipher = XChaCha20Poly1305::new((&self.0).into());
        let sealed = cipher
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| SealingError::Refused)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Decrypts what [`ModelKey::encrypt_blob`] made for the same version and step.
    pub fn decrypt_blob(
        &self,
        sealed: &[u8],
        version: &VersionId,
        step: u32,
    ) -> Result<Zeroizing<Vec<u8>>, SealingError> {
        let (nonce, sealed) = sealed
            .split_first_chunk::<NONCE>()
            .ok_or(SealingError::Refused)?;
        let payload = Payload {
            msg: sealed,
            aad: &associated_data(version, step),
        };
        let cipher = XChaCha20Poly1305::new((&self.0).into());
        let blob = cipher.decrypt(&XNonce::from(*nonce), payload);
        blob.map(Zeroizing::new).map_err(|_| SealingError::Refused)
    }
}

/// A worker's long-term key pair for receiving model keys.
pub struct SealingKeyPair {
    secret: <Kem as hpke::Kem>::PrivateKey,
    public: Vec<u8>,
}

impl std::fmt::Debug for SealingKeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKeyPair([redacted])")
    }
}

impl SealingKeyPair {
    /// A fresh pair.
    pub fn generate() -> Self {
        let (secret, public) = Kem::gen_keypair();
        Self {
            secret,
            public: public.to_bytes().to_vec(),
        }
    }

    /// From the 32 secret bytes.
    pub fn from_secret(bytes: &[u8]) -> Result<Self, SealingError> {
        let secret =
            <Kem as hpke::Kem>::PrivateKey::from_bytes(bytes).map_err(|_| SealingError::Key)?;
        let public = Kem::sk_to_pk(&secret).to_bytes().to_vec();
        Ok(Self { secret, public })
    }

    /// The 32 secret bytes, for storage with owner-only permissions.
    pub fn to_secret(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.secret.to_bytes().to_vec())
    }

    /// The 32 public bytes.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Opens a model key that was sealed to this worker for this version and step.
    pub fn open(
        &self,
        encapsulated: &[u8],
        sealed: &[u8],
        version: &VersionId,
        step: u32,
    ) -> Result<ModelKey, SealingError> {
        let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated)
            .map_err(|_| SealingError::Refused)?;
        let mut context = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeR::Base,
            &self.secret,
            &encapsulated,
            INFO,
        )
        .map_err(|_| SealingError::Refused)?;
        let opened = context
            .open(sealed, &associated_data(version, step))
            .map_err(|_| SealingError::Refused)?;
        let opened = Zeroizing::new(opened);
        let mut key = ModelKey([0; 32]);
        let bytes: &[u8; 32] = opened
            .as_slice()
            .try_into()
            .map_err(|_| SealingError::Refused)?;
        key.0.copy_from_slice(bytes);
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_open_only_for_their_worker_version_and_step() {
        let (worker, other) = (SealingKeyPair::generate(), SealingKeyPair::generate());
        let (version, key) = (VersionId::of(b"a"), ModelKey::generate().unwrap());
        let (enc, sealed) = key.seal_to(worker.public(), &version, 1).unwrap();
        let back = SealingKeyPair::from_secret(&worker.to_secret()).unwrap();
        assert!(back.open(&enc, &sealed, &version, 1).unwrap() == key);
        assert_eq!(
            other.open(&enc, &sealed, &version, 1).unwrap_err(),
            SealingError::Refused
        );
        assert_eq!(
            worker.open(&enc, &sealed, &version, 2).unwrap_err(),
            SealingError::Refused
        );
        let moved = worker.open(&enc, &sealed, &VersionId::of(b"b"), 1);
        assert_eq!(moved.unwrap_err(), SealingError::Refused);
        assert_eq!(
            key.seal_to(&[0; 5], &version, 1).unwrap_err(),
            SealingError::Key
        );
    }

    #[test]
    fn blobs_open_only_for_their_version_and_step() {
        let (version, key) = (VersionId::of(b"a"), ModelKey::generate().unwrap());
        let mut sealed = key.encrypt_blob(b"weights", &version, 0).unwrap();
        assert_eq!(
            key.decrypt_blob(&sealed, &version, 0).unwrap().as_slice(),
            b"weights"
        );
        assert_eq!(
            key.decrypt_blob(&sealed, &version, 1).unwrap_err(),
            SealingError::Refused
        );
        assert_eq!(
            key.decrypt_blob(&sealed[..9], &version, 0).unwrap_err(),
            SealingError::Refused
        );
        *sealed.last_mut().unwrap() ^= 1;
        assert_eq!(
            key.decrypt_blob(&sealed, &version, 0).unwrap_err(),
            SealingError::Refused
        );
    }

    #[test]
    fn a_publisher_derives_the_same_keys_again_and_nobody_else() {
        let (version, other) = (
            VersionId::from_bytes([1; 32]),
            VersionId::from_bytes([2; 32]),
        );
        let key = ModelKey::derive(&[7; 32], &version, 3);
        // RFC 5869 by another implementation
        assert_eq!(
            key.expose().map(|byte| format!("{byte:02x}")).concat(),
            "24387d2ecb64edf4c95144cd8c0d5c33d8b7b429e1f6185285ba3763fc2566d9"
        );
        for another in [
            ModelKey::derive(&[8; 32], &version, 3),
            ModelKey::derive(&[7; 32], &other, 3),
            ModelKey::derive(&[7; 32], &version, 4),
        ] {
            assert!(another != key);
        }
    }

    #[test]
    fn the_same_blob_gives_the_same_ciphertext_and_another_one_another_nonce() {
        let (version, key) = (VersionId::of(b"a"), ModelKey::generate().unwrap());
        let seal = |blob: &[u8], step| key.encrypt_blob(blob, &version, step).unwrap();
        assert_eq!(seal(b"weights", 0), seal(b"weights", 0));
        let nonces = [
            seal(b"weights", 0),
            seal(b"weightt", 0),
            seal(b"weights", 1),
        ]
        .map(|sealed| sealed[..NONCE].to_vec());
        assert!(nonces[0] != nonces[1] && nonces[0] != nonces[2] && nonces[1] != nonces[2]);
    }
}
