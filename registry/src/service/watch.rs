//! The stream of placement views: the table is read once a second and sent when it has changed. A
//! read that fails is tried again; the gateway keeps the last view meanwhile. When the registry stops
//! the stream ends, so that no gateway holds up the stop.

use std::time::Duration;

use chemxor_proto::v1;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::store::Store;

/// How often the table is read for each gateway.
const PERIOD: Duration = Duration::from_secs(1);

/// Views, the first one at once. Ends with an error when the first read fails.
pub(super) async fn views(
    store: Store,
    stop: CancellationToken,
) -> Result<BoxStream<'static, Result<v1::PlacementView, Status>>, Status> {
    let first = store.placement_view().await?;
    let rest = stream::unfold((store, first.clone()), |(store, mut last)| async move {
        loop {
            tokio::time::sleep(PERIOD).await;
            match store.placement_view().await {
                Ok(view) if view != last => {
                    last = view.clone();
                    return Some((Ok(view), (store, last)));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "placements cannot be read"),
            }
        }
    });
    let views = stream::once(async { Ok(first) }).chain(rest);
    Ok(views.take_until(stop.cancelled_owned()).boxed())
}
