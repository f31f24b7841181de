//! The stream of placement views: the table is read once a second and sent when it has changed. Between
//! two reads the stream says at once, to whoever asked for it, that a right has changed. A read that
//! fails is tried again, but not for long: a gateway that hears nothing takes its last view for what
//! holds. So the stream ends with the error: the gateway knows that it is not told any more, says so in
//! its metrics, and asks again, where there are several of another registry. When the registry stops
//! the stream ends, too, so that no gateway holds up the stop.

use std::time::Duration;

use chemxor_proto::v1;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::RegistryError;
use crate::store::{Store, silent};

/// How often the table is read for each gateway.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a read may take: a database that has vanished never answers.
const READ: Duration = Duration::from_secs(4);
/// A stream whose reads have failed for so long ends.
const STALE: Duration = Duration::from_secs(4);
/// Changes of rights that come closer together than this are told as one: each word makes every session
/// ask once, so that many changes must not become many words.
const TOGETHER: Duration = Duration::from_millis(200);

struct Watching {
    store: Store,
    /// The view that was sent.
    last: v1::PlacementView,
    /// When the table was last read.
    read: Instant,
    /// When the table is read again.
    due: Instant,
    /// Changes of rights, for those who want to hear of them.
    rights: Option<watch::Receiver<u64>>,
    /// When the next one may be told.
    may_tell: Instant,
}

/// Views, the first one at once. Ends with an error when the first read fails.
pub(super) async fn views(
    store: Store,
    rights: bool,
    stop: CancellationToken,
) -> Result<BoxStream<'static, Result<v1::PlacementView, Status>>, Status> {
    let changes = store.rights_changes();
    let first = read(&store).await?;
    let now = Instant::now();
    let watching = Watching {
        store,
        last: first.clone(),
        read: now,
        due: now + PERIOD,
        rights: rights.then_some(changes),
        may_tell: now,
    };
    let rest = stream::try_unfold(watching, |mut watching| async move {
        let message = watching.next().await;
        message.map(|message| Some((message, watching)))
    });
    let views = stream::once(async { Ok(first) }).chain(rest);
    Ok(views.take_until(stop.cancelled_owned()).boxed())
}

async fn read(store: &Store) -> Result<v1::PlacementView, RegistryError> {
    let read = tokio::time::timeout(READ, store.placement_view()).await;
    read.unwrap_or_else(|_| Err(silent().into()))
}

impl Watching {
    async fn next(&mut self) -> Result<v1::PlacementView, Status> {
        loop {
            let (rights, may_tell) = (&mut self.rights, self.may_tell);
            let changed = async {
                sleep_until(may_tell).await;
                match rights {
                    // an error: the store has gone, and the registry with it
                    Some(rights) => drop(rights.changed().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep_until(self.due) => {}
                () = changed => {
                    self.may_tell = Instant::now() + TOGETHER;
                    return Ok(v1::PlacementView {
                        rights_only: true,
                        ..Default::default()
                    });
                }
            }
            let view = read(&self.store).await;
            let now = Instant::now();
            self.due = now + PERIOD;
            match view {
                Ok(view) => {
                    self.read = now;
                    if view != self.last {
                        self.last.clone_from(&view);
                        return Ok(view);
                    }
                }
                Err(error) if now - self.read >= STALE => return Err(error.into()),
                Err(error) => tracing::warn!(%error, "placements cannot be read"),
            }
        }
    }
}
