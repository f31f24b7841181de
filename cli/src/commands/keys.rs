//! `keys new`.

use anyhow::Result;
use chemxor_client::keyring;
use serde_json::json;

use crate::args::{Format, KeysNewArgs};
use crate::home::Home;
use crate::output;

/// The passphrase of lab keys, from the environment.
pub(crate) fn passphrase() -> Option<zeroize::Zeroizing<String>> {
    std::env::var("CHEMXOR_PASSPHRASE")
        .ok()
        .filter(|text| !text.is_empty())
        .map(Into::into)
}

pub(crate) fn new(home: &Home, format: Format, args: &KeysNewArgs) -> Result<()> {
    let default = if args.publisher {
        "publisher"
    } else {
        "default"
    };
    let path = home.key(args.name.as_deref().unwrap_or(default))?;
    let (kind, protected) = if args.publisher {
        keyring::create_signing_key(&path)?;
        ("signing", false)
    } else {
        let passphrase = passphrase();
        keyring::create_client_key(&path, passphrase.as_ref().map(|text| text.as_str()))?;
        ("query", passphrase.is_some())
    };
    let value = json!({ "path": path, "kind": kind, "passphrase": protected });
    output::print(format, &value, || {
        println!("made a {kind} key: {}", path.display());
        if kind == "query" && !protected {
            println!(
                "it is protected by file permissions only; set CHEMXOR_PASSPHRASE to encrypt the next one"
            );
        }
    })
}
