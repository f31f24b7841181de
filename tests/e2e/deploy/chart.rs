//! The chart, rendered and read into the types of Kubernetes: a field that Kubernetes does not know
//! is an error, and so is one of the wrong type.
//!
//! Its templates use values, the release's name and conditions only, so that they can be rendered here
//! exactly as Helm does; where Helm is on the machine, both are compared.

mod objects;
mod parties;
mod pods;
mod workers;

use std::process::Command;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PodTemplateSpec, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_yaml_ng::Value;

use super::{documents, installed, root, text};

const RELEASE: &str = "chemxor";
const TEMPLATES: [&str; 5] = [
    "registry.yaml",
    "gateway.yaml",
    "worker.yaml",
    "autoscaling.yaml",
    "network.yaml",
];

fn values() -> Value {
    documents("values.yaml", &text("helm/chemxor/values.yaml")).remove(0)
}

/// The value of an expression, `.Values.` and its path.
fn value<'v>(values: &'v Value, expression: &str) -> &'v Value {
    let path = expression.strip_prefix(".Values.");
    let path = path.unwrap_or_else(|| panic!("{expression} cannot be rendered"));
    path.split('.').fold(values, |value, key| &value[key])
}

/// Whether `if` takes a value for true.
fn holds(value: &Value) -> bool {
    match value {
        Value::Bool(given) => *given,
        Value::Sequence(items) => !items.is_empty(),
        other => panic!("{other:?} is no condition"),
    }
}

/// The text that an expression stands for.
fn shown(values: &Value, release: &str, expression: &str) -> String {
    if expression == ".Release.Name" {
        return release.to_owned();
    }
    if let Some(list) = expression.strip_suffix(" | toJson") {
        return serde_json::to_string(value(values, list)).unwrap();
    }
    match value(values, expression) {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        other => panic!("{expression} is {other:?}"),
    }
}

/// A template as Helm renders it for a release; documents that hold nothing are none.
fn rendered(name: &str, release: &str, values: &Value) -> Vec<Value> {
    let template = text(&format!("helm/chemxor/templates/{name}"));
    let mut parts = template.split("{{");
    let mut out = parts.next().unwrap().to_owned();
    // the conditions around this place
    let mut around: Vec<bool> = Vec::new();
    for part in parts {
        let (expression, after) = part.split_once("}}").unwrap();
        let inside = around.iter().all(|held| *held);
        match expression.strip_prefix("- ").map(str::trim) {
            // the dash takes away the space before it
            Some(condition) => {
                if inside {
                    out.truncate(out.trim_end().len());
                }
                match condition.strip_prefix("if ") {
                    Some(expression) => around.push(holds(value(values, expression))),
                    None => {
                        assert_eq!(condition, "end", "{name}");
                        assert!(around.pop().is_some(), "{name}: nothing ends here");
                    }
                }
            }
            None if inside => out.push_str(&shown(values, release, expression.trim())),
            None => {}
        }
        if around.iter().all(|held| *held) {
            out.push_str(after);
        }
    }
    assert!(around.is_empty(), "{name}: a condition does not end");
    filled(documents(name, &out))
}

/// Documents without those that hold nothing, or comments only.
fn filled(mut documents: Vec<Value>) -> Vec<Value> {
    documents.retain(|document| !document.is_null());
    documents
}

/// A document in the type of Kubernetes; what the type did not take up is an error.
fn typed<T: DeserializeOwned + Serialize>(document: &Value) -> Result<T, String> {
    let given = serde_json::to_value(document).map_err(|error| error.to_string())?;
    let read: T = serde_json::from_value(given.clone()).map_err(|error| error.to_string())?;
    let taken = serde_json::to_value(&read).map_err(|error| error.to_string())?;
    if taken == given {
        return Ok(read);
    }
    Err(format!("given:\n{given:#}\nunderstood:\n{taken:#}"))
}

/// What runs pods.
struct Workload {
    /// `Deployment` or `StatefulSet`.
    kind: &'static str,
    name: String,
    replicas: Option<i32>,
    selector: LabelSelector,
    pods: PodTemplateSpec,
    claims: Vec<PersistentVolumeClaim>,
    /// What becomes of volumes when pods are scaled away, and when all is deleted.
    kept: [Option<String>; 2],
    /// Of a stateful set.
    service: Option<String>,
}

/// Every object of a release.
#[derive(Default)]
struct Chart {
    release: String,
    workloads: Vec<Workload>,
    services: Vec<Service>,
    budgets: Vec<PodDisruptionBudget>,
    scalers: Vec<HorizontalPodAutoscaler>,
    policies: Vec<NetworkPolicy>,
}

impl Chart {
    fn add(&mut self, document: &Value) -> Result<(), String> {
        match document["kind"].as_str() {
            Some("Deployment") => {
                let object: Deployment = typed(document)?;
                let spec = object.spec.unwrap();
                self.workloads.push(Workload {
                    kind: "Deployment",
                    name: object.metadata.name.unwrap(),
                    replicas: spec.replicas,
                    selector: spec.selector,
                    pods: spec.template,
                    claims: Vec::new(),
                    kept: [None, None],
                    service: None,
                });
            }
            Some("StatefulSet") => {
                let object: StatefulSet = typed(document)?;
                let spec = object.spec.unwrap();
                let kept = spec.persistent_volume_claim_retention_policy;
                let kept = kept.map(|kept| [kept.when_scaled, kept.when_deleted]);
                self.workloads.push(Workload {
                    kind: "StatefulSet",
                    name: object.metadata.name.unwrap(),
                    replicas: spec.replicas,
                    selector: spec.selector,
                    pods: spec.template,
                    claims: spec.volume_claim_templates.unwrap_or_default(),
                    kept: kept.unwrap_or_default(),
                    service: spec.service_name,
                });
            }
            Some("Service") => self.services.push(typed(document)?),
            Some("PodDisruptionBudget") => self.budgets.push(typed(document)?),
            Some("HorizontalPodAutoscaler") => self.scalers.push(typed(document)?),
            Some("NetworkPolicy") => self.policies.push(typed(document)?),
            other => return Err(format!("{other:?} is not checked")),
        }
        Ok(())
    }

    fn read() -> Self {
        Self::of(RELEASE, &values())
    }

    fn of(release: &str, values: &Value) -> Self {
        let mut chart = Self {
            release: release.to_owned(),
            ..Self::default()
        };
        for name in TEMPLATES {
            for document in rendered(name, release, values) {
                let added = chart.add(&document);
                added.unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
        chart
    }

    fn workload(&self, role: &str) -> &Workload {
        let name = format!("{}-{role}", self.release);
        let mut found = self.workloads.iter().filter(|w| w.name == name);
        found.next().unwrap_or_else(|| panic!("no workload {name}"))
    }

    /// Names of the workloads whose pods a selector takes.
    fn selected(&self, selector: &LabelSelector) -> Vec<&str> {
        assert!(selector.match_expressions.is_none());
        let wanted = selector.match_labels.as_ref().unwrap();
        let workloads = self.workloads.iter().filter(|workload| {
            let labels = workload.pods.metadata.as_ref().unwrap().labels.as_ref();
            let labels = labels.unwrap();
            wanted
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
        });
        workloads.map(|workload| workload.name.as_str()).collect()
    }
}

#[test]
fn every_template_is_rendered_and_known_to_kubernetes_field_by_field() {
    let folder = root().join("deploy/helm/chemxor/templates");
    let count = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(count, TEMPLATES.len());
    let chart = Chart::read();
    let counts = [
        chart.workloads.len(),
        chart.services.len(),
        chart.budgets.len(),
        chart.policies.len(),
        chart.scalers.len(),
    ];
    assert_eq!(counts, [3, 3, 3, 3, 2]);
}

#[test]
fn a_field_that_kubernetes_does_not_know_is_found() {
    let good = rendered("worker.yaml", RELEASE, &values()).remove(0);
    assert!(Chart::default().add(&good).is_ok());
    let text = serde_yaml_ng::to_string(&good).unwrap();
    for (from, to) in [
        ("readOnlyRootFilesystem", "readonlyRootFilesystem"),
        ("containerPort: 7403", "containerPort: seven"),
        ("preStop", "prestop"),
        ("serviceName", "service"),
    ] {
        assert!(text.contains(from), "{from}");
        let bad = documents(to, &text.replace(from, to)).remove(0);
        assert!(Chart::default().add(&bad).is_err(), "{to}");
    }
}

#[test]
fn the_chart_is_of_this_release_and_of_a_kubernetes_that_has_what_it_uses() {
    let chart = &documents("Chart.yaml", &text("helm/chemxor/Chart.yaml"))[0];
    assert_eq!(chart["apiVersion"], "v2");
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    // `preStop.sleep` without a feature gate
    assert_eq!(chart["kubeVersion"], ">=1.30.0-0");
    let image = values()["image"].as_str().unwrap().to_owned();
    assert!(image.ends_with(&format!(":{}", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn helm_renders_what_is_checked_here() {
    if !installed("helm") {
        eprintln!("helm is not on this machine");
        return;
    }
    let helm = |arguments: &[&str]| {
        let mut command = Command::new("helm");
        let command = command.args(arguments);
        let output = command.arg(root().join("deploy/helm/chemxor")).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    helm(&["lint", "--strict"]);
    let file = root().join("deploy/helm/workers-only.yaml");
    let party = format!("--values={}", file.display());
    for (release, values, option) in [
        (RELEASE, values(), None),
        (
            parties::PARTY,
            parties::values_of_the_party(),
            Some(&*party),
        ),
    ] {
        let mut arguments = vec!["template", release, "--kube-version", "1.33.0"];
        arguments.extend(option);
        let theirs = filled(documents("helm template", &helm(&arguments)));
        let ours = TEMPLATES.map(|name| rendered(name, release, &values));
        let ours = ours.concat();
        for document in &ours {
            assert!(theirs.contains(document), "{document:?}");
        }
        assert_eq!(theirs.len(), ours.len(), "{release}");
    }
}
