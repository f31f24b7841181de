//! The stream of placement views: the table is read once a second and sent when it has changed. Between
//! two reads the stream says at once, to whoever asked for it, that a right has changed. A read that
//! fails is tried again; the gateway keeps the last view meanwhile. When the registry stops the stream
//! ends, so that no gateway holds up the stop.

use std::time::Duration;

use chemxor_proto::v1;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::store::Store;

/// How often the table is read for each gateway.
const PERIOD: Duration = Duration::from_secs(1);
/// Changes of rights that come closer together than this are told as one: each word makes every session
/// ask once, so that many changes must not become many words.
const TOGETHER: Duration = Duration::from_millis(200);

struct Watching {
    store: Store,
    /// The view that was sent.
    last: v1::PlacementView,
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
    let first = store.placement_view().await?;
    let now = Instant::now();
    let watching = Watching {
        store,
        last: first.clone(),
        due: now + PERIOD,
        rights: rights.then_some(changes),
        may_tell: now,
    };
    let rest = stream::unfold(watching, |mut watching| async move {
        let message = watching.next().await;
        Some((Ok(message), watching))
    });
    let views = stream::once(async { Ok(first) }).chain(rest);
    Ok(views.take_until(stop.cancelled_owned()).boxed())
}

impl Watching {
    async fn next(&mut self) -> v1::PlacementView {
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
                    return v1::PlacementView {
                        rights_only: true,
                        ..Default::default()
                    };
                }
            }
            let read = self.store.placement_view().await;
            self.due = Instant::now() + PERIOD;
            match read {
                Ok(view) if view != self.last => {
                    self.last.clone_from(&view);
                    return view;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "placements cannot be read"),
            }
        }
    }
}
