//! SMILES in, prediction out: featurises, keeps a session open, opens a new one when it broke, and
//! asks again what may be asked again.

use std::sync::Arc;
use std::time::Duration;

use chemxor_core::{Manifest, VersionId};
use chemxor_fhe::client::ClientKey;
use tokio::sync::Mutex;

use crate::session::{Prediction, Session};
use crate::{Access, ClientError};

/// How often and how patiently to ask again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Attempts for one molecule, the first included.
    pub attempts: u32,
    /// Pause after the first failure; doubles each time, up to two seconds.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            pause: Duration::from_millis(100),
        }
    }
}

/// Predicts with one version of one model.
pub struct Predictor {
    access: Access,
    version: VersionId,
    manifest: Arc<Manifest>,
    key: Arc<ClientKey>,
    patience: Patience,
    session: Mutex<Option<Arc<Session>>>,
}

impl Predictor {
    /// `access` is the gateway's; version and manifest come from [`crate::catalog::get`].
    pub fn new(
        access: Access,
        version: VersionId,
        manifest: Arc<Manifest>,
        key: Arc<ClientKey>,
        patience: Patience,
    ) -> Self {
        Self {
            access,
            version,
            manifest,
            key,
            patience,
            session: Mutex::new(None),
        }
    }

    /// The model.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Features of a molecule, as integers; stays in this process.
    pub fn featurise(&self, smiles: &str) -> Result<Vec<u16>, ClientError> {
        Ok(chemxor_chem::featurise(&self.manifest.featuriser, smiles)?)
    }

    /// The open session, or a new one.
    pub async fn session(&self) -> Result<Arc<Session>, ClientError> {
        let mut slot = self.session.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| !session.has_ended()) {
            return Ok(session.clone());
        }
        let opened = Session::open(
            &self.access,
            self.version,
            self.manifest.clone(),
            self.key.clone(),
        );
        let session = Arc::new(opened.await?);
        *slot = Some(session.clone());
        Ok(session)
    }

    /// Predicts one molecule. Each attempt is a fresh query with fresh randomness.
    pub async fn predict(&self, smiles: &str) -> Result<Prediction, ClientError> {
        let features = self.featurise(smiles)?;
        self.predict_features(features).await
    }

    /// Predicts from features.
    pub async fn predict_features(&self, features: Vec<u16>) -> Result<Prediction, ClientError> {
        let mut pause = self.patience.pause;
        let mut attempt = 1;
        loop {
            let outcome = match self.session().await {
                Ok(session) => session.predict(features.clone()).await,
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if error.is_retryable() && attempt < self.patience.attempts => {
                    tracing::info!(attempt, %error, "asking again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }
}
