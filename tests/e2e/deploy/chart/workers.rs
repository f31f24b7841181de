//! The workers: each ordinal has a name, a certificate, a sealing key and an address of its own, so
//! that publishers can authorise it before the autoscaler wakes it.

use std::process::Command;

use chemxor_worker::WorkerConfig;

use super::super::text;
use super::{Chart, RELEASE, values};

/// The configuration that the init container of a pod writes, by running its very command.
pub(super) fn written(toml: &str, pod: &str) -> String {
    let chart = Chart::read();
    let spec = chart.workload("worker").pods.spec.as_ref().unwrap();
    let [init] = &spec.init_containers.as_ref().unwrap()[..] else {
        panic!("one init container writes the name");
    };
    let [variable] = &init.env.as_ref().unwrap()[..] else {
        panic!("one variable holds the name");
    };
    let source = variable.value_from.as_ref().unwrap().field_ref.as_ref();
    assert_eq!(source.unwrap().field_path, "metadata.name");
    let folder = tempfile::tempdir().unwrap();
    let [template, config] = ["template", "config"].map(|name| folder.path().join(name));
    std::fs::create_dir(&template).unwrap();
    std::fs::create_dir(&config).unwrap();
    std::fs::write(template.join("worker.toml"), toml).unwrap();
    let mut words = init.command.clone().unwrap();
    for mount in init.volume_mounts.as_ref().unwrap() {
        let here = folder.path().join(&mount.name);
        let at = format!("{}/", mount.mount_path);
        let last = words.last_mut().unwrap();
        assert!(last.contains(&at), "{at} is not used");
        *last = last.replace(&at, &format!("{}/", here.display()));
    }
    let mut command = Command::new(&words[0]);
    let command = command.args(&words[1..]).env(&variable.name, pod);
    assert!(command.status().unwrap().success());
    std::fs::read_to_string(config.join("worker.toml")).unwrap()
}

#[test]
fn every_ordinal_has_its_own_name_certificate_key_and_address() {
    let chart = Chart::read();
    let workload = chart.workload("worker");
    assert_eq!(workload.kind, "StatefulSet");
    // the key of an ordinal is there when it comes back
    assert_eq!(
        workload.kept,
        [Some("Retain".to_owned()), Some("Retain".to_owned())]
    );
    let service = workload.service.as_ref().unwrap();
    let headless = chart
        .services
        .iter()
        .find(|s| s.metadata.name.as_ref() == Some(service));
    let headless = headless.unwrap().spec.as_ref().unwrap();
    assert_eq!(headless.cluster_ip.as_deref(), Some("None"));
    assert_eq!(headless.publish_not_ready_addresses, Some(true));
    let spec = workload.pods.spec.as_ref().unwrap();
    let mounts = spec.containers[0].volume_mounts.as_ref().unwrap();
    let mount = |path: &std::path::Path| {
        let found = mounts
            .iter()
            .find(|mount| path.starts_with(&mount.mount_path));
        found.unwrap().name.clone()
    };
    let secret = text("helm/chemxor/values.yaml");
    let template = text("helm/worker.toml");
    let most = values()["worker"]["maxReplicas"].as_u64().unwrap();
    assert!(most > 1);
    for ordinal in 0..most {
        let pod = format!("{}-{ordinal}", workload.name);
        let config: WorkerConfig = toml::from_str(&written(&template, &pod)).unwrap();
        assert_eq!(config.name.as_str(), pod);
        let host = config.advertise.unwrap();
        assert_eq!(host, format!("{pod}.{service}:{}", config.listen.port()));
        assert_eq!(config.registry, format!("{RELEASE}-registry:7401"));
        for (path, ending) in [(&config.tls.cert, "pem"), (&config.tls.key, "key")] {
            assert_eq!(mount(path), "tls");
            assert_eq!(
                path.file_name().unwrap(),
                format!("{pod}.{ending}").as_str()
            );
            let explained = format!("RELEASE-worker-0.{ending}");
            assert!(secret.contains(&explained), "{explained}");
        }
        // the key that publishers seal to stays with the ordinal
        let [claim] = &workload.claims[..] else {
            panic!("one claim for each ordinal");
        };
        assert_eq!(Some(mount(&config.sealing_key)), claim.metadata.name);
    }
}

#[test]
fn without_the_pods_name_the_configuration_is_that_of_nobody() {
    let template = text("helm/worker.toml");
    let one = written(&template, "a-worker-0");
    assert_ne!(one, written(&template, "a-worker-1"));
    assert!(!one.contains("WORKER_NAME"));
    assert!(template.contains("WORKER_NAME"));
}
