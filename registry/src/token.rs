//! Bearer tokens: `cxr_`, 256 random bits and a 32-bit checksum in base 32. The checksum finds
//! typing errors and lets scanners recognise a leaked token; only the SHA-256 is stored.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const PREFIX: &str = "cxr_";

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct RandomnessError;

fn checksum(secret: &[u8]) -> [u8; 4] {
    let digest = Sha256::new()
        .chain_update(b"chemxor token checksum\0")
        .chain_update(secret)
        .finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// A fresh token, as text.
pub fn generate() -> Result<Zeroizing<String>, RandomnessError> {
    let mut bytes = Zeroizing::new([0u8; 36]);
    getrandom::fill(&mut bytes[..32]).map_err(|_| RandomnessError)?;
    let sum = checksum(&bytes[..32]);
    bytes[32..].copy_from_slice(&sum);
    let text = Zeroizing::new(BASE32_NOPAD.encode(bytes.as_slice()).to_ascii_lowercase());
    Ok(Zeroizing::new(format!("{PREFIX}{}", text.as_str())))
}

/// What the store knows of a token; none when the text cannot be a token.
pub fn digest(text: &str) -> Option<[u8; 32]> {
    let body = Zeroizing::new(text.strip_prefix(PREFIX)?.to_ascii_uppercase());
    let bytes = Zeroizing::new(BASE32_NOPAD.decode(body.as_bytes()).ok()?);
    let (secret, sum) = bytes.split_at_checked(32)?;
    let genuine = subtle::ConstantTimeEq::ct_eq(checksum(secret).as_slice(), sum);
    bool::from(genuine).then(|| {
        Sha256::new()
            .chain_update(b"chemxor token\0")
            .chain_update(secret)
            .finalize()
            .into()
    })
}

/// Whether a text holds a token: a word with the prefix and a right checksum.
pub fn stands_in(text: &str) -> bool {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter_map(|word| word.get(word.find(PREFIX)?..))
        .any(|word| digest(word).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_a_text_is_found() {
        let token = generate().unwrap();
        for text in [
            token.to_string(),
            format!("for the audit: {}.", token.as_str()),
            format!("token={},x", token.as_str()),
        ] {
            assert!(stands_in(&text));
        }
        for text in [
            "",
            "cxr_",
            "the prefix is cxr_ and 58 letters",
            "cxr_abcdefgh",
        ] {
            assert!(!stands_in(text), "{text}");
        }
    }

    #[test]
    fn typing_errors_are_found_and_tokens_differ() {
        let token = generate().unwrap();
        assert_ne!(token.as_str(), generate().unwrap().as_str());
        assert_eq!(token.len(), PREFIX.len() + 58);
        let known = digest(&token).unwrap();
        assert_eq!(
            digest(&token.to_ascii_uppercase().replace("CXR_", "cxr_")),
            Some(known)
        );
        for at in PREFIX.len()..token.len() {
            let mut other = token.as_bytes().to_vec();
            other[at] = if other[at] == b'a' { b'b' } else { b'a' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(digest(&other), None, "position {at}");
        }
        assert_eq!(digest(""), None);
        assert_eq!(digest("cxr_"), None);
    }
}
