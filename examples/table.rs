//! A table of molecules; run it again after an interruption and it goes on where it was.
//!
//! ```sh
//! cargo run -p chemxor-client --example table -- PROFILE_FOLDER MODEL INPUT.csv
//! ```

#![allow(clippy::print_stdout, reason = "an example prints its results")]

mod profile;

use std::path::Path;

use chemxor_client::batch::{self, BatchOptions, Existing};
use chemxor_client::catalog;
use chemxor_client::keyring::{Keyring, ManagedKey, ROTATE_AFTER};
use chemxor_client::predictor::{Patience, Predictor};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [folder, model, input] = profile::arguments("PROFILE_FOLDER MODEL INPUT.csv")?;
    let (registry, gateway) = profile::read(&folder)?;
    let entry = catalog::get(&registry, &model.parse()?).await?;
    // a key on the disk: counted, and replaced when it has been used enough
    let ring = Keyring::open(&Path::new(&folder).join("example-keys"))?;
    if !ring.path("table")?.exists() {
        ring.create_query_key("table", None, ROTATE_AFTER)?;
    }
    let key = ManagedKey::open(ring, "table", None)?;
    let predictor = Predictor::new(
        gateway,
        entry.version,
        entry.manifest,
        key,
        Patience::default(),
    );
    let options = BatchOptions {
        model: predictor.model(),
        output: Path::new(&input).with_extension("predicted.csv"),
        input: input.into(),
        smiles_column: "smiles".to_owned(),
        in_flight: 8,
        dedupe: true,
        existing: Existing::Resume,
    };
    let stop = CancellationToken::new();
    let report = batch::run(&predictor, &options, &stop, |_| ()).await?;
    println!(
        "{} rows, {} predicted, {} not asked again",
        report.rows, report.predicted, report.repeated
    );
    Ok(())
}
