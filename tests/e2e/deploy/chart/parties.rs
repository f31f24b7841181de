//! Another party of the platform: a release of workers alone, in a namespace of its own. Its workers
//! hear the platform's gateways and nobody else; each reaches whom it asks.

use std::collections::{BTreeMap, BTreeSet};

use chemxor_worker::WorkerConfig;
use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_yaml_ng::Value;

use super::super::{documents, port, sample, text};
use super::objects::opens;
use super::workers::written;
use super::{Chart, RELEASE, values};

/// The party's release. Each release has the namespace of its name here.
pub(super) const PARTY: &str = "pharma-a";

/// Lays values over others as Helm does: maps are merged, everything else is replaced.
fn lay(over: &Value, under: &mut Value) {
    match (under, over) {
        (Value::Mapping(under), Value::Mapping(over)) => {
            for (key, value) in over {
                let known = under.get_mut(key);
                lay(
                    value,
                    known.unwrap_or_else(|| panic!("values.yaml has no {key:?}")),
                );
            }
        }
        (under, over) => *under = over.clone(),
    }
}

pub(super) fn values_of_the_party() -> Value {
    let name = "helm/workers-only.yaml";
    let mut all = values();
    lay(&documents(name, &text(name))[0], &mut all);
    all
}

fn party() -> Chart {
    Chart::of(PARTY, &values_of_the_party())
}

/// A pod, as network policies see it.
struct Pod {
    namespace: String,
    labels: BTreeMap<String, String>,
}

impl Pod {
    fn of(chart: &Chart, role: &str) -> Self {
        let metadata = chart.workload(role).pods.metadata.as_ref().unwrap();
        Self {
            namespace: chart.release.clone(),
            labels: metadata.labels.clone().unwrap(),
        }
    }

    fn in_namespace(self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..self
        }
    }

    fn of_release(mut self, release: &str) -> Self {
        let instance = "app.kubernetes.io/instance".to_owned();
        assert!(self.labels.insert(instance, release.to_owned()).is_some());
        self
    }
}

fn policy<'c>(chart: &'c Chart, role: &str) -> &'c NetworkPolicySpec {
    let name = format!("{}-{role}", chart.release);
    let mut policies = chart.policies.iter();
    let policy = policies.find(|policy| policy.metadata.name.as_ref() == Some(&name));
    policy.unwrap().spec.as_ref().unwrap()
}

fn fits(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    assert!(selector.match_expressions.is_none());
    let mut wanted = selector.match_labels.iter().flatten();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether the peers of a rule in a namespace take in a pod. No peers are everybody, and so is an
/// empty list.
fn takes(peers: Option<&Vec<NetworkPolicyPeer>>, own: &str, pod: &Pod) -> bool {
    let Some(peers) = peers.filter(|peers| !peers.is_empty()) else {
        return true;
    };
    let name = "kubernetes.io/metadata.name".to_owned();
    let namespace = BTreeMap::from([(name, pod.namespace.clone())]);
    peers.iter().any(|peer| {
        assert!(peer.ip_block.is_none());
        let near = match &peer.namespace_selector {
            Some(selector) => fits(selector, &namespace),
            None => pod.namespace == own,
        };
        let pods = peer.pod_selector.as_ref();
        near && pods.is_none_or(|selector| fits(selector, &pod.labels))
    })
}

/// Whether the pods of a role hear that pod on a port.
fn hears(chart: &Chart, role: &str, pod: &Pod, wanted: u16) -> bool {
    let mut rules = policy(chart, role).ingress.iter().flatten();
    rules.any(|rule| {
        opens(rule.ports.as_ref(), wanted) && takes(rule.from.as_ref(), &chart.release, pod)
    })
}

/// Whether the pods of a role may ask that pod on a port.
fn may_ask(chart: &Chart, role: &str, pod: &Pod, wanted: u16) -> bool {
    let mut rules = policy(chart, role).egress.iter().flatten();
    rules.any(|rule| {
        opens(rule.ports.as_ref(), wanted) && takes(rule.to.as_ref(), &chart.release, pod)
    })
}

/// The port that a role listens on.
fn listens(role: &str) -> u16 {
    let config: toml::Value = sample(&format!("{role}.toml"));
    port(&config["listen"])
}

#[test]
fn a_party_with_workers_alone_has_no_registry_and_no_gateway() {
    let chart = party();
    let mut names: Vec<&str> = chart.workloads.iter().map(|w| w.name.as_str()).collect();
    let others: [Vec<&ObjectMeta>; 4] = [
        chart.services.iter().map(|o| &o.metadata).collect(),
        chart.budgets.iter().map(|o| &o.metadata).collect(),
        chart.policies.iter().map(|o| &o.metadata).collect(),
        chart.scalers.iter().map(|o| &o.metadata).collect(),
    ];
    let others = others.iter().flatten();
    names.extend(others.map(|metadata| metadata.name.as_deref().unwrap()));
    assert_eq!(names, ["pharma-a-worker"; 5]);
    let install = format!("helm install {PARTY} deploy/helm/chemxor --namespace {PARTY} --values");
    assert!(text("helm/workers-only.yaml").contains(&install));
}

#[test]
fn each_role_can_be_left_out_alone() {
    for role in ["registry", "gateway", "worker"] {
        let mut values = values();
        values[role]["enabled"] = Value::Bool(false);
        let chart = Chart::of(RELEASE, &values);
        let names: Vec<&str> = chart.workloads.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(names.len(), 2, "without {role}: {names:?}");
        assert!(!names.contains(&&*format!("{RELEASE}-{role}")), "{names:?}");
        let counts = [
            chart.services.len(),
            chart.budgets.len(),
            chart.policies.len(),
        ];
        assert_eq!(counts, [2; 3], "without {role}");
    }
}

#[test]
fn workers_of_a_party_hear_the_gateways_of_the_platform_and_nobody_else() {
    let (platform, party) = (Chart::read(), party());
    let grpc = listens("worker");
    let gateway = || Pod::of(&platform, "gateway");
    assert!(hears(&party, "worker", &gateway(), grpc));
    for (stranger, what) in [
        (Pod::of(&platform, "registry"), "the registry"),
        (Pod::of(&platform, "worker"), "a worker of the platform"),
        (Pod::of(&party, "worker"), "a worker of its own"),
        (gateway().in_namespace("elsewhere"), "another namespace"),
        (gateway().in_namespace(PARTY), "its own namespace"),
        (gateway().of_release("other"), "another release beside it"),
        (
            gateway().of_release(PARTY).in_namespace(PARTY),
            "what looks like a gateway of its own",
        ),
    ] {
        assert!(!hears(&party, "worker", &stranger, grpc), "{what}");
    }
}

#[test]
fn gateways_of_other_releases_are_heard_only_where_they_are_named() {
    let platform = Chart::read();
    let grpc = listens("worker");
    let foreign = Pod::of(&platform, "gateway");
    let mut alone = values_of_the_party();
    let named = std::mem::replace(
        &mut alone["worker"]["ingressFrom"],
        Value::Sequence(Vec::new()),
    );
    assert!(!hears(&Chart::of(PARTY, &alone), "worker", &foreign, grpc));
    // a release that has gateways hears its own
    let mut whole = values();
    for heard in [false, true] {
        let chart = Chart::of(PARTY, &whole);
        let own = Pod::of(&chart, "gateway");
        assert!(hears(&chart, "worker", &own, grpc));
        assert_eq!(hears(&chart, "worker", &foreign, grpc), heard);
        whole["worker"]["ingressFrom"] = named.clone();
    }
}

#[test]
fn registry_gateways_and_the_workers_of_a_party_reach_each_other_across_namespaces() {
    let (platform, party) = (Chart::read(), party());
    let worker = Pod::of(&party, "worker");
    let registry = Pod::of(&platform, "registry");
    assert!(may_ask(&party, "worker", &registry, listens("registry")));
    assert!(hears(&platform, "registry", &worker, listens("registry")));
    assert!(may_ask(&platform, "gateway", &worker, listens("worker")));
    // names are asked of another namespace too
    let names = Pod {
        namespace: "kube-system".to_owned(),
        labels: BTreeMap::new(),
    };
    assert!(may_ask(&party, "worker", &names, 53));
    assert!(may_ask(&platform, "gateway", &names, 53));
}

/// The template of worker.toml, with the lines that its head has for another party.
fn template_of_the_party() -> String {
    let template = text("helm/worker.toml");
    let mut table: toml::Table = template.parse().unwrap();
    let head = template.lines().take_while(|line| line.starts_with('#'));
    let lines = head.filter_map(|line| line.strip_prefix("# ")?.parse::<toml::Table>().ok());
    let over: toml::Table = lines.flatten().collect();
    let keys: BTreeSet<&str> = over.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        BTreeSet::from(["advertise", "organisations", "registry"])
    );
    table.extend(over);
    table.to_string()
}

#[test]
fn workers_of_a_party_are_dialled_and_dial_with_the_namespace_in_the_name() {
    let party = party();
    let workload = party.workload("worker");
    let service = workload.service.as_ref().unwrap();
    let pod = format!("{}-0", workload.name);
    let config: WorkerConfig = toml::from_str(&written(&template_of_the_party(), &pod)).unwrap();
    let host = format!("{pod}.{service}.{PARTY}.svc");
    let listen = config.listen.port();
    assert_eq!(config.advertise.unwrap(), format!("{host}:{listen}"));
    let registry = format!("{RELEASE}-registry.{RELEASE}.svc");
    assert_eq!(
        config.registry,
        format!("{registry}:{}", listens("registry"))
    );
    assert!(!config.organisations.is_empty());
    // what the certificates are to carry is said where they are made
    let generic = host
        .replace(PARTY, "RELEASE")
        .replace("RELEASE.svc", "NAMESPACE.svc");
    assert!(text("helm/chemxor/values.yaml").contains(&generic));
    let handbook = include_str!("../../../../docs/operations.md");
    for host in [
        "R-worker-N.R-worker.NAMESPACE.svc",
        "P-registry.PLATFORM-NAMESPACE.svc",
    ] {
        assert!(handbook.contains(host), "{host}");
    }
}
