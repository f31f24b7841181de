//! Names and digests. Each is parsed once; a value of these types is always well formed.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a name or digest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// A name with a character outside `a-z 0-9 - _ .`, empty, too long or with a bad first letter.
    #[error(
        "{what} {given:?} is not valid: use 1 to 64 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit"
    )]
    Name {
        /// What kind of name.
        what: &'static str,
        /// The text, cut to 80 characters.
        given: String,
    },
    /// Not `sha256:` and 64 lower-case hex digits.
    #[error("digest {given:?} is not valid: expected \"sha256:\" and 64 lower-case hex digits")]
    Digest {
        /// The text, cut to 80 characters.
        given: String,
    },
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn check_name(what: &'static str, text: &str) -> Result<(), IdError> {
    let ok_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let ok_first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ok = text.len() <= 64 && text.chars().all(ok_char) && text.starts_with(ok_first);
    if ok {
        Ok(())
    } else {
        Err(IdError::Name {
            what,
            given: cut(text),
        })
    }
}

macro_rules! name_type {
    ($name:ident, $what:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check_name($what, text)?;
                Ok(Self(text.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                check_name($what, &text)?;
                Ok(Self(text))
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

name_type!(ModelName, "model name", "Name of a model, e.g. `esol-mlp`.");
name_type!(
    WorkerName,
    "worker name",
    "Name of a partition worker, as in its certificate."
);

name_type!(
    OrganisationName,
    "organisation name",
    "Name of an organisation or a consortium."
);
name_type!(AliasName, "alias", "An alias of a model, e.g. `stable`.");

macro_rules! digest_type {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// SHA-256 of `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
            }
            /// Wraps a digest computed elsewhere.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
            /// The 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let refuse = || IdError::Digest { given: cut(text) };
                let hex = text.strip_prefix("sha256:").ok_or_else(refuse)?;
                let bytes = HEXLOWER.decode(hex.as_bytes()).map_err(|_| refuse())?;
                Ok(Self(bytes.try_into().map_err(|_| refuse())?))
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "sha256:{}", HEXLOWER.encode(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

digest_type!(
    VersionId,
    "A version of a model: the SHA-256 of its manifest bytes."
);
digest_type!(
    BlobDigest,
    "Content address of a blob: the SHA-256 of its bytes."
);

/// Which version of a model is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest approved version.
    Latest,
    /// What an alias points to now.
    Alias(String),
    /// Exactly this one.
    Version(VersionId),
}

/// `name`, `name@alias` or `name@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRef {
    /// The model.
    pub name: ModelName,
    /// The version.
    pub selector: Selector,
}

impl FromStr for ModelRef {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let (name, selector) = match text.split_once('@') {
            None => (text, Selector::Latest),
            Some((name, digest)) if digest.starts_with("sha256:") => {
                (name, Selector::Version(digest.parse()?))
            }
            Some((name, alias)) => {
                check_name("alias", alias)?;
                (name, Selector::Alias(alias.to_owned()))
            }
        };
        Ok(Self {
            name: name.parse()?,
            selector,
        })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selector {
            Selector::Latest => write!(f, "{}", self.name),
            Selector::Alias(alias) => write!(f, "{}@{alias}", self.name),
            Selector::Version(version) => write!(f, "{}@{version}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_round_trip() {
        let digest = VersionId::of(b"x").to_string();
        for text in ["esol", "esol@stable", &format!("esol@{digest}")] {
            assert_eq!(text.parse::<ModelRef>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_names_are_refused_with_the_input() {
        for text in [
            "",
            "Esol",
            "-x",
            "a b",
            "a/b",
            &"x".repeat(65),
            "esol@",
            "a@sha256:12",
        ] {
            assert!(text.parse::<ModelRef>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,100}") {
            if let Ok(parsed) = text.parse::<ModelRef>() {
                prop_assert_eq!(parsed.to_string(), text);
            }
        }
    }
}
