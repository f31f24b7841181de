//! `features`: molecules to the integers and values that models are trained on.

use std::fs::File;
use std::io::BufWriter;

use anyhow::{Context, Result, bail};
use chemxor_chem::table::{Column, FeatureKind, Table, write_features};
use chemxor_chem::{FEATURISER_NAMES, named};
use chemxor_client::batch::partial_path;
use chemxor_core::Featuriser;
use serde_json::json;

use crate::args::{FeaturesArgs, Format};
use crate::output::{self, Bar};

/// What is written for the featuriser called `name`: counts unclipped and descriptors unscaled, as
/// RDKit gives them.
fn kind(name: &str) -> Result<FeatureKind> {
    let Some(featuriser) = named(name) else {
        bail!(
            "no featuriser is called {name:?}; there are {}",
            FEATURISER_NAMES.join(", ")
        );
    };
    Ok(match featuriser {
        bits @ (Featuriser::EcfpBits { .. } | Featuriser::FcfpBits { .. }) => {
            FeatureKind::Bits(bits)
        }
        Featuriser::EcfpCounts {
            version,
            radius,
            size,
            ..
        } => FeatureKind::Counts(Featuriser::EcfpCounts {
            version,
            radius,
            size,
            max_count: u16::MAX,
        }),
        Featuriser::FcfpCounts {
            version,
            radius,
            size,
            ..
        } => FeatureKind::Counts(Featuriser::FcfpCounts {
            version,
            radius,
            size,
            max_count: u16::MAX,
        }),
        Featuriser::EcfpDescriptors {
            version,
            radius,
            size,
            ..
        } => FeatureKind::CountsAndDescriptors(Featuriser::EcfpCounts {
            version,
            radius,
            size,
            max_count: u16::MAX,
        }),
        Featuriser::Image32 { version, .. } => FeatureKind::Counts(Featuriser::Image32 {
            version,
            max_count: u16::MAX,
        }),
        Featuriser::Descriptors { .. } => FeatureKind::Descriptors,
    })
}

pub(crate) fn run(format: Format, args: &FeaturesArgs) -> Result<()> {
    let kind = kind(&args.featuriser)?;
    let started = std::time::Instant::now();
    let mut table = Table::open(&args.input, &Column::parse(&args.smiles_column))?;
    // the output appears under its name only when it is complete
    let partial = partial_path(&args.output);
    let cannot = || format!("cannot write {}", partial.display());
    let file = File::create(&partial).with_context(cannot)?;
    let mut bar = Bar::new("features", None, args.quiet || format == Format::Json);
    let what = args.standard.standardisation();
    let report = write_features(&mut table, &kind, what, BufWriter::new(file), |rows| {
        bar.set(rows, String::new());
    })?;
    bar.finish();
    std::fs::rename(&partial, &args.output)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    let seconds = started.elapsed().as_secs_f64();
    let value = json!({
        "output": args.output, "featuriser": args.featuriser, "rows": report.rows,
        "bad_molecules": report.bad, "seconds": seconds,
    });
    output::print(format, &value, || {
        say!(
            "{} rows written to {}, {} without features; {seconds:.1} s",
            report.rows,
            args.output.display(),
            report.bad
        );
    })
}
