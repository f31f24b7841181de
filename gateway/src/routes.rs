//! Who serves which step of which version: what the registry said when a session was authorised,
//! and since then what its watch says. While the registry is away the last view goes on.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chemxor_core::VersionId;
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::{MAX_SHARES, v1};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use crate::pool::{Pool, Worker};

/// Longest pause before the watch is opened again.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long the registry may take to begin a watch, its database included.
const BEGIN: Duration = Duration::from_secs(15);
/// Longest view: each version takes some hundred bytes, and as many for each of its placements.
pub(crate) const MAX_VIEW_BYTES: usize = 64 << 20;

/// The workers that compute the same output ciphertexts of a step.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    /// Which ones; none for the whole step.
    pub(crate) groups: Option<Range<u32>>,
    /// Any of them will do.
    pub(crate) replicas: Vec<Arc<Worker>>,
}

/// One version: for each step the shares that make it up, in order.
#[derive(Debug, Default)]
pub(crate) struct Route {
    steps: Vec<Vec<Share>>,
}

impl Route {
    /// From placements; those of workers that are not known are left out.
    pub(crate) fn new(
        steps: u32,
        placements: &[v1::Placement],
        known: &HashMap<&str, Arc<Worker>>,
    ) -> Self {
        let step = |step: u32| {
            let mut shares: BTreeMap<(u32, u32), Vec<Arc<Worker>>> = BTreeMap::new();
            for place in placements {
                let serves = (place.first_step..place.end_step).contains(&step);
                let Some(worker) = known.get(place.worker.as_str()).filter(|_| serves) else {
                    continue;
                };
                let replicas = shares
                    .entry((place.first_group, place.end_group))
                    .or_default();
                if !replicas.iter().any(|w| w.name() == worker.name()) {
                    replicas.push(worker.clone());
                }
            }
            cover(shares)
        };
        Self {
            steps: (0..steps).map(step).collect(),
        }
    }

    /// The shares of a step; empty when nobody, or not everybody that is needed, serves it.
    pub(crate) fn step(&self, step: u32) -> &[Share] {
        self.steps.get(step as usize).map_or(&[], |shares| shares)
    }
}

/// Whole replicas where there are any, else shares that follow each other from 0 on.
fn cover(mut shares: BTreeMap<(u32, u32), Vec<Arc<Worker>>>) -> Vec<Share> {
    if let Some(replicas) = shares.remove(&(0, 0)) {
        let groups = None;
        return vec![Share { groups, replicas }];
    }
    let mut next = 0;
    let mut cover = Vec::new();
    for ((first, end), replicas) in shares {
        if first != next || end <= first || cover.len() == MAX_SHARES {
            return Vec::new();
        }
        next = end;
        let groups = Some(first..end);
        cover.push(Share { groups, replicas });
    }
    cover
}

/// The routes of all versions, as the watch keeps them.
pub(crate) struct Routes {
    pool: Pool,
    watched: RwLock<Watched>,
}

/// What has changed since the registry was asked: where either number is another one, it must be asked
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct News {
    /// The number of the last view, when it does not list the version; none while there is no view. A
    /// view lists every version that may be served.
    pub(crate) unlisted: Option<u64>,
    /// Grows with each change of a right.
    pub(crate) rights: u64,
}

/// The last view.
#[derive(Default)]
struct Watched {
    /// How many came.
    views: u64,
    /// Grows whenever a right has changed, or may have while nobody told.
    rights: u64,
    routes: HashMap<VersionId, Arc<Route>>,
}

impl Routes {
    pub(crate) fn new(pool: Pool) -> Self {
        Self {
            pool,
            watched: RwLock::default(),
        }
    }

    /// The route of a version, if the watch knows it.
    pub(crate) fn watched(&self, version: &VersionId) -> Option<Arc<Route>> {
        let watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
        watched.routes.get(version).cloned()
    }

    /// What a session of this version must be checked for.
    pub(crate) fn news(&self, version: &VersionId) -> News {
        let watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
        let is_unlisted = watched.views > 0 && !watched.routes.contains_key(version);
        News {
            unlisted: is_unlisted.then_some(watched.views),
            rights: watched.rights,
        }
    }

    /// What no version's list says.
    pub(crate) fn rights(&self) -> u64 {
        let watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
        watched.rights
    }

    fn rights_changed(&self) {
        let mut watched = self.watched.write().unwrap_or_else(PoisonError::into_inner);
        watched.rights += 1;
    }

    /// Learns of workers, wherever they are now.
    pub(crate) fn learn<'a>(&self, workers: &'a [v1::Worker]) -> HashMap<&'a str, Arc<Worker>> {
        let mut known = HashMap::new();
        for worker in workers {
            match self.pool.learn(worker) {
                Ok(learned) => drop(known.insert(worker.name.as_str(), learned)),
                Err(error) => tracing::warn!(worker = worker.name, %error, "worker left out"),
            }
        }
        known
    }

    /// Replaces every route by those of the view.
    /// Of the first view of a stream nobody knows what changed before.
    pub(crate) fn replace(&self, view: &v1::PlacementView, is_first: bool) {
        let known = self.learn(&view.workers);
        let mut routes = HashMap::new();
        for entry in &view.versions {
            let Ok(version) = entry.version.parse::<VersionId>() else {
                tracing::warn!(version = entry.version, "placement of a malformed version");
                continue;
            };
            let steps = entry.placements.iter().map(|place| place.end_step).max();
            // a graph has at most 64 steps
            let steps = steps.unwrap_or(0).min(64);
            routes.insert(
                version,
                Arc::new(Route::new(steps, &entry.placements, &known)),
            );
        }
        let mut watched = self.watched.write().unwrap_or_else(PoisonError::into_inner);
        watched.views += 1;
        watched.rights += u64::from(is_first);
        watched.routes = routes;
    }

    /// Follows the registry until `stop`; `ready` is told when the first view has come.
    pub(crate) async fn follow(
        self: Arc<Self>,
        registry: ControlClient<Channel>,
        ready: watch::Sender<bool>,
        stop: CancellationToken,
    ) {
        let mut pause = Duration::from_millis(100);
        loop {
            tokio::select! {
                views = self.views(registry.clone(), &ready) => match views {
                    0 => pause = (pause * 2).min(MAX_PAUSE),
                    _ => pause = Duration::from_millis(100),
                },
                () = stop.cancelled() => return,
            }
            metrics::gauge!("chemxor_gateway_placements_watched").set(0.0);
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Takes views until the stream breaks; says how many came.
    async fn views(
        &self,
        mut registry: ControlClient<Channel>,
        ready: &watch::Sender<bool>,
    ) -> usize {
        let mut views = 0;
        let opened = registry.watch_placements(v1::WatchPlacementsRequest { rights: true });
        let opened = tokio::time::timeout(BEGIN, opened)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        let mut stream = match opened {
            Ok(stream) => stream.into_inner(),
            Err(status) => {
                let reason = status.message();
                tracing::warn!(reason, "placements are not watched; the last view goes on");
                return views;
            }
        };
        loop {
            let view = match stream.message().await {
                Ok(Some(view)) => view,
                // the registry stops
                Ok(None) => return views,
                Err(status) => {
                    let reason = status.message();
                    tracing::warn!(
                        reason,
                        "the watch of placements broke; the last view goes on"
                    );
                    return views;
                }
            };
            views += 1;
            if view.rights_only {
                self.rights_changed();
                continue;
            }
            let (versions, workers) = (view.versions.len(), view.workers.len());
            tracing::info!(versions, workers, "placements learned");
            metrics::gauge!("chemxor_gateway_placements_watched").set(1.0);
            self.replace(&view, views == 1);
            ready.send_replace(true);
        }
    }
}

/// Between a half and the whole of a pause, so that many waiters do not come back together.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let share = f64::from(random()) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + share / 2.0)
}

pub(crate) fn random() -> u32 {
    let mut bytes = [0; 4];
    // without randomness the first worker is as good as any
    let _ = getrandom::fill(&mut bytes);
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::tests::workers;

    fn place(worker: &str, steps: Range<u32>, groups: Range<u32>) -> v1::Placement {
        v1::Placement {
            worker: worker.into(),
            first_step: steps.start,
            end_step: steps.end,
            first_group: groups.start,
            end_group: groups.end,
        }
    }

    #[tokio::test]
    async fn shares_make_up_a_step_and_whole_replicas_come_first() {
        let workers = workers(4);
        let known: HashMap<&str, Arc<Worker>> =
            workers.iter().map(|w| (w.name(), w.clone())).collect();
        let route = |placements: &[v1::Placement]| Route::new(2, placements, &known);
        let shared = [
            place("w0", 0..1, 0..0),
            place("w1", 1..2, 3..5),
            place("w2", 1..2, 0..3),
            place("w3", 1..2, 0..3),
        ];
        let made = route(&shared);
        assert_eq!(made.step(0).len(), 1);
        assert_eq!(made.step(0)[0].groups, None);
        let groups: Vec<_> = made.step(1).iter().map(|s| s.groups.clone()).collect();
        assert_eq!(groups, [Some(0..3), Some(3..5)]);
        assert_eq!(made.step(1)[0].replicas.len(), 2);
        assert!(made.step(2).is_empty());
        // without w1 the step cannot be made up; with a whole replica it can
        let gap = route(&[shared[0].clone(), shared[1].clone()]);
        assert!(gap.step(1).is_empty());
        let whole = route(&[shared[1].clone(), place("w0", 0..2, 0..0)]);
        assert_eq!(whole.step(1)[0].groups, None);
        let stranger = route(&[place("nobody", 0..2, 0..0)]);
        assert!(stranger.step(0).is_empty());
    }
}
