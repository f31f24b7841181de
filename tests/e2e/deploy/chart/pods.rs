//! The pods: hardened, probed where the services answer, alive until nobody is sent to them, with
//! files that values.yaml explains.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::{ROLES, image, port, sample, samples, text};
use super::{Chart, Workload, values};

fn spec(workload: &Workload) -> &PodSpec {
    workload.pods.spec.as_ref().unwrap()
}

fn containers(pod: &PodSpec) -> impl Iterator<Item = &Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers)
}

#[test]
fn pods_run_as_nobody_with_nothing_to_write_to_and_bounded_memory() {
    let chart = Chart::read();
    for workload in &chart.workloads {
        let (name, pod) = (&workload.name, spec(workload));
        assert_eq!(pod.automount_service_account_token, Some(false), "{name}");
        let security = pod.security_context.as_ref().unwrap();
        assert_eq!(security.run_as_non_root, Some(true), "{name}");
        let user = |id: Option<i64>| id.unwrap().to_string();
        let (uid, gid) = (user(security.run_as_user), user(security.run_as_group));
        assert_eq!(format!("{uid}:{gid}"), image::last("USER"), "{name}");
        assert_eq!(
            security.fs_group, security.run_as_group,
            "files can be read"
        );
        let profile = security.seccomp_profile.as_ref().unwrap();
        assert_eq!(profile.type_, "RuntimeDefault", "{name}");
        assert!(pod.host_network.is_none() && pod.host_pid.is_none() && pod.host_ipc.is_none());
        for container in containers(pod) {
            let security = container.security_context.as_ref().unwrap();
            assert_eq!(security.read_only_root_filesystem, Some(true), "{name}");
            assert_eq!(security.allow_privilege_escalation, Some(false), "{name}");
            let capabilities = security.capabilities.as_ref().unwrap();
            assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
            assert!(capabilities.add.is_none() && security.privileged.is_none());
            let resources = container.resources.as_ref().unwrap();
            let requests = resources.requests.as_ref().unwrap();
            let limits = resources.limits.as_ref().unwrap();
            // memory that is promised is there; processors are shared
            assert_eq!(limits["memory"], requests["memory"], "{name}");
            assert!(requests.contains_key("cpu"), "{name}");
            let image = container.image.as_deref();
            assert_eq!(image, values()["image"].as_str(), "{name}");
        }
    }
}

#[test]
fn a_gateway_has_twice_the_memory_of_its_messages() {
    let chart = Chart::read();
    let pod = spec(chart.workload("gateway"));
    let limits = pod.containers[0].resources.as_ref().unwrap();
    let limit = &limits.limits.as_ref().unwrap()["memory"].0;
    let mebibytes: u64 = match limit.strip_suffix("Gi") {
        Some(gibibytes) => gibibytes.parse::<u64>().unwrap() * 1024,
        None => limit.strip_suffix("Mi").unwrap().parse().unwrap(),
    };
    let wanted = samples::gateway_mebibytes();
    assert!(mebibytes >= wanted, "{limit} for {wanted} MiB");
}

#[test]
fn probes_ask_what_the_services_answer() {
    let answers = include_str!("../../../../services/runtime/src/operations.rs");
    let chart = Chart::read();
    for role in ROLES {
        let pod = spec(chart.workload(role));
        let [container] = &pod.containers[..] else {
            panic!("{role} has one container");
        };
        assert_eq!(container.args.as_ref().unwrap()[0], role);
        let config: toml::Value = sample(&format!("{role}.toml"));
        let listens = [&config["listen"], &config["operations"]["listen"]].map(port);
        let ports: Vec<(&str, i32)> = container
            .ports
            .iter()
            .flatten()
            .map(|port| (port.name.as_deref().unwrap(), port.container_port))
            .collect();
        let [grpc, operations] = listens.map(i32::from);
        assert_eq!(
            ports,
            [("grpc", grpc), ("operations", operations)],
            "{role}"
        );
        let asks = |probe: &Option<Probe>, path: &str| {
            let probe = probe.as_ref().unwrap();
            let http = probe.http_get.as_ref().unwrap();
            assert_eq!(http.path.as_deref(), Some(path), "{role}");
            assert_eq!(http.port, IntOrString::String("operations".to_owned()));
            assert!(answers.contains(&format!(".route(\"{path}\"")), "{path}");
        };
        asks(&container.liveness_probe, "/livez");
        asks(&container.readiness_probe, "/readyz");
        let notes = chart.workload(role).pods.metadata.as_ref().unwrap();
        let notes = notes.annotations.as_ref().unwrap();
        assert_eq!(notes["prometheus.io/port"], operations.to_string());
    }
}

#[test]
fn a_pod_serves_until_nobody_is_sent_to_it_and_has_time_to_drain() {
    let chart = Chart::read();
    for role in ROLES {
        let pod = spec(chart.workload(role));
        let lifecycle = pod.containers[0].lifecycle.as_ref().unwrap();
        let linger = lifecycle.pre_stop.as_ref().unwrap().sleep.as_ref();
        let linger = linger.unwrap().seconds;
        // two probes: endpoints are taken away at once, and what watches them follows
        let period = pod.containers[0].readiness_probe.as_ref().unwrap();
        let period = period.period_seconds.unwrap();
        assert!(linger >= 2 * i64::from(period), "{role}");
        let config: toml::Value = sample(&format!("{role}.toml"));
        let drain = config["operations"]["drain_ms"].as_integer().unwrap();
        let grace = pod.termination_grace_period_seconds.unwrap();
        assert!(
            (grace - linger) * 1000 > drain,
            "{role} is killed while it drains"
        );
    }
}

/// Names of secrets with the keys that pods take from them; none: all.
fn secrets(pod: &PodSpec) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let keys = |items: &Option<Vec<k8s_openapi::api::core::v1::KeyToPath>>| {
        items
            .iter()
            .flatten()
            .map(|item| item.key.clone())
            .collect()
    };
    for volume in pod.volumes.iter().flatten() {
        assert!(volume.config_map.is_none() && volume.host_path.is_none());
        if let Some(secret) = &volume.secret {
            found.push((secret.secret_name.clone().unwrap(), keys(&secret.items)));
        }
        let projected = volume.projected.iter();
        for source in projected.flat_map(|projected| projected.sources.iter().flatten()) {
            let secret = source.secret.as_ref().unwrap();
            found.push((secret.name.clone(), keys(&secret.items)));
        }
    }
    found
}

#[test]
fn secrets_are_explained_with_their_keys_and_lie_where_the_configuration_looks() {
    let chart = Chart::read();
    let explained = text("helm/chemxor/values.yaml");
    let lines: Vec<&str> = explained.lines().map(str::trim).collect();
    let mut used = BTreeSet::new();
    for role in ROLES {
        let pod = spec(chart.workload(role));
        let main = &pod.containers[0];
        let command = main.args.as_ref().unwrap();
        assert_eq!(
            command[1..3],
            ["--config".to_owned(), format!("/config/{role}.toml")]
        );
        for (secret, keys) in secrets(pod) {
            let at = lines
                .iter()
                .position(|line| line.ends_with(&format!("Secret: {secret}")));
            let at = at.unwrap_or_else(|| panic!("{secret} is not explained"));
            let comment = lines[..at]
                .iter()
                .rev()
                .take_while(|line| line.starts_with('#'));
            let comment: String = comment.copied().collect();
            for key in keys {
                assert!(comment.contains(&key), "{secret}: {key} is not explained");
            }
            assert!(comment.contains("key"), "{secret}: no word of its keys");
            used.insert(secret);
        }
        let mounted: Vec<(&str, &str)> = main
            .volume_mounts
            .iter()
            .flatten()
            .map(|mount| (mount.name.as_str(), mount.mount_path.as_str()))
            .collect();
        let config: toml::Value = sample(&format!("{role}.toml"));
        for key in ["ca", "cert", "key"] {
            let path = config["tls"][key].as_str().unwrap();
            let folder = path.rsplit_once('/').unwrap().0;
            let at = mounted.iter().find(|(_, at)| *at == folder);
            assert_eq!(at.unwrap().0, "tls", "{role}: {path}");
        }
        let volumes: BTreeSet<&str> = pod
            .volumes
            .iter()
            .flatten()
            .map(|v| v.name.as_str())
            .collect();
        let claims = chart.workload(role).claims.iter();
        let claims: BTreeSet<&str> = claims
            .map(|c| c.metadata.name.as_deref().unwrap())
            .collect();
        for container in containers(pod) {
            for mount in container.volume_mounts.iter().flatten() {
                let name = mount.name.as_str();
                assert!(
                    volumes.contains(name) || claims.contains(name),
                    "{role}: {name}"
                );
            }
        }
        // the group may read keys, others may not; 0440 in YAML 1.1 is no octal in YAML 1.2
        let tls = pod
            .volumes
            .iter()
            .flatten()
            .find(|volume| volume.name == "tls")
            .unwrap();
        let secret = tls.secret.as_ref().and_then(|secret| secret.default_mode);
        let projected = tls.projected.as_ref().and_then(|p| p.default_mode);
        assert_eq!(secret.or(projected), Some(0o440), "{role}");
    }
    let named = lines
        .iter()
        .filter(|line| line.contains("Secret: "))
        .count();
    assert_eq!(
        used.len(),
        named,
        "values.yaml names secrets that nobody mounts"
    );
}

#[test]
fn the_registry_finds_the_authority_of_its_database() {
    let config: toml::Value = sample("registry.toml");
    let url = config["database_url"].as_str().unwrap();
    let Some((_, path)) = url.split_once("sslrootcert=") else {
        panic!("the sample shows no verified database");
    };
    let chart = Chart::read();
    let pod = spec(chart.workload("registry"));
    let mounts = pod.containers[0].volume_mounts.as_ref().unwrap();
    let volumes = pod.volumes.as_ref().unwrap();
    let files = volumes.iter().flat_map(|volume| {
        let mount = mounts.iter().find(|mount| mount.name == volume.name);
        let at = &mount.unwrap().mount_path;
        let projected = volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten());
        let secrets = projected.filter_map(|source| source.secret.as_ref());
        let items = secrets.flat_map(|secret| secret.items.iter().flatten());
        items.map(move |item| format!("{at}/{}", item.path))
    });
    let files: Vec<String> = files.collect();
    assert!(files.iter().any(|file| file == path), "{path}: {files:?}");
}
