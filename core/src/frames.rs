//! Puts chunked step messages together again, in bounded memory.

/// Why a chunk was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The message announces more bytes than allowed.
    #[error("message of {announced} bytes is over the limit of {limit}")]
    TooLarge {
        /// Length the chunk names.
        announced: usize,
        /// Longest allowed.
        limit: usize,
    },
    /// The chunk would make the message longer than announced, or is empty.
    #[error("chunk of {got} bytes does not fit: {missing} bytes are missing")]
    BadLength {
        /// Length of the chunk.
        got: usize,
        /// What was still missing.
        missing: usize,
    },
    /// Chunks of one message disagree about its length.
    #[error("message length changed from {first} to {now}")]
    LengthChanged {
        /// In the first chunk.
        first: usize,
        /// In this chunk.
        now: usize,
    },
}

/// Collects the chunks of one message. Memory grows with what arrived, not with what was announced.
#[derive(Debug, Default)]
pub struct Reassembler {
    total: Option<usize>,
    data: Vec<u8>,
}

impl Reassembler {
    /// Adds a chunk; gives the message when it is complete.
    pub fn push(
        &mut self,
        total: usize,
        chunk: &[u8],
        limit: usize,
    ) -> Result<Option<Vec<u8>>, FrameError> {
        if total > limit {
            return Err(FrameError::TooLarge {
                announced: total,
                limit,
            });
        }
        let first = *self.total.get_or_insert(total);
        if first != total {
            return Err(FrameError::LengthChanged { first, now: total });
        }
        let missing = total - self.data.len();
        if chunk.is_empty() || chunk.len() > missing {
            return Err(FrameError::BadLength {
                got: chunk.len(),
                missing,
            });
        }
        self.data.extend_from_slice(chunk);
        if self.data.len() < total {
            return Ok(None);
        }
        self.total = None;
        Ok(Some(std::mem::take(&mut self.data)))
    }

    /// Whether a message has begun and is not complete.
    pub fn is_partial(&self) -> bool {
        self.total.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_of_any_size_give_the_message_back(
            message in proptest::collection::vec(any::<u8>(), 1..2000),
            size in 1usize..300,
        ) {
            let mut frames = Reassembler::default();
            let mut result = None;
            for chunk in message.chunks(size) {
                prop_assert!(result.is_none());
                result = frames.push(message.len(), chunk, 2000).unwrap();
            }
            prop_assert_eq!(result.unwrap(), message);
            prop_assert!(!frames.is_partial());
        }
    }

    #[test]
    fn lying_lengths_are_refused() {
        let mut frames = Reassembler::default();
        assert!(matches!(
            frames.push(11, b"x", 10),
            Err(FrameError::TooLarge { .. })
        ));
        assert_eq!(frames.push(4, b"ab", 10), Ok(None));
        assert!(matches!(
            frames.push(5, b"c", 10),
            Err(FrameError::LengthChanged { .. })
        ));
        assert!(matches!(
            frames.push(4, b"cde", 10),
            Err(FrameError::BadLength { .. })
        ));
        assert!(matches!(
            frames.push(4, b"", 10),
            Err(FrameError::BadLength { .. })
        ));
        assert_eq!(frames.push(4, b"cd", 10), Ok(Some(b"abcd".to_vec())));
    }
}
