//! Equal molecules are asked for once: molecules are equal when their features are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::{Answer, Oracle, suffix};
use crate::ClientError;

/// Molecules that are remembered; later ones are asked for each time. About 100 bytes each.
pub const DEDUPE_LIMIT: usize = 1 << 20;

type Key = [u8; 16];

/// What the fields of an answer are, as text, once it is known.
type Known = Arc<OnceCell<Arc<[u8]>>>;

/// Answers by features; empty and unused without `dedupe`.
pub(crate) struct Repeats {
    delimiter: u8,
    known: Option<Mutex<HashMap<Key, Known>>>,
}

fn key(features: &[u16]) -> Key {
    let mut hash = Sha256::new();
    for feature in features {
        hash.update(feature.to_le_bytes());
    }
    let mut key = Key::default();
    key.copy_from_slice(&hash.finalize()[..16]);
    key
}

impl Repeats {
    pub(crate) fn new(dedupe: bool, delimiter: u8) -> Self {
        Self {
            delimiter,
            known: dedupe.then(Mutex::default),
        }
    }

    fn cell(&self, features: &[u16]) -> Option<Known> {
        let mut known = self
            .known
            .as_ref()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let full = known.len() >= DEDUPE_LIMIT;
        let key = key(features);
        match known.get(&key) {
            Some(cell) => Some(cell.clone()),
            None if full => None,
            None => Some(known.entry(key).or_default().clone()),
        }
    }

    /// What an earlier run wrote after a molecule with these features.
    pub(crate) fn remember(&self, features: &[u16], suffix: &[u8]) {
        if let Some(cell) = self.cell(features) {
            // an equal molecule may have come first
            let _ = cell.set(suffix.into());
        }
    }

    /// Asks, unless an equal molecule has been or is being asked for.
    pub(crate) async fn answer(
        &self,
        oracle: &impl Oracle,
        features: Vec<u16>,
    ) -> Result<Answer, ClientError> {
        let Some(cell) = self.cell(&features) else {
            let prediction = oracle.predict(features).await?;
            let text = suffix(oracle, &prediction, self.delimiter).into();
            return Ok(Answer::Predicted(text, prediction));
        };
        let mut asked = None;
        let text = cell
            .get_or_try_init(|| async {
                let prediction = oracle.predict(features).await?;
                let text: Arc<[u8]> = suffix(oracle, &prediction, self.delimiter).into();
                asked = Some(prediction);
                Ok::<_, ClientError>(text)
            })
            .await?
            .clone();
        Ok(match asked {
            Some(prediction) => Answer::Predicted(text, prediction),
            None => Answer::Repeated(text),
        })
    }
}
