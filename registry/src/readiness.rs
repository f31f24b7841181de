//! Whether calls are welcome: while PostgreSQL answers. Asked once a second, so that probes cost the
//! database nothing.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// Time between two questions.
const PERIOD: Duration = Duration::from_secs(1);
/// How long an answer may take, a connection included.
const ANSWER: Duration = Duration::from_secs(2);

async fn answers(store: &Store) -> bool {
    let asked = sqlx::query("select 1").execute(store.pool());
    matches!(tokio::time::timeout(ANSWER, asked).await, Ok(Ok(_)))
}

/// Keeps `ready` what the database says, until `stop`; never ready once stopping.
pub(crate) async fn follow(store: Store, ready: watch::Sender<bool>, stop: CancellationToken) {
    let watched = async {
        loop {
            let now = answers(&store).await;
            ready.send_if_modified(|ready| {
                let now = now && !stop.is_cancelled();
                let changed = *ready != now;
                *ready = now;
                if changed && now {
                    tracing::info!("PostgreSQL answers again");
                } else if changed {
                    tracing::warn!("PostgreSQL does not answer; the registry is not ready");
                }
                changed
            });
            tokio::time::sleep(PERIOD).await;
        }
    };
    tokio::select! {
        () = watched => {}
        () = stop.cancelled() => {}
    }
}
