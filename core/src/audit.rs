//! The audit log outside the database: rows as exported, and the check that needs nothing but the
//! file and the registry's public key.
//!
//! Invariant: each row's hash covers the row and the hash before it, and a checkpoint signs the hash
//! of one row. A changed byte, a removed row and a swapped row break the chain; a cut end misses the
//! checkpoint that closes every export.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::verify_checkpoint;

/// Longest line of an export, in bytes; a row's fields are far shorter.
const MAX_LINE: usize = 64 << 10;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRow {
    /// From 1, without gaps.
    pub number: i64,
    /// Microseconds since 1970, UTC.
    pub at_micros: i64,
    /// Who: `organisation/subject`, or a service.
    pub actor: String,
    /// What, e.g. `version.approve`.
    pub action: String,
    /// To which object.
    pub object: String,
    /// Anything else; never a molecule, token or key.
    pub detail: String,
    /// Hash of this row, hexadecimal.
    pub hash: String,
}

impl AuditRow {
    /// SHA-256 over the previous hash, number, time and each field with its length.
    pub fn hash_after(&self, previous: &[u8; 32]) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(b"chemxor audit v1\0");
        hash.update(previous);
        hash.update(self.number.to_le_bytes());
        hash.update(self.at_micros.to_le_bytes());
        for field in [&self.actor, &self.action, &self.object, &self.detail] {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field.as_bytes());
        }
        hash.finalize().into()
    }
}

/// The registry's word that row `number` had this hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Last row that it covers.
    pub number: i64,
    /// Microseconds since 1970, UTC.
    pub at_micros: i64,
    /// Hash of that row, hexadecimal.
    pub hash: String,
    /// Ed25519 public key of the registry, hexadecimal.
    pub key: String,
    /// Signature, hexadecimal.
    pub signature: String,
}

/// One line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum AuditLine {
    /// An event.
    Row(AuditRow),
    /// A signed checkpoint.
    Checkpoint(Checkpoint),
}

/// Why an export does not verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Not a line of an export.
    #[error("line {line} is not a line of an audit export: {reason}")]
    Unreadable {
        /// From 1.
        line: usize,
        /// What the reader says.
        reason: String,
    },
    /// A row is missing, doubled or in another place.
    #[error("row {expected} is missing or moved: row {found} stands in its place")]
    Order {
        /// Number that should come.
        expected: i64,
        /// Number that came.
        found: i64,
    },
    /// A row is not what was written.
    #[error("row {0} was changed, or a row before it")]
    Changed(i64),
    /// A checkpoint disagrees with the rows.
    #[error("the checkpoint of row {0} does not fit the rows before it")]
    CheckpointHash(i64),
    /// A checkpoint is not the registry's.
    #[error("the checkpoint of row {0} is not signed by the registry's key")]
    CheckpointSignature(i64),
    /// The log is not the one that was exported before.
    #[error(
        "row {0} is not the one that closed the earlier export: the log was cut or rewritten since"
    )]
    Forked(i64),
    /// No checkpoint closes the export.
    #[error("the last {0} rows are covered by no checkpoint: the end of the export is missing")]
    Open(u64),
}

/// What a verified export holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AuditSummary {
    /// Rows, all of them covered by a checkpoint.
    pub rows: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Hash of the last row; see [`ChainVerifier::since`].
    #[serde(skip)]
    pub last: [u8; 32],
}

/// Takes lines one by one, so that an export of any length is checked in little memory.
#[derive(Debug)]
pub struct ChainVerifier<'a> {
    key: &'a [u8; 32],
    last: [u8; 32],
    rows: i64,
    covered: i64,
    checkpoints: u64,
    /// What must come again, until it has.
    earlier: Option<AuditSummary>,
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()
}

impl<'a> ChainVerifier<'a> {
    /// Under the registry's public key.
    pub fn new(key: &'a [u8; 32]) -> Self {
        let (last, rows, covered, checkpoints) = ([0; 32], 0, 0, 0);
        Self {
            key,
            last,
            rows,
            covered,
            checkpoints,
            earlier: None,
        }
    }

    /// Refuses a log that does not begin with all of an earlier export. A registry that is itself in
    /// the wrong hands could sign another past: this finds it.
    #[must_use]
    pub fn since(self, earlier: AuditSummary) -> Self {
        let earlier = Some(earlier).filter(|earlier| earlier.rows > 0);
        Self { earlier, ..self }
    }

    /// The next line.
    pub fn take(&mut self, line: &AuditLine) -> Result<(), ChainError> {
        match line {
            AuditLine::Row(row) => {
                let (expected, found) = (self.rows + 1, row.number);
                if found != expected {
                    return Err(ChainError::Order { expected, found });
                }
                let hash = row.hash_after(&self.last);
                if bytes(&row.hash) != Some(hash) {
                    return Err(ChainError::Changed(found));
                }
                (self.last, self.rows) = (hash, found);
                if let Some(earlier) = self.earlier
                    && earlier.rows == found as u64
                {
                    if earlier.last != hash {
                        return Err(ChainError::Forked(found));
                    }
                    self.earlier = None;
                }
            }
            AuditLine::Checkpoint(point) => {
                if point.number != self.rows || bytes(&point.hash) != Some(self.last) {
                    return Err(ChainError::CheckpointHash(point.number));
                }
                let refused = ChainError::CheckpointSignature(point.number);
                let signature: [u8; 64] = bytes(&point.signature).ok_or(refused.clone())?;
                verify_checkpoint(
                    self.key,
                    point.number,
                    point.at_micros,
                    &self.last,
                    &signature,
                )
                .map_err(|_| refused)?;
                self.covered = self.rows;
                self.checkpoints += 1;
            }
        }
        Ok(())
    }

    /// After the last line.
    pub fn finish(self) -> Result<AuditSummary, ChainError> {
        if let Some(earlier) = self.earlier {
            return Err(ChainError::Forked(earlier.rows as i64));
        }
        if self.covered != self.rows || self.checkpoints == 0 {
            return Err(ChainError::Open((self.rows - self.covered) as u64));
        }
        Ok(AuditSummary {
            rows: self.rows as u64,
            checkpoints: self.checkpoints,
            last: self.last,
        })
    }
}

/// Verifies a whole export: one JSON object a line.
pub fn verify_export(text: &str, key: &[u8; 32]) -> Result<AuditSummary, ChainError> {
    let mut verifier = ChainVerifier::new(key);
    for (line, content) in (1..).zip(text.lines()) {
        let refuse = |reason: String| ChainError::Unreadable { line, reason };
        if content.len() > MAX_LINE {
            return Err(refuse("longer than 64 KiB".to_owned()));
        }
        let read = serde_json::from_str(content).map_err(|error| refuse(error.to_string()))?;
        verifier.take(&read)?;
    }
    verifier.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign_checkpoint;
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[5; 32])
    }

    fn public() -> [u8; 32] {
        key().verifying_key().to_bytes()
    }

    /// Twelve rows, a checkpoint after each fourth.
    fn export() -> Vec<String> {
        export_by("acme/adam")
    }

    fn export_by(actor: &str) -> Vec<String> {
        let (mut last, mut lines) = ([0; 32], Vec::new());
        for number in 1..=12 {
            let mut row = AuditRow {
                number,
                at_micros: number * 1000,
                actor: actor.into(),
                action: "token.create".into(),
                object: format!("object-{number}"),
                detail: "for lea: querier".into(),
                hash: String::new(),
            };
            last = row.hash_after(&last);
            row.hash = HEXLOWER.encode(&last);
            lines.push(AuditLine::Row(row));
            if number % 4 == 0 {
                lines.push(AuditLine::Checkpoint(Checkpoint {
                    number,
                    at_micros: number * 1001,
                    hash: HEXLOWER.encode(&last),
                    key: HEXLOWER.encode(&public()),
                    signature: HEXLOWER.encode(&sign_checkpoint(
                        &key(),
                        number,
                        number * 1001,
                        &last,
                    )),
                }));
            }
        }
        let text = |line: &AuditLine| serde_json::to_string(line).unwrap();
        lines.iter().map(text).collect()
    }

    fn verify(lines: &[String]) -> Result<AuditSummary, ChainError> {
        verify_export(&lines.join("\n"), &public())
    }

    #[test]
    fn an_untouched_export_verifies_under_the_right_key_only() {
        let good = export();
        let (rows, checkpoints) = (12, 3);
        let summary = verify(&good).unwrap();
        assert_eq!((summary.rows, summary.checkpoints), (rows, checkpoints));
        let other = SigningKey::from_bytes(&[6; 32]).verifying_key().to_bytes();
        assert_eq!(
            verify_export(&good.join("\n"), &other),
            Err(ChainError::CheckpointSignature(4))
        );
        assert_eq!(verify(&[]), Err(ChainError::Open(0)));
    }

    #[test]
    fn every_removed_swapped_or_cut_line_is_found() {
        let good = export();
        for at in 0..good.len() {
            let mut removed = good.clone();
            let line = removed.remove(at);
            // a checkpoint in the middle may go: the next one covers its rows
            let harmless = line.contains("\"checkpoint\"") && at + 1 < good.len();
            assert_eq!(verify(&removed).is_ok(), harmless, "line {at} removed");
            for other in at + 1..good.len() {
                let mut swapped = good.clone();
                swapped.swap(at, other);
                assert!(verify(&swapped).is_err(), "lines {at} and {other} swapped");
            }
            let whole = at % 5 == 0 && at > 0;
            assert_eq!(verify(&good[..at]).is_ok(), whole, "cut before line {at}");
        }
    }

    /// Another past that is signed by the same key verifies on its own, beside an earlier export not.
    #[test]
    fn another_past_signed_by_the_registry_is_found_beside_an_earlier_export() {
        let earlier = verify(&export()[..5]).unwrap();
        let beside = |lines: &[String]| {
            let key = public();
            let mut verifier = ChainVerifier::new(&key).since(earlier);
            for line in lines {
                verifier.take(&serde_json::from_str(line).unwrap())?;
            }
            verifier.finish()
        };
        assert_eq!(beside(&export()), verify(&export()));
        let forged = export_by("acme/eve");
        assert!(verify(&forged).is_ok());
        assert_eq!(beside(&forged), Err(ChainError::Forked(4)));
        assert_eq!(beside(&[]), Err(ChainError::Forked(4)));
    }

    proptest! {
        #[test]
        fn every_changed_byte_is_found(at in 0usize..4000, with in 1u8..128) {
            let text = export().join("\n");
            let mut bytes = text.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= with;
            // the public key in the file is for people: verification uses the pinned one
            let in_key = text[..at].rfind("\"key\":\"").is_some_and(|k| at < k + 7 + 64 && at >= k + 7);
            // white space between rows carries nothing
            let blank = text.as_bytes()[at].is_ascii_whitespace() && bytes[at].is_ascii_whitespace();
            if let Ok(changed) = String::from_utf8(bytes) && !in_key && !blank {
                prop_assert!(verify_export(&changed, &public()).is_err(), "byte {}", at);
            }
        }
    }
}
