//! SIGTERM and SIGINT as a cancellation.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// From here on a file that grows past `ulimit -f` is an error of the write, which names the file,
/// and no longer the end of the process.
pub fn survive_file_limit() {
    let number = nix::sys::signal::Signal::SIGXFSZ as i32;
    // the handler stays when the stream of signals is dropped
    if let Err(error) = signal(SignalKind::from_raw(number)) {
        tracing::debug!(%error, "a limit on file sizes ends the process");
    }
}

/// A token that is cancelled when the process is asked to stop.
pub fn signalled() -> CancellationToken {
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let (terminate, interrupt) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        );
        let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
            tracing::error!("cannot listen for signals; stop the process with SIGKILL");
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    token
}
