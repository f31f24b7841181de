//! What the gateway costs: throughput beside the same queries sent to the worker directly, memory
//! while 1 GiB passes through one session, memory of 500 idle sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chemxor_client::catalog;
use chemxor_client::session::Session;
use chemxor_fhe::client::ClientKey;
use futures::StreamExt;
use futures::stream;

use crate::direct::Direct;
use crate::platform::Platform;
use crate::proc::{cpu_seconds, memory_mib};

/// Queries at the same time.
const IN_FLIGHT: usize = 8;

pub(crate) fn run(quick: bool) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("figure,value,unit");
    runtime.block_on(measure(quick));
}

async fn measure(quick: bool) {
    let platform = tokio::task::spawn_blocking(|| {
        let mut platform = Platform::start(1);
        platform.allow_sessions(1000);
        platform.publish_spread("esol", true, "replicas");
        platform
    })
    .await
    .unwrap();
    let gateway = platform.gateway.as_ref().unwrap().pid();
    let registry = platform.access(&platform.registry.as_ref().unwrap().address);
    let entry = catalog::get(&registry, &"esol".parse().unwrap())
        .await
        .unwrap();
    let access = platform.access(&platform.gateway.as_ref().unwrap().address);
    let key = Arc::new(ClientKey::generate(&entry.manifest.graph.rings()).unwrap());
    let open = || Session::open(&access, entry.version, entry.manifest.clone(), key.clone());
    let data = include_str!("../../data/esol.csv");
    let features: Vec<Vec<u16>> = data
        .lines()
        .skip(1)
        .filter_map(|line| {
            chemxor_chem::featurise(&entry.manifest.featuriser, line.split(',').next()?).ok()
        })
        .collect();
    let queries = if quick { 1000 } else { 10_000 };
    let session = open().await.unwrap();
    let worker = &platform.workers[0].as_ref().unwrap().address;
    let tls = platform.gateway_tls();
    let direct = Direct::open(
        worker,
        &tls,
        entry.version,
        entry.manifest.clone(),
        key.clone(),
    )
    .await;

    // in turns, so that both meet the same machine
    let mut rates = [0.0, 0.0];
    let parts = 10;
    for _ in 0..parts {
        for (index, rate) in rates.iter_mut().enumerate() {
            let begun = Instant::now();
            let (session, direct, features) = (&session, &direct, &features);
            let mut answers = stream::iter(0..queries / parts)
                .map(|number| async move {
                    let molecule = features[number % features.len()].clone();
                    match index {
                        0 => drop(session.predict(molecule).await.unwrap()),
                        _ => drop(direct.predict(&molecule).await),
                    }
                })
                .buffer_unordered(IN_FLIGHT);
            while answers.next().await.is_some() {}
            *rate += (queries / parts) as f64 / begun.elapsed().as_secs_f64() / parts as f64;
        }
    }
    println!("through_gateway,{:.1},queries/s", rates[0]);
    println!("direct_to_worker,{:.1},queries/s", rates[1]);
    println!("share_of_direct,{:.3},ratio", rates[0] / rates[1]);

    let goal: u64 = if quick { 64 << 20 } else { 1 << 30 };
    let (mut bytes, cpu, begun) = (0, cpu_seconds(gateway), Instant::now());
    let session = open().await.unwrap();
    while bytes < goal {
        let (session, features) = (&session, &features);
        let mut answers = stream::iter(0..500)
            .map(|number| async move {
                let molecule = features[number % features.len()].clone();
                session.predict(molecule).await.unwrap()
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some(prediction) = answers.next().await {
            bytes += prediction.bytes_up + prediction.bytes_down;
        }
    }
    println!("one_session_bytes,{bytes},bytes");
    println!("one_session_seconds,{:.1},s", begun.elapsed().as_secs_f64());
    println!(
        "one_session_gateway_cpu,{:.2},s",
        cpu_seconds(gateway) - cpu
    );
    println!(
        "one_session_gateway_peak_memory,{:.1},MiB",
        memory_mib(gateway).1
    );

    let count = if quick { 50 } else { 500 };
    let before = memory_mib(gateway).0;
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(open().await.unwrap());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("idle_sessions,{count},sessions");
    println!(
        "idle_sessions_gateway_memory,{:.1},MiB",
        memory_mib(gateway).0
    );
    println!(
        "idle_sessions_added_memory,{:.1},MiB",
        memory_mib(gateway).0 - before
    );
    drop(idle);
    tokio::task::spawn_blocking(move || drop(platform))
        .await
        .unwrap();
}
