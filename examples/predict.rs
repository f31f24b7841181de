//! One molecule, from a certificate and a token to a prediction.
//!
//! ```sh
//! cargo run -p chemxor-client --example predict -- PROFILE_FOLDER MODEL SMILES
//! ```
//! `PROFILE_FOLDER` is what `chemxor up` writes, e.g. `~/.local/share/chemxor/local`.

#![allow(clippy::print_stdout, reason = "an example prints its results")]

mod profile;

use std::sync::Arc;

use chemxor_client::catalog;
use chemxor_client::predictor::{Patience, Predictor};
use chemxor_core::RingName;
use chemxor_fhe::client::ClientKey;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [folder, model, smiles] = profile::arguments("PROFILE_FOLDER MODEL SMILES")?;
    let (registry, gateway) = profile::read(&folder)?;
    // the catalogue's answer is checked here: digest, signature, strength of the parameters
    let entry = catalog::get(&registry, &model.parse()?).await?;
    let key = Arc::new(ClientKey::generate(&RingName::ALL)?);
    let predictor = Predictor::new(
        gateway,
        entry.version,
        entry.manifest,
        key,
        Patience::default(),
    );
    let prediction = predictor.predict(&smiles).await?;
    for output in predictor.interpret(&prediction) {
        println!("{output:?}");
    }
    Ok(())
}
