//! Turns results into CSV. `kernels FOLDER`: criterion's estimates below FOLDER, with the ratio to
//! the reference of the same group. `system FILE`: the JSON of `chemxor evaluate`.

#![allow(clippy::print_stdout, reason = "the CSV goes to standard output")]

mod accuracy;
mod bundle;
mod nets;
mod olinda;
mod privacy;
mod scaling;

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["kernels", folder] => kernels(Path::new(folder)),
        ["accuracy", folder] => accuracy::run(Path::new(folder), false),
        ["accuracy", folder, "--quick"] => accuracy::run(Path::new(folder), true),
        ["privacy", file] => privacy::run(Path::new(file), false),
        ["privacy", file, "--quick"] => privacy::run(Path::new(file), true),
        ["scaling"] => scaling::run(false),
        ["scaling", "--quick"] => scaling::run(true),
        ["olinda"] => olinda::run(false),
        ["olinda", "--quick"] => olinda::run(true),
        ["bundle", net, file] => bundle::run(net, Path::new(file)),
        ["system", file] => system(Path::new(file)),
        _ => bail!(
            "usage: chemxor-bench kernels FOLDER | system FILE | bundle NET FILE | olinda [--quick] | scaling [--quick] | accuracy FOLDER [--quick] | privacy FILE [--quick]"
        ),
    }
}

fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

fn folders(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name() != "report" {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn median_us(path: &Path) -> Result<f64> {
    let estimates = read(&path.join("new/estimates.json"))?;
    let median = estimates["median"]["point_estimate"].as_f64();
    Ok(median.with_context(|| format!("{} has no median", path.display()))? / 1e3)
}

/// One row a function; the function called `reference` of a group is what its others are compared with.
fn kernels(folder: &Path) -> Result<()> {
    println!("kernel,variant,median_us,times_the_reference");
    for group in folders(folder)? {
        let place = folder.join(&group);
        let variants = folders(&place)?;
        let reference = variants.iter().find(|name| name.starts_with("reference"));
        let base = reference
            .map(|name| median_us(&place.join(name)))
            .transpose()?;
        for variant in &variants {
            let median = median_us(&place.join(variant))?;
            let ratio = base
                .map(|base| format!("{:.3}", median / base))
                .unwrap_or_default();
            println!("{group},{variant},{median:.2},{ratio}");
        }
    }
    Ok(())
}

fn system(file: &Path) -> Result<()> {
    let report = read(file)?;
    println!("figure,value");
    for key in [
        "count",
        "rounds",
        "bytes_up",
        "bytes_down",
        "public_key_bytes",
    ] {
        println!("{key},{}", report[key]);
    }
    let summary = report["summary"]
        .as_object()
        .context("the report has no summary")?;
    let mut names: Vec<&String> = summary.keys().collect();
    names.sort();
    for name in names {
        println!("{name},{:.4}", summary[name].as_f64().unwrap_or(f64::NAN));
    }
    Ok(())
}
