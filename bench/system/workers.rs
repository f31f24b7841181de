//! Throughput with 1, 2 and 4 workers, each with one core's worth of permits: replicas of the whole
//! model, and shares of its steps. Nothing is asked of the speed; every answer must be right.

use crate::platform::Platform;

pub(crate) fn run(quick: bool) {
    println!("workers,spread,cores,concurrency,queries_per_second,p50_ms,p95_ms,p99_ms");
    let cores = std::thread::available_parallelism().unwrap();
    for (count, spread) in [
        (1, "replicas"),
        (2, "replicas"),
        (4, "replicas"),
        (4, "shares"),
    ] {
        let platform = Platform::start_with(count, "evaluations = 1\n");
        platform.publish_spread("esol", true, spread);
        let holdout = platform.path("holdout.csv").display().to_string();
        let window = if quick { "1" } else { "10" };
        let levels = platform.json(&[
            "load",
            "esol",
            "--input",
            &holdout,
            "--concurrency",
            "16",
            "--sessions",
            "4",
            "--window",
            window,
            "--max-windows",
            "12",
            "--expect-column",
            "twin",
            "--tolerance",
            "0.6",
        ]);
        let level = &levels[0];
        for key in ["failed", "wrong", "warmup_failed", "warmup_wrong"] {
            assert_eq!(level[key], 0, "{count} workers, {spread}: {key} in {level}");
        }
        let number = |key: &str| level[key].as_f64().unwrap();
        assert!(number("queries") > 0.0, "{level}");
        println!(
            "{count},{spread},{cores},16,{:.1},{:.2},{:.2},{:.2}",
            number("queries_per_second"),
            number("p50_ms"),
            number("p95_ms"),
            number("p99_ms")
        );
        eprintln!("{count} workers, {spread}: done");
    }
}
