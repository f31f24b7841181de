//! SMILES in, prediction out: featurises, keeps a session open, opens a new one when it broke or
//! when the key is replaced, and asks again what may be asked again.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chemxor_core::{Manifest, VersionId};
use futures::{Stream, StreamExt};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::batch::Oracle;
use crate::interpret::{Output, Outside, domain_field, interpret, outside};
use crate::keyring::Keys;
use crate::patience::Attempts;
pub use crate::patience::Patience;
use crate::session::{Prediction, Session};
use crate::{Access, ClientError};

/// What a stream of predictions says, in the order in which it happens.
#[derive(Debug)]
pub enum Event {
    /// A round of a molecule is done.
    Round {
        /// Place of the molecule in the input, from 0.
        index: u64,
        /// Rounds done.
        done: u32,
        /// Rounds that the model takes.
        of: u32,
    },
    /// A molecule is done.
    Done {
        /// Its place in the input, from 0.
        index: u64,
        /// Its prediction, or why there is none.
        outcome: Result<Prediction, ClientError>,
    },
}

/// A session and the number of the key that it was opened with.
struct Open {
    session: Arc<Session>,
    key: u64,
}

/// Predicts with one version of one model.
pub struct Predictor {
    access: Access,
    version: VersionId,
    manifest: Arc<Manifest>,
    keys: Keys,
    patience: Patience,
    open: Mutex<Option<Open>>,
    /// Attempts that found the platform away.
    away: AtomicU64,
}

impl Predictor {
    /// `access` is the gateway's; version and manifest come from [`crate::catalog::get`].
    pub fn new(
        access: Access,
        version: VersionId,
        manifest: Arc<Manifest>,
        keys: impl Into<Keys>,
        patience: Patience,
    ) -> Self {
        Self {
            access,
            version,
            manifest,
            keys: keys.into(),
            patience,
            open: Mutex::new(None),
            away: AtomicU64::new(0),
        }
    }

    /// Asks more or less patiently.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// The model.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// `name@sha256:…`, the version that answers.
    pub fn model(&self) -> String {
        format!("{}@{}", self.manifest.name, self.version)
    }

    /// Features of a molecule, as integers, after the standardisation that the model was trained
    /// with; stays in this process.
    pub fn featurise(&self, smiles: &str) -> Result<Vec<u16>, ClientError> {
        let standard = chemxor_chem::standardise(self.manifest.standardisation, smiles)?;
        let featuriser = &self.manifest.featuriser;
        Ok(chemxor_chem::featurise(featuriser, &standard.smiles)?)
    }

    /// What a prediction means: value, unit, class, probability.
    pub fn interpret(&self, prediction: &Prediction) -> Vec<Output> {
        interpret(&self.manifest, prediction)
    }

    /// Descriptors of a molecule outside the ranges of the training molecules; `None` when the model
    /// does not state them. Nothing is sent.
    pub fn outside(&self, smiles: &str) -> Result<Option<Vec<Outside>>, ClientError> {
        let domain = self.manifest.domain.as_ref();
        domain.map(|domain| outside(domain, smiles)).transpose()
    }

    /// How often an attempt has found the platform away and is made again: while this grows, the time
    /// that a run takes says nothing about its rate.
    pub fn outages(&self) -> u64 {
        self.away.load(Ordering::Relaxed)
    }

    /// The open session, or a new one, for one more query.
    pub async fn session(&self) -> Result<Arc<Session>, ClientError> {
        let mut slot = self.open.lock().await;
        let (key, number) = self.keys.take()?;
        let usable = |open: &&Open| open.key == number && !open.session.has_ended();
        if let Some(open) = slot.as_ref().filter(usable) {
            return Ok(open.session.clone());
        }
        // no longer among the sessions of the organisation, which may be allowed one only; queries that
        // run hold it until they have ended
        drop(slot.take());
        let opened = Session::open(&self.access, self.version, self.manifest.clone(), key);
        let session = Arc::new(opened.await?);
        *slot = Some(Open {
            session: session.clone(),
            key: number,
        });
        Ok(session)
    }

    /// Predicts one molecule. Each attempt is a fresh query with fresh randomness.
    pub async fn predict(&self, smiles: &str) -> Result<Prediction, ClientError> {
        let features = self.featurise(smiles)?;
        self.predict_features(features).await
    }

    /// Predicts from features.
    pub async fn predict_features(&self, features: Vec<u16>) -> Result<Prediction, ClientError> {
        self.predict_observed(features, |_| ()).await
    }

    /// Predicts from features; `round` hears the number of rounds done, again from 1 when a query
    /// had to be asked again.
    pub async fn predict_observed(
        &self,
        features: Vec<u16>,
        mut round: impl FnMut(u32),
    ) -> Result<Prediction, ClientError> {
        let mut attempts = Attempts::begin(self.patience);
        loop {
            let outcome = match self.session().await {
                Ok(session) => session.predict_observed(features.clone(), &mut round).await,
                Err(error) => Err(error),
            };
            let error = match outcome {
                Ok(prediction) => return Ok(prediction),
                Err(error) => error,
            };
            let Some(again) = attempts.failed(&error) else {
                return Err(error);
            };
            self.away.fetch_add(again.is_away.into(), Ordering::Relaxed);
            tracing::info!(attempt = again.attempt, %error, "asking again");
            tokio::time::sleep(again.pause).await;
        }
    }

    /// Predicts a stream of SMILES, `in_flight` at the same time. Events come as they happen, so
    /// molecules may overtake each other; dropping the stream ends what runs.
    pub fn stream(
        self: &Arc<Self>,
        molecules: impl Stream<Item = String> + Send + 'static,
        in_flight: usize,
    ) -> ReceiverStream<Event> {
        let predictor = self.clone();
        let numbered = futures::stream::iter(0u64..).zip(molecules);
        let (sender, receiver) = mpsc::channel(EVENTS);
        tokio::spawn(async move {
            let ask =
                |(index, smiles): (u64, String)| predictor.tell(index, smiles, sender.clone());
            let mut asked = pin!(numbered.map(ask).buffer_unordered(in_flight.max(1)));
            tokio::select! {
                () = sender.closed() => {}
                () = async { while asked.next().await.is_some() {} } => {}
            }
        });
        ReceiverStream::new(receiver)
    }

    async fn tell(&self, index: u64, smiles: String, events: mpsc::Sender<Event>) {
        let of = self.manifest.graph.steps().len() as u32;
        let outcome = match self.featurise(&smiles) {
            Ok(features) => {
                let round = |done| {
                    // a listener that is behind misses rounds, never results
                    let _ = events.try_send(Event::Round { index, done, of });
                };
                self.predict_observed(features, round).await
            }
            Err(error) => Err(error),
        };
        // nobody listens when the stream was dropped
        let _ = events.send(Event::Done { index, outcome }).await;
    }
}

/// Events that wait for their listener.
const EVENTS: usize = 256;

impl Oracle for Predictor {
    fn columns(&self) -> Vec<String> {
        crate::interpret::columns(&self.manifest)
    }

    fn featurise(&self, smiles: &str) -> Result<Vec<u16>, ClientError> {
        Self::featurise(self, smiles)
    }

    async fn predict(&self, features: Vec<u16>) -> Result<Prediction, ClientError> {
        self.predict_features(features).await
    }

    fn fields(&self, prediction: &Prediction) -> Vec<String> {
        crate::interpret::fields(&self.interpret(prediction))
    }

    fn note_columns(&self) -> Vec<String> {
        let domain = self.manifest.domain.as_ref();
        domain.map(|_| "domain".to_owned()).into_iter().collect()
    }

    fn notes(&self, smiles: &str) -> Result<Vec<String>, ClientError> {
        let outside = self.outside(smiles)?;
        Ok(outside
            .iter()
            .map(|outside| domain_field(outside))
            .collect())
    }
}
