//! Why an evaluation gave nothing, and whether another replica may be asked.

use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_runtime::status::error_id;

/// Longest message of a worker that is handed on, in characters.
const MAX_MESSAGE: usize = 500;

/// Why an evaluation gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) id: ErrorId,
    pub(crate) message: String,
}

/// What a failure says about whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The worker's trouble: another replica may do better, and this one is passed over for a while.
    Worker,
    /// What the client sent, says this worker; where there is another one it must say so, too.
    Client,
    /// What the client sent, and nobody else may be asked.
    ClientForGood,
}

impl Failure {
    /// The worker is away, breaks off or talks nonsense; another replica may do better.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            id: ErrorId::WorkerUnavailable,
            message: message.into(),
        }
    }

    /// Whose fault it is.
    pub(crate) fn blame(&self) -> Blame {
        match self.id {
            // whoever has not seen the seed would evaluate it
            ErrorId::SeedReused => Blame::ClientForGood,
            id if is_about_the_client(id) => Blame::Client,
            // also a state that does not open: no client has touched it
            _ => Blame::Worker,
        }
    }

    /// From the status that ended a worker's stream. The gateway's or the worker's own trouble is
    /// the worker being unavailable; only what the client sent is told to the client as it is.
    pub(crate) fn from_status(status: &tonic::Status) -> Self {
        match error_id(status) {
            Some(id) if is_about_the_client(id) => Self {
                id,
                message: shorten(status.message()),
            },
            Some(_) => Self::unavailable(shorten(status.message())),
            None => Self::unavailable("the worker cannot be reached"),
        }
    }

    /// From a failure that the worker reported of one evaluation.
    pub(crate) fn from_worker(failed: &v1::EvaluationFailed) -> Self {
        let id = failed.error_id.parse().unwrap_or(ErrorId::Internal);
        let told = is_about_the_client(id)
            || matches!(id, ErrorId::StateRefused | ErrorId::WorkerUnavailable);
        Self {
            id: if told { id } else { ErrorId::Internal },
            message: shorten(&failed.message),
        }
    }
}

/// Ids by which a worker refuses what a client sent.
fn is_about_the_client(id: ErrorId) -> bool {
    matches!(
        id,
        ErrorId::FrameMalformed
            | ErrorId::FrameTooLarge
            | ErrorId::CiphertextRefused
            | ErrorId::SeedReused
            | ErrorId::ArgumentInvalid
    )
}

fn shorten(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chemxor_runtime::status::status;

    #[test]
    fn only_what_the_client_sent_is_told_as_it_is() {
        let refused = Failure::from_status(&status(ErrorId::CiphertextRefused, "too short"));
        assert_eq!(refused.id, ErrorId::CiphertextRefused);
        assert_eq!(refused.blame(), Blame::Client);
        for id in [ErrorId::ModelUnknown, ErrorId::CertificateRefused] {
            let away = Failure::from_status(&status(id, "x"));
            assert_eq!(away.id, ErrorId::WorkerUnavailable);
            assert_eq!(away.blame(), Blame::Worker);
        }
        let foreign = Failure::from_worker(&v1::EvaluationFailed {
            error_id: "CX-A02".into(),
            message: "x".repeat(10_000),
            ..Default::default()
        });
        assert_eq!(foreign.id, ErrorId::Internal);
        assert_eq!(foreign.blame(), Blame::Worker);
        assert_eq!(foreign.message.len(), MAX_MESSAGE);
    }
}
