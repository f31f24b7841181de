//! A stream of molecules, several in flight, with an event for each round.
//!
//! ```sh
//! cargo run -p chemxor-client --example stream -- PROFILE_FOLDER MODEL SMILES,SMILES,…
//! ```

#![allow(clippy::print_stdout, reason = "an example prints its results")]

mod profile;

use std::sync::Arc;

use chemxor_client::catalog;
use chemxor_client::predictor::{Event, Patience, Predictor};
use chemxor_core::RingName;
use chemxor_fhe::client::ClientKey;
use futures::StreamExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [folder, model, molecules] = profile::arguments("PROFILE_FOLDER MODEL SMILES,SMILES,…")?;
    let (registry, gateway) = profile::read(&folder)?;
    let entry = catalog::get(&registry, &model.parse()?).await?;
    let key = Arc::new(ClientKey::generate(&RingName::ALL)?);
    let predictor = Predictor::new(
        gateway,
        entry.version,
        entry.manifest,
        key,
        Patience::default(),
    );
    let predictor = Arc::new(predictor);
    let molecules: Vec<String> = molecules.split(',').map(str::to_owned).collect();
    let mut events = predictor.stream(futures::stream::iter(molecules.clone()), 4);
    while let Some(event) = events.next().await {
        match event {
            Event::Round { index, done, of } => println!("molecule {index}: round {done} of {of}"),
            Event::Done {
                index,
                outcome: Ok(prediction),
            } => {
                println!(
                    "{}: {:?}",
                    molecules[index as usize],
                    predictor.interpret(&prediction)
                );
            }
            Event::Done {
                index,
                outcome: Err(error),
            } => {
                println!("{}: {error}", molecules[index as usize]);
            }
        }
    }
    Ok(())
}
