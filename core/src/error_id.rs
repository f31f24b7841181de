//! The closed set of errors that cross a wire or reach a person. Each has a stable id, a page in
//! `docs/errors.md` (a test compares both), and says whether the same request may be sent again.

use std::fmt;
use std::str::FromStr;

macro_rules! error_ids {
    ($( $name:ident = $id:literal, $retry:literal, $next:literal; )*) => {
        /// Identifies an error; see `docs/errors.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorId {
            $( #[doc = $next] $name, )*
        }
        impl ErrorId {
            /// Every id.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];
            /// The stable text, `CX-…`.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$name => $id, )* }
            }
            /// Whether the same request may succeed later, unchanged.
            pub fn is_retryable(self) -> bool {
                match self { $( Self::$name => $retry, )* }
            }
            /// What the reader should do next.
            pub fn next_step(self) -> &'static str {
                match self { $( Self::$name => $next, )* }
            }
        }
    };
}

error_ids! {
    TokenMissing = "CX-A01", false, "pass a token: --token-file FILE, or sign in to a profile";
    TokenRefused = "CX-A02", false, "ask an administrator for a new token; this one is unknown, expired or revoked";
    RoleMissing = "CX-A03", false, "ask an administrator for a token with the role that this call needs";
    CertificateRefused = "CX-A04", false, "use a certificate that this platform's authority issued for this name";
    CertificateDenied = "CX-A07", false, "an administrator withdrew your certificate; ask for a new one";
    OrganisationSuspended = "CX-A08", false, "your organisation is suspended; ask the platform's administrator";
    SelfApproval = "CX-A05", false, "let somebody other than the publisher approve this version";
    ModelUnknown = "CX-M01", false, "list what you may see with `chemxor catalog`";
    NotApproved = "CX-M02", false, "wait for approval, or choose another version";
    VersionRevoked = "CX-M03", false, "this version was withdrawn; choose another one";
    WrongState = "CX-M04", false, "look at the version's state with `chemxor catalog`";
    ManifestRefused = "CX-M05", false, "mend what the message names and publish again";
    SignatureRefused = "CX-M06", false, "sign exactly the manifest bytes with the publisher's key";
    BlobMissing = "CX-M07", false, "upload the missing blobs, then submit again";
    BlobCorrupt = "CX-M08", true, "upload the blob again from its first byte";
    WorkerUnknown = "CX-M09", false, "list the workers with `chemxor workers`; start the missing one";
    VersionSunset = "CX-M10", false, "its sunset date has passed; choose the successor that the catalogue names";
    NotConformant = "CX-M11", false, "let the publisher run the conformance check again: `chemxor publish` does";
    CardMissing = "CX-M20", false, "ask the publisher for a model card";
    CardRefused = "CX-M21", false, "mend the card with `chemxor card lint` and sign it with the key of the version";
    CertificateRequestUnknown = "CX-A06", false, "list the requests with `chemxor cert list --waiting`, or hand in a new one with `chemxor cert renew`";
    QuotaExhausted = "CX-G01", true, "wait as long as retry-after says, or ask the model's owner for a higher quota";
    BudgetExhausted = "CX-G02", false, "the extraction budget of your organisation is spent; ask the model's owner";
    OrganisationUnknown = "CX-G03", false, "look at the name; administrators of the platform list them with `chemxor org list`";
    AuditBroken = "CX-G04", false, "keep the export and the database as they are and call the security team";
    FrameMalformed = "CX-Q01", false, "use the same release of client and server; report it if it stays";
    FrameTooLarge = "CX-Q02", false, "use the same release of client and server; report it if it stays";
    StepOutOfOrder = "CX-Q03", false, "send each step once, in order; start a new query";
    CiphertextRefused = "CX-Q04", false, "use the same release of client and server, and a fresh session";
    SeedReused = "CX-Q05", false, "never send a seed twice; start a new query";
    WorkerUnavailable = "CX-Q06", true, "try again in a moment; tell the operator if it stays";
    StateRefused = "CX-Q07", true, "start a new query; the workers of this version may have been restarted with new keys";
    ProtocolVersion = "CX-Q08", false, "upgrade the older of client and server";
    SessionLimit = "CX-Q09", true, "wait for a running query to end, or ask the operator for a higher limit";
    StorageUnavailable = "CX-S01", true, "try again in a moment; tell the operator if it stays";
    Internal = "CX-S02", false, "report this with the request id";
    ArgumentInvalid = "CX-S03", false, "mend the argument that the message names";
}

impl fmt::Display for ErrorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An id that this build does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown error id {0:?}")]
pub struct UnknownErrorId(String);

impl FromStr for ErrorId {
    type Err = UnknownErrorId;
    fn from_str(text: &str) -> Result<Self, UnknownErrorId> {
        Self::ALL
            .iter()
            .copied()
            .find(|id| id.as_str() == text)
            .ok_or_else(|| UnknownErrorId(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_a_row_in_the_error_pages() {
        let page = include_str!("../../docs/errors.md");
        for id in ErrorId::ALL {
            assert!(
                page.contains(&format!("| `{id}` |")),
                "docs/errors.md lacks {id}"
            );
            assert_eq!(id.as_str().parse::<ErrorId>().unwrap(), *id);
        }
    }
}
