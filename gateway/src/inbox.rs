//! Puts the chunks of many messages together side by side, in bounded memory.
//!
//! Pure; both sides of a session use it, for steps of the client and for replies of a worker.
//! After an error the stream it belongs to must end.

use std::collections::HashMap;

use bytes::Bytes;
use chemxor_core::{ErrorId, FrameError, Reassembler};
use chemxor_proto::{MAX_FRAME_BYTES, MAX_STEP_BYTES};

/// Query and step that a message belongs to.
pub(crate) type At = (u64, u32);

/// Why a chunk was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InboxError {
    #[error("a frame of {0} bytes came; a frame carries at most {MAX_FRAME_BYTES}")]
    FrameTooLarge(usize),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("more than {0} messages are incomplete; complete one before you begin the next")]
    TooMany(usize),
    #[error("incomplete messages hold more than {0} bytes; complete one before you begin the next")]
    TooMuch(usize),
}

impl InboxError {
    /// The error that the sender is told.
    pub(crate) fn error_id(self) -> ErrorId {
        match self {
            Self::Frame(FrameError::TooLarge { .. })
            | Self::FrameTooLarge(_)
            | Self::TooMany(_)
            | Self::TooMuch(_) => ErrorId::FrameTooLarge,
            Self::Frame(_) => ErrorId::FrameMalformed,
        }
    }
}

/// The incomplete messages of one stream.
#[derive(Debug)]
pub(crate) struct Inbox {
    partial: HashMap<At, (Reassembler, usize)>,
    bytes: usize,
    max_messages: usize,
    max_bytes: usize,
}

impl Inbox {
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            partial: HashMap::new(),
            bytes: 0,
            max_messages,
            max_bytes,
        }
    }

    /// Whether a message for this step has begun.
    pub(crate) fn has_begun(&self, at: At) -> bool {
        self.partial.contains_key(&at)
    }

    /// Drops what came of a message.
    pub(crate) fn forget(&mut self, at: At) {
        if let Some((_, held)) = self.partial.remove(&at) {
            self.bytes -= held;
        }
    }

    /// Drops what came of a query.
    pub(crate) fn forget_query(&mut self, query: u64) {
        let bytes = &mut self.bytes;
        self.partial.retain(|at, (_, held)| {
            if at.0 == query {
                *bytes -= *held;
            }
            at.0 != query
        });
    }

    /// Adds a chunk; gives the message when it is complete.
    pub(crate) fn push(
        &mut self,
        at: At,
        total_bytes: u32,
        payload: Bytes,
    ) -> Result<Option<Bytes>, InboxError> {
        if payload.len() > MAX_FRAME_BYTES {
            return Err(InboxError::FrameTooLarge(payload.len()));
        }
        let has_begun = self.has_begun(at);
        if !has_begun && !payload.is_empty() && payload.len() == total_bytes as usize {
            // whole, as most are: nothing to copy; a frame is below the limit of a message
            return Ok(Some(payload));
        }
        if !has_begun && self.partial.len() >= self.max_messages {
            return Err(InboxError::TooMany(self.max_messages));
        }
        if self.bytes + payload.len() > self.max_bytes {
            return Err(InboxError::TooMuch(self.max_bytes));
        }
        let (frames, held) = self.partial.entry(at).or_default();
        let done = frames.push(total_bytes as usize, &payload, MAX_STEP_BYTES)?;
        *held += payload.len();
        self.bytes += payload.len();
        if done.is_some() {
            self.forget(at);
        }
        Ok(done.map(Bytes::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Messages come out whole and unmixed, however their chunks are interleaved.
        #[test]
        fn interleaved_messages_are_not_mixed(
            sizes in proptest::collection::vec(1usize..500, 1..8),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..600),
        ) {
            let mut inbox = Inbox::new(8, 1 << 20);
            let messages: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(i, size)| vec![i as u8; *size]).collect();
            let mut chunks: Vec<Vec<&[u8]>> =
                messages.iter().map(|m| m.chunks(37).rev().collect()).collect();
            let mut order = order.into_iter();
            let mut whole = 0;
            loop {
                let open: Vec<usize> = (0..chunks.len()).filter(|i| !chunks[*i].is_empty()).collect();
                if open.is_empty() { break }
                let pick = order.next().map_or(0, |index| index.index(open.len()));
                let at = open[pick];
                let chunk = chunks[at].pop().unwrap();
                if let Some(message) = inbox.push((at as u64, 0), sizes[at] as u32, Bytes::copy_from_slice(chunk)).unwrap() {
                    prop_assert_eq!(&message, &messages[at]);
                    whole += 1;
                }
            }
            prop_assert_eq!(whole, messages.len());
            prop_assert_eq!(inbox.bytes, 0);
            prop_assert!(inbox.partial.is_empty());
        }
    }

    fn zeros(count: usize) -> Bytes {
        vec![0; count].into()
    }

    #[test]
    fn bounds_hold_and_name_themselves() {
        let mut inbox = Inbox::new(2, 100);
        assert_eq!(inbox.push((1, 0), 60, zeros(50)), Ok(None));
        assert_eq!(inbox.push((2, 0), 60, zeros(40)), Ok(None));
        assert_eq!(
            inbox.push((3, 0), 60, zeros(1)),
            Err(InboxError::TooMany(2))
        );
        assert_eq!(
            inbox.push((2, 0), 60, zeros(11)),
            Err(InboxError::TooMuch(100))
        );
        assert!(inbox.push((1, 0), 60, zeros(10)).unwrap().is_some());
        inbox.forget_query(2);
        assert_eq!(inbox.bytes, 0);
        assert!(inbox.partial.is_empty());
        let frame = zeros(MAX_FRAME_BYTES + 1);
        let refused = inbox.push((4, 0), 2 << 20, frame).unwrap_err();
        assert_eq!(refused.error_id(), ErrorId::FrameTooLarge);
        let refused = inbox.push((4, 0), u32::MAX, zeros(1)).unwrap_err();
        assert_eq!(refused.error_id(), ErrorId::FrameTooLarge);
        let refused = inbox.push((5, 0), 0, zeros(0)).unwrap_err();
        assert_eq!(refused.error_id(), ErrorId::FrameMalformed);
    }
}
