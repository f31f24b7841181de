//! `verify`: a version's signatures, with the registry or without it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use chemxor_core::{Manifest, VersionId, verify_approval, verify_manifest};
use chemxor_proto::v1;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::{Format, VerifyArgs};
use crate::commands::govern::registry;
use crate::commands::publish::read_bundle;
use crate::home::Home;
use crate::output;

/// Longest file that `verify --output` writes: a manifest of 1 MiB and its signatures, as JSON.
const MAX_PROOF: u64 = 8 << 20;

/// Whose signatures a version carries.
#[derive(Debug, Serialize)]
pub(crate) struct Signed {
    /// Hexadecimal.
    pub(crate) publisher_key: String,
    /// Hexadecimal; once approved.
    pub(crate) registry_key: Option<String>,
}

/// A version to be verified without the registry; what `verify --output` writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    /// Now 1.
    format: u32,
    name: String,
    version: String,
    /// Exactly the signed bytes, which are JSON.
    manifest: String,
    signature: String,
    publisher_key: String,
    registry_key: String,
    counter_signature: String,
}

/// A public key: 64 hexadecimal digits, or the file with them.
pub(crate) fn public_key(text: &str) -> Result<[u8; 32]> {
    let decode = |text: &str| {
        let bytes = HEXLOWER.decode(text.trim().as_bytes()).ok()?;
        <[u8; 32]>::try_from(bytes).ok()
    };
    if let Some(key) = decode(text) {
        return Ok(key);
    }
    let content = std::fs::read_to_string(text).with_context(|| {
        format!("{text:?} is neither a key of 64 hexadecimal digits nor a file with one")
    })?;
    decode(&content).with_context(|| format!("{text} does not hold 64 hexadecimal digits"))
}

/// Checks digest and signatures of a version; a key that is given must be the one that signed.
pub(crate) fn verified(
    model: &v1::ModelVersion,
    publisher: Option<&[u8; 32]>,
    registry: Option<&[u8; 32]>,
) -> Result<(Manifest, Signed)> {
    let (manifest, version) = Manifest::from_bytes(&model.manifest)?;
    if version.to_string() != model.version {
        bail!("the manifest is of {version}, not of {}", model.version);
    }
    if manifest.name.as_str() != model.name {
        bail!(
            "the manifest is of the model {}, not of {}",
            manifest.name,
            model.name
        );
    }
    let publisher_key = publisher.map_or(&model.publisher_key[..], |key| &key[..]);
    verify_manifest(publisher_key, &model.manifest, &model.signature)
        .context("the publisher's signature")?;
    let registry_key = match (registry, model.counter_signature.is_empty()) {
        (None, true) => None,
        (Some(_), true) => bail!("the registry has not approved {version}: no counter-signature"),
        (given, false) => {
            let key = given.map_or(&model.registry_key[..], |key| &key[..]);
            verify_approval(
                key,
                &version,
                publisher_key,
                &model.signature,
                &model.counter_signature,
            )
            .context("the registry's counter-signature")?;
            Some(HEXLOWER.encode(key))
        }
    };
    let publisher_key = HEXLOWER.encode(publisher_key);
    Ok((
        manifest,
        Signed {
            publisher_key,
            registry_key,
        },
    ))
}

fn read_proof(path: &Path) -> Result<v1::ModelVersion> {
    let place = || path.display().to_string();
    if std::fs::metadata(path).with_context(place)?.len() > MAX_PROOF {
        bail!(
            "{} is longer than what `chemxor verify --output` writes",
            place()
        );
    }
    let text = std::fs::read_to_string(path).with_context(place)?;
    let proof: Proof = serde_json::from_str(&text)
        .with_context(|| format!("{} is not what `chemxor verify --output` writes", place()))?;
    if proof.format != 1 {
        bail!(
            "{} has format {}, this release reads 1",
            place(),
            proof.format
        );
    }
    let bytes = |name: &str, text: &str| {
        HEXLOWER
            .decode(text.as_bytes())
            .with_context(|| format!("{}: {name} is not hexadecimal", place()))
    };
    Ok(v1::ModelVersion {
        signature: bytes("signature", &proof.signature)?.into(),
        publisher_key: bytes("publisher_key", &proof.publisher_key)?.into(),
        registry_key: bytes("registry_key", &proof.registry_key)?.into(),
        counter_signature: bytes("counter_signature", &proof.counter_signature)?.into(),
        manifest: proof.manifest.into_bytes().into(),
        name: proof.name,
        version: proof.version,
        ..Default::default()
    })
}

fn write_proof(path: &Path, model: &v1::ModelVersion) -> Result<()> {
    let proof = Proof {
        format: 1,
        name: model.name.clone(),
        version: model.version.clone(),
        manifest: String::from_utf8(model.manifest.to_vec()).context("the manifest")?,
        signature: HEXLOWER.encode(&model.signature),
        publisher_key: HEXLOWER.encode(&model.publisher_key),
        registry_key: HEXLOWER.encode(&model.registry_key),
        counter_signature: HEXLOWER.encode(&model.counter_signature),
    };
    if path.exists() {
        bail!("{} exists; choose another file", path.display());
    }
    let text = serde_json::to_string_pretty(&proof)?;
    Ok(chemxor_client::files::replace(path, text.as_bytes())?)
}

pub(crate) async fn run(home: &Home, format: Format, args: &VerifyArgs) -> Result<()> {
    let key = |text: &Option<String>| text.as_deref().map(public_key).transpose();
    let (registry_key, publisher_key) = (key(&args.registry_key)?, key(&args.publisher_key)?);
    let file = Path::new(&args.model);
    let model = if file.is_file() {
        if registry_key.is_none() {
            bail!(
                "a file proves nothing by itself: pass --registry-key with the registry's public key, which its operator publishes (registry-signing.pub)"
            );
        }
        read_proof(file)?
    } else {
        let roles = ["querier", "publisher", "reviewer", "org-admin", "admin"];
        let model = args.model.clone();
        let registry = registry(home, &roles).await?;
        registry.get_model(v1::GetModelRequest { model }).await?
    };
    let (manifest, signed) = verified(&model, publisher_key.as_ref(), registry_key.as_ref())
        .with_context(|| format!("{} is refused", args.model))?;
    if let Some(path) = &args.bundle {
        let bundle: VersionId = read_bundle(path)?.version();
        if bundle.to_string() != model.version {
            bail!("{} is {bundle}, not {}", path.display(), model.version);
        }
    }
    if let Some(path) = &args.output {
        write_proof(path, &model)?;
    }
    let pinned =
        json!({ "publisher": publisher_key.is_some(), "registry": registry_key.is_some() });
    let value = json!({
        "verified": true, "name": manifest.name, "version": model.version, "signatures": signed,
        "pinned": pinned, "bundle": args.bundle, "output": args.output,
    });
    output::print(format, &value, || {
        say!("{}@{}", manifest.name, model.version);
        let given = |pinned: bool| {
            if pinned {
                "the key given"
            } else {
                "its own word"
            }
        };
        say!(
            "publisher's signature verifies: {} ({})",
            signed.publisher_key,
            given(publisher_key.is_some())
        );
        match &signed.registry_key {
            Some(key) => say!(
                "registry's approval verifies:   {key} ({})",
                given(registry_key.is_some())
            ),
            None => say!("the registry has not approved it"),
        }
        if let Some(path) = &args.bundle {
            say!("{} is this version", path.display());
        }
        if let Some(path) = &args.output {
            say!(
                "verify it later with `chemxor verify {} --registry-key KEY`",
                path.display()
            );
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_digits_or_a_file_with_them() {
        let hex = "ab".repeat(32);
        assert_eq!(public_key(&hex).unwrap(), [0xab; 32]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.pub");
        std::fs::write(&path, format!("{hex}\n")).unwrap();
        assert_eq!(public_key(path.to_str().unwrap()).unwrap(), [0xab; 32]);
        std::fs::write(&path, "abc").unwrap();
        let short = public_key(path.to_str().unwrap()).unwrap_err();
        assert!(short.to_string().contains("64 hexadecimal"), "{short}");
        assert!(public_key("no such file").is_err());
    }
}
