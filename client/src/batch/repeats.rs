//! Equal molecules are asked for once: molecules are equal when their features are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::Oracle;
use crate::ClientError;
use crate::session::Prediction;

/// Molecules that are remembered; later ones are asked for each time. About 150 bytes each.
pub const DEDUPE_LIMIT: usize = 1 << 20;

type Key = [u8; 16];
/// The fields of an answer.
type Fields = Arc<[String]>;
/// The same, once it is known.
type Known = Arc<OnceCell<Fields>>;

/// Answers by features; empty and unused without `dedupe`.
pub(crate) struct Repeats(Option<Mutex<HashMap<Key, Known>>>);

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
    pub(crate) fn new(dedupe: bool) -> Self {
        Self(dedupe.then(Mutex::default))
    }

    fn cell(&self, features: &[u16]) -> Option<Known> {
        let mut known = self
            .0
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

    /// What an earlier run wrote for a molecule with these features.
    pub(crate) fn remember(&self, features: &[u16], fields: Vec<String>) {
        if let Some(cell) = self.cell(features) {
            // an equal molecule may have come first
            let _ = cell.set(fields.into());
        }
    }

    /// Asks, unless an equal molecule has been or is being asked for. The prediction is there when
    /// it was asked for.
    pub(crate) async fn answer(
        &self,
        oracle: &impl Oracle,
        features: Vec<u16>,
    ) -> Result<(Fields, Option<Prediction>), ClientError> {
        let mut asked = None;
        let cell = self.cell(&features);
        let ask = async || {
            let prediction = oracle.predict(features).await?;
            let fields: Fields = oracle.fields(&prediction).into();
            asked = Some(prediction);
            Ok::<_, ClientError>(fields)
        };
        let fields = match cell {
            None => ask().await?,
            Some(cell) => cell.get_or_try_init(ask).await?.clone(),
        };
        Ok((fields, asked))
    }
}
