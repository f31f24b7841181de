//! Services, budgets, scalers, policies: each reaches the pods that it is for, and no others.

use k8s_openapi::api::networking::v1::NetworkPolicyPort;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::metrics::{adapted, counted};
use super::super::{ROLES, port, sample};
use super::{Chart, RELEASE};

#[test]
fn selectors_reach_the_pods_of_their_own_role_only() {
    let chart = Chart::read();
    let own = |name: &str, selector: &LabelSelector| {
        assert_eq!(chart.selected(selector), [name]);
        // another release in the same namespace is not reached
        let labels = selector.match_labels.as_ref().unwrap();
        assert_eq!(labels["app.kubernetes.io/instance"], RELEASE, "{name}");
    };
    for workload in &chart.workloads {
        own(&workload.name, &workload.selector);
    }
    for service in &chart.services {
        let labels = service.spec.as_ref().unwrap().selector.clone();
        let selector = LabelSelector {
            match_labels: labels,
            match_expressions: None,
        };
        own(service.metadata.name.as_ref().unwrap(), &selector);
    }
    for budget in &chart.budgets {
        let spec = budget.spec.as_ref().unwrap();
        own(
            budget.metadata.name.as_ref().unwrap(),
            spec.selector.as_ref().unwrap(),
        );
        // what holds back no eviction, and what holds back every one, are both useless
        assert_eq!(spec.max_unavailable, Some(IntOrString::Int(1)));
    }
    for policy in &chart.policies {
        let spec = policy.spec.as_ref().unwrap();
        own(
            policy.metadata.name.as_ref().unwrap(),
            spec.pod_selector.as_ref().unwrap(),
        );
    }
}

#[test]
fn services_point_at_named_ports_where_the_role_listens() {
    let chart = Chart::read();
    for role in ROLES {
        let name = format!("{RELEASE}-{role}");
        let mut services = chart.services.iter();
        let service = services.find(|s| s.metadata.name.as_ref() == Some(&name));
        let spec = service.unwrap().spec.as_ref().unwrap();
        let config: toml::Value = sample(&format!("{role}.toml"));
        let [offered] = &spec.ports.as_ref().unwrap()[..] else {
            panic!("{name}: one port is offered");
        };
        assert_eq!(offered.port, i32::from(port(&config["listen"])), "{name}");
        let pod = chart.workload(role).pods.spec.as_ref().unwrap();
        let ports = pod.containers[0].ports.as_ref().unwrap();
        let target = ports.iter().find(|port| {
            let name = port.name.clone().unwrap();
            offered.target_port == Some(IntOrString::String(name))
        });
        assert_eq!(target.unwrap().container_port, offered.port, "{name}");
    }
}

/// Whether a rule lists a port.
pub(super) fn opens(ports: Option<&Vec<NetworkPolicyPort>>, wanted: u16) -> bool {
    let wanted = Some(IntOrString::Int(wanted.into()));
    ports.is_some_and(|ports| ports.iter().any(|port| port.port == wanted))
}

#[test]
fn the_network_lets_through_what_the_roles_ask_of_each_other_and_no_more() {
    let chart = Chart::read();
    let policy = |role: &str| {
        let name = format!("{RELEASE}-{role}");
        let mut policies = chart.policies.iter();
        let policy = policies.find(|p| p.metadata.name.as_ref() == Some(&name));
        policy.unwrap().spec.as_ref().unwrap()
    };
    let listens = |role: &str| {
        let config: toml::Value = sample(&format!("{role}.toml"));
        (
            port(&config["listen"]),
            port(&config["operations"]["listen"]),
        )
    };
    for role in ROLES {
        let types = policy(role).policy_types.as_ref().unwrap();
        assert_eq!(
            types[..],
            ["Ingress", "Egress"],
            "both are closed but for what is listed"
        );
    }
    for from in ROLES {
        let out = policy(from).egress.as_ref().unwrap();
        for to in ROLES {
            let (grpc, operations) = listens(to);
            let asks = matches!(
                (from, to),
                ("gateway", "registry" | "worker") | ("worker", "registry")
            );
            let leaves = out.iter().any(|rule| opens(rule.ports.as_ref(), grpc));
            assert_eq!(leaves, asks, "{from} to {to}");
            assert!(
                !out.iter()
                    .any(|rule| opens(rule.ports.as_ref(), operations))
            );
            let enters = policy(to).ingress.as_ref().unwrap().iter().any(|rule| {
                let peers = rule.from.iter().flatten();
                let mut names = peers.flat_map(|peer| {
                    let selector = peer.pod_selector.as_ref().unwrap();
                    let names = chart.selected(selector);
                    assert_eq!(names.len(), 1, "{to} lets in pods that do not exist");
                    names
                });
                let everybody = rule.from.is_none();
                opens(rule.ports.as_ref(), grpc)
                    && (everybody || names.any(|name| name == format!("{RELEASE}-{from}")))
            });
            assert!(enters || !asks, "{to} is closed to {from}");
            assert!(
                to != "worker" || enters == asks,
                "workers hear gateways only"
            );
        }
    }
}

#[test]
fn what_is_scaled_leaves_its_replicas_to_the_scaler_and_counts_what_the_scaler_reads() {
    let chart = Chart::read();
    let (known, adapted) = (counted(), adapted());
    let mut scaled = Vec::new();
    for scaler in &chart.scalers {
        let spec = scaler.spec.as_ref().unwrap();
        let target = &spec.scale_target_ref;
        let mut workloads = chart.workloads.iter();
        let workload = workloads.find(|w| w.name == target.name).unwrap();
        assert_eq!(target.kind, workload.kind);
        assert_eq!(target.api_version.as_deref(), Some("apps/v1"));
        // an upgrade of the chart would set them back under load
        assert_eq!(workload.replicas, None, "{}", target.name);
        let least = spec.min_replicas.unwrap();
        assert!(least >= 2 && least < spec.max_replicas, "{}", target.name);
        let [metric] = &spec.metrics.as_ref().unwrap()[..] else {
            panic!("{} is scaled by one metric", target.name);
        };
        let pods = metric.pods.as_ref().unwrap();
        assert_eq!(known[&pods.metric.name].kind, "gauge");
        assert!(adapted.contains(&pods.metric.name), "the adapter gives it");
        let role = target.name.strip_prefix("chemxor-").unwrap();
        let counter = format!("chemxor_{role}_");
        assert!(pods.metric.name.starts_with(&counter), "pods count it");
        let wanted = pods.target.average_value.as_ref().unwrap();
        assert!(wanted.0.parse::<u32>().unwrap() > 0);
        scaled.push(target.name.as_str());
    }
    for workload in &chart.workloads {
        if !scaled.contains(&workload.name.as_str()) {
            assert!(workload.replicas.unwrap() >= 2, "{}", workload.name);
        }
    }
}
