//! Everything under deploy/ is read by what reads it in production, or by a parser of its format,
//! and checked against the services: configuration keys, ports, metric names, documents.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_yaml_ng::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn text(name: &str) -> String {
    let path = deploy().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn documents(name: &str, text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(serde::Deserialize::deserialize)
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn sample<T: serde::de::DeserializeOwned>(name: &str) -> T {
    toml::from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The port of an address.
fn port(address: &str) -> u64 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn sample_configurations_parse_and_show_every_key() {
    let registry: chemxor_registry::RegistryConfig = sample("registry.toml");
    assert_ne!(registry.listen.port(), 0);
    let gateway: chemxor_gateway::GatewayConfig = sample("gateway.toml");
    assert_eq!(
        gateway.limits,
        chemxor_gateway::Limits::default(),
        "the sample shows the defaults"
    );
    let worker: chemxor_worker::WorkerConfig = sample("worker.toml");
    assert!(worker.sealing_key.is_absolute());

    // the fields of the configuration types, as their documentation comments precede them
    let sources = [
        ("gateway.toml", include_str!("../../gateway/src/config.rs")),
        (
            "worker.toml",
            include_str!("../../services/worker/src/config.rs"),
        ),
        ("registry.toml", include_str!("../../registry/src/lib.rs")),
    ];
    let shared = include_str!("../../services/runtime/src/operations.rs");
    for (name, source) in sources {
        let sample = text(name);
        let structs = source.split("Deserialize)]").skip(1);
        let fields = structs
            .chain(shared.split("Deserialize)]").skip(1))
            .filter_map(|after| after.split("\n}").next())
            .flat_map(str::lines)
            .filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'))
            .map(|(field, _)| field)
            .filter(|field| !field.contains(' '));
        let mut count = 0;
        for field in fields {
            let lines: Vec<&str> = sample.lines().collect();
            let at = lines.iter().position(|line| {
                line.starts_with(&format!("{field} ="))
                    || *line == format!("[{field}]")
                    || *line == format!("[operations.{field}]")
            });
            let at = at.unwrap_or_else(|| panic!("{name} does not show {field}"));
            // certificate and key share one comment
            let explained = lines[..at]
                .iter()
                .rev()
                .take(2)
                .any(|line| line.starts_with('#'));
            assert!(explained, "{name}: {field} has no comment");
            count += 1;
        }
        assert!(count >= 6, "{name}: only {count} fields were found");
    }
}

#[test]
fn the_compose_file_starts_every_role_with_its_configuration() {
    let compose = &documents("compose.yaml", &text("compose/compose.yaml"))[0];
    let services = compose["services"].as_mapping().unwrap();
    let mut roles = BTreeSet::new();
    for (name, service) in services {
        let Some(command) = service["command"].as_sequence() else {
            assert_eq!(name.as_str(), Some("postgres"));
            continue;
        };
        let role = command[0].as_str().unwrap();
        let config = command[2].as_str().unwrap().rsplit('/').next().unwrap();
        assert!(deploy().join(config).exists(), "{config}");
        assert_eq!(config, format!("{role}.toml"));
        roles.insert(role.to_owned());
        for dependency in match &service["depends_on"] {
            Value::Sequence(names) => names.clone(),
            Value::Mapping(names) => names.keys().cloned().collect(),
            other => panic!("{other:?}"),
        } {
            assert!(services.contains_key(&dependency), "{dependency:?}");
        }
    }
    assert_eq!(roles.len(), 3);
    let shared = &compose["x-service"];
    assert_eq!(shared["read_only"], Value::Bool(true));
    assert_ne!(
        shared["user"].as_str().unwrap().split(':').next(),
        Some("0")
    );
}

/// The chart's templates use values and the release's name only, so that they can be rendered here
/// exactly as Helm would.
fn render(name: &str) -> Vec<Value> {
    let values = &documents("values.yaml", &text("helm/chemxor/values.yaml"))[0];
    let template = text(&format!("helm/chemxor/templates/{name}"));
    let mut out = String::new();
    let mut rest = template.as_str();
    while let Some((before, after)) = rest.split_once("{{") {
        let (expression, after) = after.split_once("}}").unwrap();
        let expression = expression.trim();
        out.push_str(before);
        if expression == ".Release.Name" {
            out.push_str("demo");
        } else {
            let path = expression.strip_prefix(".Values.");
            let path = path.unwrap_or_else(|| panic!("{name}: {expression} cannot be rendered"));
            let value = path.split('.').fold(values, |value, key| &value[key]);
            assert!(!value.is_null(), "{name}: there is no value {path}");
            out.push_str(serde_yaml_ng::to_string(value).unwrap().trim());
        }
        rest = after;
    }
    out.push_str(rest);
    documents(name, &out)
}

fn kind(document: &Value) -> &str {
    document["kind"].as_str().unwrap()
}

#[test]
fn the_chart_renders_to_hardened_pods_with_probes_and_budgets() {
    let chart = &documents("Chart.yaml", &text("helm/chemxor/Chart.yaml"))[0];
    assert_eq!(chart["apiVersion"], "v2");
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    for role in ["registry", "gateway", "worker"] {
        let documents = render(&format!("{role}.yaml"));
        let pods = documents
            .iter()
            .find(|d| ["Deployment", "StatefulSet"].contains(&kind(d)));
        let spec = &pods.unwrap()["spec"]["template"]["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], Value::Bool(true));
        let container = &spec["containers"][0];
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], Value::Bool(true));
        assert_eq!(security["allowPrivilegeEscalation"], Value::Bool(false));
        assert_eq!(security["capabilities"]["drop"][0], "ALL");
        assert_eq!(container["args"][0], role);
        let ports: Vec<u64> = container["ports"]
            .as_sequence()
            .unwrap()
            .iter()
            .map(|port| port["containerPort"].as_u64().unwrap())
            .collect();
        let config: toml::Value = sample(&format!("{role}.toml"));
        let listens = [&config["listen"], &config["operations"]["listen"]];
        assert_eq!(
            ports,
            listens.map(|address| port(address.as_str().unwrap()))
        );
        let path = |probe: &str| {
            container[probe]["httpGet"]["path"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(path("livenessProbe"), "/livez");
        assert_eq!(path("readinessProbe"), "/readyz");
        let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
        let drain = config["operations"]["drain_ms"].as_integer().unwrap() as u64;
        assert!(grace * 1000 > drain, "{role} is killed while it drains");
        for (at, file) in [("ca", "ca.pem"), ("cert", "pem"), ("key", "key")] {
            let configured = config["tls"][at].as_str().unwrap();
            assert!(configured.ends_with(file));
        }
        let kinds: Vec<&str> = documents.iter().map(kind).collect();
        assert!(kinds.contains(&"PodDisruptionBudget") && kinds.contains(&"Service"));
    }
    let policies = render("network.yaml");
    assert_eq!(policies.len(), 3);
    for policy in &policies {
        let types = policy["spec"]["policyTypes"].as_sequence().unwrap();
        assert_eq!(
            types.len(),
            2,
            "both directions are closed but for what is listed"
        );
    }
    let known = documented_metrics();
    for scaler in render("autoscaling.yaml") {
        let metric = &scaler["spec"]["metrics"][0]["pods"]["metric"]["name"];
        assert!(known.contains(metric.as_str().unwrap()), "{metric:?}");
    }
}

#[test]
fn the_units_start_their_role_and_are_confined() {
    for role in ["registry", "gateway", "worker"] {
        let unit = text(&format!("systemd/chemxor-{role}.service"));
        let mut section = "";
        for line in unit
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            match line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix(']'))
            {
                Some(name) => section = name,
                None => assert!(line.contains('=') && !section.is_empty(), "{role}: {line}"),
            }
        }
        for wanted in [
            &format!("ExecStart=/usr/bin/chemxor {role} --config /etc/chemxor/{role}.toml"),
            "NoNewPrivileges=true",
            "ProtectSystem=strict",
            "User=chemxor",
            "CapabilityBoundingSet=\n",
            "MemoryDenyWriteExecute=true",
            "KillSignal=SIGTERM",
            "LimitCORE=0",
        ] {
            assert!(unit.contains(wanted), "{role}: {wanted}");
        }
    }
}

/// Names in the table of docs/operations.md.
fn documented_metrics() -> BTreeSet<String> {
    let manual = include_str!("../../docs/operations.md");
    let names = manual
        .lines()
        .filter_map(|line| line.strip_prefix("| `chemxor_"));
    let names = names.filter_map(|line| line.split_once('`'));
    names.map(|(name, _)| format!("chemxor_{name}")).collect()
}

/// Names in any text, without the endings that Prometheus adds to histograms.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("chemxor_") && word.matches('_').count() > 1)
        .map(|word| {
            let endings = ["_bucket", "_sum", "_count"];
            let ending = endings.iter().find_map(|ending| word.strip_suffix(ending));
            ending.unwrap_or(word).to_owned()
        })
        .collect()
}

fn sources(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for macro_call in ["counter!(", "gauge!(", "histogram!("] {
                for after in text.split(macro_call).skip(1) {
                    let name = after.split('"').nth(1).unwrap();
                    found.insert(name.to_owned());
                }
            }
        }
    }
}

#[test]
fn metrics_are_those_of_the_manual_in_code_board_and_alerts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut counted = BTreeSet::new();
    for folder in ["gateway/src", "services", "registry/src"] {
        sources(&root.join(folder), &mut counted);
    }
    let known = documented_metrics();
    assert_eq!(counted, known, "the table of docs/operations.md");
    let board: serde_json::Value = serde_json::from_str(&text("grafana/chemxor.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() >= 8);
    let expressions = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    for target in expressions {
        let used = metrics_in(target["expr"].as_str().unwrap());
        assert!(!used.is_empty() && used.is_subset(&known), "{used:?}");
    }
}

#[test]
fn every_alert_has_its_page_and_uses_metrics_that_exist() {
    let known = documented_metrics();
    let manual = include_str!("../../docs/operations.md");
    let rules = &documents("alerts.yaml", &text("prometheus/alerts.yaml"))[0];
    let rules = rules["groups"][0]["rules"].as_sequence().unwrap();
    assert!(rules.len() >= 8);
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(
            manual.contains(&format!("### {name}")),
            "{name} has no page"
        );
        let expression = rule["expr"].as_str().unwrap();
        let balance = |open: char, close: char| {
            let count = |c: char| expression.matches(c).count();
            count(open) == count(close)
        };
        assert!(
            balance('(', ')') && balance('{', '}') && balance('[', ']'),
            "{expression}"
        );
        let used = metrics_in(expression);
        assert!(used.is_subset(&known), "{name}: {used:?}");
        assert!(
            !used.is_empty() || expression.starts_with("up{"),
            "{expression}"
        );
        assert!(rule["annotations"]["summary"].is_string());
    }
}
