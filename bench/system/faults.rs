//! kill -9 at random moments of a batch: worker, gateway, registry, PostgreSQL. Every row of every
//! output is compared with an undisturbed run. What a bad network does is in `tests/e2e/network.rs`.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::platform::{Platform, wait_until};

/// Predictions of two runs differ by a few output steps at most: both are stochastically rounded.
pub(crate) const TOLERANCE: f64 = 0.6;
/// A batch is started again so often before a round counts as lost.
const ATTEMPTS: usize = 5;

#[derive(Debug, Clone, Copy)]
enum Victim {
    Worker(usize),
    Gateway,
    Registry,
    Postgres,
}

pub(crate) fn library(platform: &Platform, rows: usize) -> String {
    let data = include_str!("../../data/esol.csv");
    let lines: Vec<&str> = data.lines().skip(1).collect();
    let mut text = String::from("id,smiles\n");
    for id in 0..rows {
        let smiles = lines[id % lines.len()].split(',').next().unwrap();
        text.push_str(&format!("{id},{smiles}\n"));
    }
    let path = platform.path("library.csv");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

pub(crate) fn lines_of(path: &Path) -> usize {
    std::fs::read(path).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
}

/// The predictions, after a check that each row is in its place.
pub(crate) fn read(path: &Path, rows: usize) -> Vec<f64> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    let (prediction, status) = (column("prediction"), column("status"));
    let values: Vec<f64> = reader
        .records()
        .enumerate()
        .map(|(id, record)| {
            let record = record.unwrap();
            assert_eq!(record[0], id.to_string(), "a row is lost or shifted");
            assert_eq!(&record[status], "ok", "{record:?}");
            record[prediction].parse().unwrap()
        })
        .collect();
    assert_eq!(values.len(), rows);
    values
}

fn strike(platform: &mut Platform, victim: Victim) {
    match victim {
        Victim::Worker(number) => {
            platform.workers[number].take().unwrap().kill();
            platform.start_worker(number);
        }
        Victim::Gateway => {
            platform.gateway.take().unwrap().kill();
            platform.start_gateway();
        }
        Victim::Registry => {
            platform.kill_registry();
            platform.start_registry();
        }
        Victim::Postgres => platform.kill_postgres(),
    }
}

pub(crate) fn run(quick: bool) {
    let (rounds, rows) = if quick { (8, 400) } else { (200, 5000) };
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut platform = Platform::start(4);
    platform.publish_spread("esol", true, "steps");
    let input = library(&platform, rows);
    let output = platform.path("out.csv");
    let partial = platform.path("out.csv.partial");
    let said = platform.path("query.log");
    let arguments: Vec<String> = [
        "query", "esol", "--yes", "--input", &input, "--quiet", "--output",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([output.display().to_string()])
    .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut undisturbed = platform.command(&arguments);
    let ended = undisturbed.stdout(Stdio::null()).status();
    assert!(ended.unwrap().success());
    let expected = read(&output, rows);

    println!("round,victim,at_row,rows,wrong,attempts,seconds");
    for round in 1..=rounds {
        let victim = match round % 4 {
            0 => Victim::Postgres,
            1 => Victim::Worker(rng.random_range(0..4)),
            2 => Victim::Gateway,
            _ => Victim::Registry,
        };
        let moment = rng.random_range(1..rows * 9 / 10);
        std::fs::remove_file(&output).unwrap();
        let begun = Instant::now();
        let mut attempts = 0;
        let mut struck = false;
        loop {
            attempts += 1;
            assert!(
                attempts <= ATTEMPTS,
                "round {round} was lost ({victim:?}, seed {seed})"
            );
            let mut command = platform.command(&arguments);
            if attempts > 1 {
                command.arg("--resume");
            }
            let mut batch = command
                .stderr(std::fs::File::create(&said).unwrap())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            if !struck {
                wait_until("the moment", || {
                    let over = batch.try_wait().unwrap();
                    let why = || std::fs::read_to_string(&said).unwrap();
                    assert!(over.is_none(), "ended before it was struck: {}", why());
                    (lines_of(&partial) > moment).then_some(())
                });
                strike(&mut platform, victim);
                struck = true;
            }
            if batch.wait().unwrap().success() {
                break;
            }
            // services that were just started need a moment; the batch goes on where it was
            std::thread::sleep(Duration::from_millis(500));
        }
        let values = read(&output, rows);
        let differ = |(a, b): &(&f64, &f64)| (*a - *b).abs() > TOLERANCE;
        let wrong = values.iter().zip(&expected).filter(differ).count();
        let seconds = begun.elapsed().as_secs_f64();
        let name = format!("{victim:?}").to_lowercase().replace(['(', ')'], "");
        println!("{round},{name},{moment},{rows},{wrong},{attempts},{seconds:.2}");
        eprintln!("round {round} of {rounds}: {name} at row {moment}, {attempts} attempts");
        assert_eq!(wrong, 0, "wrong values in round {round}, seed {seed}");
    }
}
