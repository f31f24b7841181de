//! Joining the parts of a step's reply that several workers computed. The header is public; what
//! follows it stays opaque here (docs/wire.md).
//!
//! A reply begins with `CXRE`, version, three bytes of precision, the number of its first output
//! ciphertext and how many follow (u32 each, little endian), then those ciphertexts one after the
//! other, each ending at a byte boundary. So parts join by concatenation.

/// Bytes of a reply's header.
pub const REPLY_HEAD: usize = 16;

/// Why parts do not make a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Not a part of a reply, or of another step than the first part.
    #[error("part {0} is not a reply of this step")]
    Format(usize),
    /// A gap, an overlap or a wrong order.
    #[error("part {part} begins at output ciphertext {got}, expected {expected}")]
    Gap {
        /// Which part.
        part: usize,
        /// Where it begins.
        got: u32,
        /// Where the one before ends.
        expected: u32,
    },
}

/// The header of a reply or part that covers output ciphertexts `first..first + count`; `head` is
/// everything before the two numbers.
pub fn reply_header(head: [u8; 8], first: u32, count: u32) -> [u8; REPLY_HEAD] {
    let mut out = [0; REPLY_HEAD];
    out[..8].copy_from_slice(&head);
    out[8..12].copy_from_slice(&first.to_le_bytes());
    out[12..].copy_from_slice(&count.to_le_bytes());
    out
}

/// Output ciphertexts that a reply or part says it covers; none when it is no reply.
pub fn reply_groups(reply: &[u8]) -> Option<std::ops::Range<u32>> {
    let head = reply.get(..REPLY_HEAD)?;
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if &head[..4] != b"CXRE" {
        return None;
    }
    Some(number(8)..number(8).checked_add(number(12))?)
}

/// Joins parts, given in order, into one reply.
pub fn join_replies<P: AsRef<[u8]>>(parts: &[P]) -> Result<Vec<u8>, JoinError> {
    let u32_at = |part: &[u8], at: usize| {
        u32::from_le_bytes([part[at], part[at + 1], part[at + 2], part[at + 3]])
    };
    let whole = |index: usize| -> Result<&[u8], JoinError> {
        let part = parts.get(index).ok_or(JoinError::Format(index))?.as_ref();
        if part.len() < REPLY_HEAD || &part[..4] != b"CXRE" {
            return Err(JoinError::Format(index));
        }
        Ok(part)
    };
    let first = whole(0)?;
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.as_ref().len()).sum());
    out.extend_from_slice(&first[..REPLY_HEAD]);
    let mut expected = u32_at(first, 8);
    let begin = expected;
    for index in 0..parts.len() {
        let part = whole(index)?;
        if part[..8] != first[..8] {
            return Err(JoinError::Format(index));
        }
        let got = u32_at(part, 8);
        if got != expected {
            return Err(JoinError::Gap {
                part: index,
                got,
                expected,
            });
        }
        expected = expected
            .checked_add(u32_at(part, 12))
            .ok_or(JoinError::Format(index))?;
        out.extend_from_slice(&part[REPLY_HEAD..]);
    }
    out[12..16].copy_from_slice(&(expected - begin).to_le_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(first: u32, count: u32) -> Vec<u8> {
        let head = reply_header(*b"CXRE\x02\x01\x0d\x00", first, count);
        let body = (first..first + count).map(|i| i as u8);
        head.into_iter().chain(body).collect()
    }

    #[test]
    fn parts_join_in_order_only() {
        assert_eq!(join_replies(&[part(0, 2), part(2, 3)]).unwrap(), part(0, 5));
        let gap = join_replies(&[part(0, 2), part(3, 1)]);
        assert_eq!(
            gap,
            Err(JoinError::Gap {
                part: 1,
                got: 3,
                expected: 2
            })
        );
        assert!(join_replies(&[part(2, 1), part(0, 2)]).is_err());
        assert_eq!(reply_groups(&part(2, 3)), Some(2..5));
        assert_eq!(reply_groups(b"CXRE"), None);
        assert_eq!(
            reply_groups(&reply_header(*b"CXRE\x02\x01\x0d\x00", 2, u32::MAX)),
            None
        );
        let mut other = part(2, 1);
        other[6] = 12;
        assert_eq!(
            join_replies(&[part(0, 2), other]),
            Err(JoinError::Format(1))
        );
        assert_eq!(join_replies::<Vec<u8>>(&[]), Err(JoinError::Format(0)));
        assert_eq!(join_replies(&[b"CXRE"]), Err(JoinError::Format(0)));
    }
}
