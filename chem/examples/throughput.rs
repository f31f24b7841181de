//! `throughput FILE [--quick]`: molecules a second, parse and ECFP4 counts, on one thread, as a
//! row of CSV.
//! `throughput --stress [--quick]`: random texts and mutated molecules; fails where one makes the
//! chemistry code panic.
#![allow(clippy::print_stdout, reason = "the CSV goes to standard output")]

use std::path::Path;
use std::time::Instant;

use chemxor_chem::table::{Column, Table};
use chemxor_chem::{ChemError, featurise, named};

/// As in the command `chemxor`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ALPHABET: &[u8] = b"CNOSPFIBclnosp0123456789()=#%[]@+H./\\*:$-";
const SEEDS: [&str; 6] = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "C[C@@H](C(=O)O)N",
    "[Na+].[Cl-]",
    "C/C=C\\C%12CCC%12",
    "O=S(=O)(c1ccc2[nH]ccc2c1)N1CCOCC1",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    match arguments.first().map(String::as_str) {
        Some("--stress") => stress(if quick { 10 } else { 1 }),
        Some(file) => speed(Path::new(file), if quick { 1 } else { 5 }),
        None => Err("usage: throughput FILE [--quick] | --stress [--quick]".into()),
    }
}

fn speed(file: &Path, passes: usize) -> Result<(), Box<dyn std::error::Error>> {
    let counts = named("ecfp4-counts").ok_or("no featuriser")?;
    let molecules: Vec<String> = Table::open(file, &Column::Name("smiles".to_owned()))?
        .filter_map(|row| row.smiles.ok())
        .collect();
    let mut best = f64::INFINITY;
    for _ in 0..passes {
        let started = Instant::now();
        for smiles in &molecules {
            std::hint::black_box(featurise(&counts, smiles)?);
        }
        best = best.min(started.elapsed().as_secs_f64());
    }
    println!(
        "chemxor,{},{},{:.0}",
        file.file_stem().unwrap_or_default().to_string_lossy(),
        molecules.len(),
        molecules.len() as f64 / best
    );
    Ok(())
}

/// Xorshift (Marsaglia 2003): the same texts in every run.
struct Texts(u64);

impl Texts {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }

    fn random(&mut self) -> String {
        let length = self.below(60);
        let letters = (0..length).map(|_| char::from(ALPHABET[self.below(ALPHABET.len())]));
        letters.collect()
    }

    fn mutated(&mut self) -> String {
        let mut text = SEEDS[self.below(SEEDS.len())].as_bytes().to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(text.len());
            text[at] = ALPHABET[self.below(ALPHABET.len())];
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn stress(part: usize) -> Result<(), Box<dyn std::error::Error>> {
    let featuriser = named("ecfp4-counts+descriptors").ok_or("no featuriser")?;
    let mut texts = Texts(0x9e37_79b9_7f4a_7c15);
    println!("texts,number,accepted,refused,panics,slowest_ms");
    let mut panics = 0;
    for (what, number) in [("random", 1_000_000 / part), ("mutated", 100_000 / part)] {
        let (mut accepted, mut refused, mut slowest) = (0, 0, 0.0f64);
        for _ in 0..number {
            let text = match what {
                "random" => texts.random(),
                _ => texts.mutated(),
            };
            let started = Instant::now();
            match featurise(&featuriser, &text) {
                Ok(_) => accepted += 1,
                Err(ChemError::Internal { .. }) => {
                    panics += 1;
                    eprintln!("panic: {text:?}");
                }
                Err(_) => refused += 1,
            }
            slowest = slowest.max(started.elapsed().as_secs_f64());
        }
        println!(
            "{what},{number},{accepted},{refused},{panics},{:.1}",
            slowest * 1e3
        );
    }
    if panics > 0 {
        return Err(format!("{panics} texts made the chemistry code panic").into());
    }
    Ok(())
}
