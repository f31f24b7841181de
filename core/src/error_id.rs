//! The closed set of errors that cross a wire or reach a person. Each has a stable id, a page
//! `docs/errors/CX-….md` (tests compare both), and says whether the same request may be sent again.

use std::fmt;
use std::str::FromStr;

macro_rules! error_ids {
    ($( $name:ident = $id:literal, $retry:literal, $next:literal; )*) => {
        /// Identifies an error; its page is `docs/errors/CX-….md`.
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
    VersionSunset = "CX-M10", false, "its sunset date has passed; choose another version of `chemxor catalog`, or ask the publisher for its successor";
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

    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    fn docs() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
    }

    fn read(path: &str) -> String {
        let path = docs().join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn retry(id: ErrorId) -> &'static str {
        if id.is_retryable() {
            "yes, later"
        } else {
            "no"
        }
    }

    /// The text under a heading of the second level.
    fn section<'a>(page: &'a str, heading: &str) -> &'a str {
        let begin = format!("\n## {heading}\n");
        let (_, rest) = page.split_once(&begin).unwrap_or_default();
        rest.split("\n## ").next().unwrap_or_default().trim()
    }

    #[test]
    fn the_index_and_the_contents_link_every_page() {
        let (index, contents) = (read("errors.md"), read("SUMMARY.md"));
        for id in ErrorId::ALL {
            let row = format!(
                "| [`{id}`](errors/{id}.md) | {} | {} |",
                retry(*id),
                id.next_step()
            );
            assert!(index.contains(&row), "docs/errors.md lacks {row}");
            let entry = format!("  - [{id}](errors/{id}.md)\n");
            assert!(contents.contains(&entry), "docs/SUMMARY.md lacks {entry}");
            assert_eq!(id.as_str().parse::<ErrorId>().unwrap(), *id);
        }
    }

    #[test]
    fn every_id_has_a_page_that_agrees_with_the_code_and_no_page_lacks_an_id() {
        for id in ErrorId::ALL {
            let page = read(&format!("errors/{id}.md"));
            assert!(page.starts_with(&format!("# {id}: ")), "title of {id}");
            let again = format!("May the same request be sent again? {}.\n", retry(*id));
            assert!(page.contains(&again), "{id} lacks: {again}");
            assert!(page.contains("\ngRPC status: `"), "gRPC status of {id}");
            let next = format!("{}.", id.next_step());
            let what_next = section(&page, "What to do next");
            assert!(
                what_next.starts_with(&next),
                "next step of {id}: {what_next}"
            );
            for heading in [
                "What happened",
                "Usual causes",
                "For the operator",
                "Example",
            ] {
                assert!(section(&page, heading).len() > 20, "{id} lacks {heading}");
            }
            assert!(section(&page, "Example").contains(id.as_str()), "{id}");
        }
        let known = ErrorId::ALL.iter().map(|id| format!("{id}.md"));
        let known: BTreeSet<String> = known.collect();
        let pages = std::fs::read_dir(docs().join("errors")).unwrap();
        let pages: BTreeSet<String> = pages
            .map(|page| page.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(pages, known);
    }
}
