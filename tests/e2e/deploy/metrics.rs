//! One set of metrics in code, manual, board, alerts and scalers: names, kinds, labels. Expressions
//! are parsed, and use counters as counters, gauges as gauges, and labels that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::promql::{self, Expr};
use super::{root, text};

type Labels = BTreeSet<String>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metric {
    pub(super) kind: String,
    labels: Labels,
}

pub(super) type Metrics = BTreeMap<String, Metric>;

fn set<const N: usize>(labels: [&str; N]) -> Labels {
    labels.map(str::to_owned).into()
}

/// Counts by the macros of the crate `metrics` in a text: `counter!("name", "label" => value)`.
fn counted_in(text: &str, found: &mut Metrics) {
    for kind in ["counter", "gauge", "histogram"] {
        for after in text.split(&format!("{kind}!(")).skip(1) {
            // up to the end of the call; names and labels hold no parentheses
            let mut depth = 1;
            let end = after.find(|c| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            });
            let call = &after[..end.unwrap()];
            let quoted: Vec<&str> = call.split('"').collect();
            let name = quoted[1];
            let labels = quoted.iter().skip(3).step_by(2);
            let followed = quoted.iter().skip(4).step_by(2);
            let labels = labels
                .zip(followed)
                .filter(|(_, after)| after.trim_start().starts_with("=>"))
                .map(|(label, _)| (*label).to_owned());
            let metric = Metric {
                kind: kind.to_owned(),
                labels: labels.collect(),
            };
            let before = found.insert(name.to_owned(), metric.clone());
            assert!(
                before.as_ref().is_none_or(|before| *before == metric),
                "{name} is {before:?} and {metric:?}"
            );
        }
    }
}

fn sources(folder: &Path, found: &mut Metrics) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            counted_in(&std::fs::read_to_string(&path).unwrap(), found);
        }
    }
}

/// What the services count.
pub(super) fn counted() -> Metrics {
    let mut found = Metrics::new();
    for folder in ["gateway/src", "services", "registry/src"] {
        sources(&root().join(folder), &mut found);
    }
    found
}

/// Rows ``| `name` | kind | … by `label` … |`` of the table in docs/operations.md.
fn documented(manual: &str) -> Metrics {
    let rows = manual
        .lines()
        .filter(|line| line.starts_with("| `chemxor_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let mut labels = Labels::new();
        let parts: Vec<&str> = cells[3].split('`').collect();
        let mut listed = false;
        for pair in parts.chunks(2).filter(|pair| pair.len() == 2) {
            let joined = [" and ", ", "].contains(&pair[0]);
            listed = pair[0].ends_with("by ") || (listed && joined);
            if listed {
                labels.insert(pair[1].to_owned());
            }
        }
        let kind = cells[2].to_owned();
        (
            cells[1].trim_matches('`').to_owned(),
            Metric { kind, labels },
        )
    })
    .collect()
}

/// Labels of what an expression gives (none: a scalar), when all that it uses exists and is used as
/// what it is.
fn labels(expr: &Expr, known: &Metrics) -> Result<Option<Labels>, String> {
    let vector = |expr: &Expr| labels(expr, known)?.ok_or_else(|| "a vector is wanted".to_owned());
    match expr {
        Expr::Number => Ok(None),
        Expr::Selector { metric, .. } => {
            let (kind, labels) = series(expr, known)?;
            if kind != "gauge" {
                return Err(format!(
                    "{metric} is a {kind} and has no meaning without a rate"
                ));
            }
            Ok(Some(labels))
        }
        Expr::Range(_) => Err("a range stands alone".to_owned()),
        Expr::Call {
            function,
            arguments,
        } => match (function.as_str(), &arguments[..]) {
            ("time", []) => Ok(None),
            ("histogram_quantile", [_, of]) => {
                let mut labels = vector(of)?;
                if !labels.remove("le") {
                    return Err("a quantile needs the label le".to_owned());
                }
                Ok(Some(labels))
            }
            (_, [Expr::Range(of)]) => {
                let (kind, labels) = series(of, known)?;
                let rising = ["rate", "increase"].contains(&function.as_str());
                if rising == (kind == "gauge") {
                    return Err(format!("{function} of a {kind}: {of:?}"));
                }
                Ok(Some(labels))
            }
            (_, [of, ..]) => Ok(Some(vector(of)?)),
            (_, []) => Err(format!("{function} of nothing")),
        },
        Expr::Aggregate { by, without, of } => {
            let inner = vector(of.last().ok_or("an aggregate of nothing")?)?;
            let named = by.as_ref().unwrap_or(without);
            if !named.is_subset(&inner) {
                return Err(format!("{named:?} are not labels of {of:?}"));
            }
            let kept = |label: &&String| match by {
                Some(by) => by.contains(*label),
                None => !without.contains(*label),
            };
            Ok(Some(inner.iter().filter(kept).cloned().collect()))
        }
        Expr::Binary(left, right) => match (labels(left, known)?, labels(right, known)?) {
            (Some(left), Some(right)) if left != right => {
                Err(format!("{left:?} never match {right:?}"))
            }
            (Some(found), _) | (None, Some(found)) => Ok(Some(found)),
            (None, None) => Ok(None),
        },
    }
}

/// Kind and labels of the series that a selector names.
fn series(selector: &Expr, known: &Metrics) -> Result<(String, Labels), String> {
    let Expr::Selector { metric, labels } = selector else {
        return Err(format!("{selector:?} is no metric"));
    };
    // those that Prometheus adds; deploy/prometheus/scrape.yaml adds the pod's
    let mut all = set(["job", "instance", "namespace", "pod"]);
    let kind = if metric == "up" {
        "gauge".to_owned()
    } else if let Some(found) = known.get(metric).filter(|found| found.kind != "histogram") {
        all.extend(found.labels.clone());
        found.kind.clone()
    } else {
        let endings = ["_bucket", "_sum", "_count"];
        let base = endings
            .iter()
            .find_map(|ending| metric.strip_suffix(ending));
        let found = base
            .and_then(|base| known.get(base))
            .filter(|found| found.kind == "histogram")
            .ok_or_else(|| format!("there is no {metric}"))?;
        all.extend(found.labels.clone());
        all.extend(metric.ends_with("_bucket").then(|| "le".to_owned()));
        "counter".to_owned()
    };
    if !labels.is_subset(&all) {
        return Err(format!("{metric} has {all:?}, not all of {labels:?}"));
    }
    Ok((kind, all))
}

/// Labels of an expression's result.
pub(super) fn checked(expression: &str, known: &Metrics) -> Result<Labels, String> {
    let found = promql::parse(expression).and_then(|expr| labels(&expr, known));
    let found = found.map_err(|error| format!("{expression}: {error}"))?;
    Ok(found.unwrap_or_default())
}

/// Names between `{{` and `}}` of a text.
fn placeholders(text: &str) -> Labels {
    let parts = text.split("{{").skip(1);
    let names = parts.filter_map(|part| part.split("}}").next());
    let names = names.map(|name| name.trim().trim_start_matches("$labels.").to_owned());
    names.collect()
}

#[test]
fn metrics_of_the_code_stand_in_the_manual_with_kind_and_labels() {
    let manual = include_str!("../../../docs/operations.md");
    assert_eq!(
        counted(),
        documented(manual),
        "the table of docs/operations.md"
    );
}

#[test]
fn kinds_and_labels_are_read_from_calls_and_rows() {
    let mut found = Metrics::new();
    let code = r#"counter!("a_total", "by" => name.to_owned(),
        "outcome" => if ok { "yes" } else { "no" }).increment(1); gauge!("b").set(1.0)"#;
    counted_in(code, &mut found);
    let row = "| `chemxor_a` | counter | things by `by` and `outcome`: `yes`, `no` |";
    assert_eq!(documented(row)["chemxor_a"], found["a_total"]);
    assert_eq!(found["a_total"].labels, set(["by", "outcome"]));
    assert_ne!(
        documented(&row.replace("counter", "gauge"))["chemxor_a"],
        found["a_total"]
    );
    assert!(found["b"].labels.is_empty() && found["b"].kind == "gauge");
}

#[test]
fn expressions_that_mean_nothing_are_found() {
    let known = counted();
    for bad in [
        "chemxor_gateway_nothing",
        "chemxor_gateway_steps_total > 1",
        "rate(chemxor_gateway_sessions[5m]) > 1",
        "sum by (worker) (rate(chemxor_gateway_steps_total[5m]))",
        "chemxor_worker_permits{worker=\"a\"}",
        "histogram_quantile(0.9, sum(rate(chemxor_gateway_step_seconds_bucket[5m])))",
        "rate(chemxor_gateway_step_seconds[5m])",
        "sum(chemxor_worker_permits_busy) / chemxor_worker_permits",
    ] {
        assert!(checked(bad, &known).is_err(), "{bad}");
    }
}

#[test]
fn panels_of_the_board_show_metrics_and_labels_that_exist() {
    let known = counted();
    let board: serde_json::Value = serde_json::from_str(&text("grafana/chemxor.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() >= 8);
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    for target in targets {
        let expression = target["expr"].as_str().unwrap();
        let labels = checked(expression, &known).unwrap();
        let legend = placeholders(target["legendFormat"].as_str().unwrap());
        assert!(legend.is_subset(&labels), "{expression}: {legend:?}");
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alerts {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    #[serde(rename = "name")]
    _name: String,
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(rename = "for")]
    lasts: Option<String>,
    labels: Severity,
    annotations: Annotations,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Severity {
    severity: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Annotations {
    summary: String,
}

fn rules() -> Vec<Rule> {
    let alerts: Alerts = serde_yaml_ng::from_str(&text("prometheus/alerts.yaml")).unwrap();
    alerts.groups.into_iter().flat_map(|g| g.rules).collect()
}

fn rule(alert: &str) -> Rule {
    let found = rules().into_iter().find(|rule| rule.alert == alert);
    found.unwrap_or_else(|| panic!("there is no alert {alert}"))
}

/// Seconds of a duration of Prometheus.
fn seconds(duration: &str) -> u64 {
    let (number, unit) = duration.split_at(duration.len() - 1);
    let of = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => panic!("{duration} has another unit"),
    };
    of * number.parse::<u64>().unwrap()
}

#[test]
fn every_alert_has_its_page_and_uses_metrics_and_labels_that_exist() {
    let known = counted();
    let manual = include_str!("../../../docs/operations.md");
    let incidents = manual.split("\n## Incidents\n").nth(1).unwrap();
    let incidents = incidents.split("\n## ").next().unwrap();
    let mut pages: BTreeMap<&str, &str> = incidents
        .split("\n### ")
        .skip(1)
        .map(|page| page.split_once('\n').unwrap())
        .collect();
    for rule in rules() {
        let page = pages.remove(rule.alert.as_str());
        let page = page.unwrap_or_else(|| panic!("{} has no page", rule.alert));
        let words = page.split_whitespace().count();
        assert!(words >= 20, "{}: {words} words help nobody", rule.alert);
        let labels = checked(&rule.expr, &known).unwrap();
        let said = placeholders(&rule.annotations.summary);
        assert!(said.is_subset(&labels), "{}: {said:?}", rule.alert);
        assert!(["page", "warn"].contains(&rule.labels.severity.as_str()));
        let lasts = rule.lasts.as_deref().unwrap_or("1m");
        assert!(lasts.ends_with(['m', 'h']), "{}: {lasts}", rule.alert);
    }
    assert!(pages.is_empty(), "pages without an alert: {pages:?}");
}

/// What lasts until somebody mends it: a counter stands still meanwhile, and its alert ends.
#[test]
fn states_that_last_are_alerted_on_by_a_gauge_alone() {
    let known = counted();
    for (alert, severity) in [
        ("ChemxorNotReady", "page"),
        ("ChemxorPartitionsRefused", "warn"),
        ("ChemxorCertificateNotReloaded", "warn"),
    ] {
        let rule = rule(alert);
        assert_eq!(rule.labels.severity, severity, "{alert}");
        let parsed = promql::parse(&rule.expr).unwrap();
        let Expr::Binary(left, right) = &parsed else {
            panic!("{alert}: {parsed:?} compares nothing");
        };
        assert!(matches!(**right, Expr::Number), "{alert}: {right:?}");
        let (kind, _) = series(left, &known).unwrap();
        assert_eq!(kind, "gauge", "{alert}");
    }
}

/// Seconds in which a gateway passes over a worker that fails: after its first failure, and at most.
fn pauses() -> (u64, u64) {
    let code = include_str!("../../../gateway/src/suspicion.rs");
    let constant = code.split("const PAUSES").nth(1).unwrap();
    let constant = constant.split(';').next().unwrap();
    let seconds = constant.split("from_secs(").skip(1);
    let seconds = seconds.map(|rest| rest.split(')').next().unwrap().parse().unwrap());
    match seconds.collect::<Vec<u64>>()[..] {
        [first, longest] => (first, longest),
        ref other => panic!("{other:?} are not two pauses"),
    }
}

#[test]
fn a_worker_that_goes_on_failing_is_warned_of_and_one_that_restarts_is_not() {
    let rule = rule("ChemxorWorkerFails");
    let (counted, threshold) = rule.expr.rsplit_once(" > ").unwrap();
    assert!(counted.contains("(increase("), "{counted}");
    let threshold: usize = threshold.parse().unwrap();
    let range = seconds(counted.split(['[', ']']).nth(1).unwrap());
    let lasts = seconds(rule.lasts.as_deref().unwrap());
    let manual = include_str!("../../../docs/operations.md");
    assert!(manual.contains("for three seconds, then for twice as long"));
    let (first, longest) = pauses();
    assert_eq!((first, longest), (3, 60), "as docs/operations.md says");
    // one gateway, a worker that fails by saying nothing, and a query at the end of each pause
    let gateway: toml::Value = super::sample("gateway.toml");
    let silent = gateway["limits"]["attempt_timeout_ms"].as_integer();
    let silent = silent.unwrap() as u64 / 1000;
    let failures: Vec<u64> = std::iter::successors(Some((0, first)), |(at, pause)| {
        Some((at + pause + silent, (pause * 2).min(longest)))
    })
    .map(|(at, _)| at)
    .take(100)
    .collect();
    // what a counter has when Prometheus first reads it is no increase
    let first_read = 60;
    let is_met = |now: u64| {
        let since = first_read.max(now.saturating_sub(range));
        let counted = failures.iter().filter(|at| (since + 1..=now).contains(*at));
        counted.count() > threshold
    };
    let begin = (0..range).find(|now| is_met(*now));
    let begin = begin.expect("more failures than the threshold within the range");
    assert!((begin..=begin + lasts).all(is_met), "met without a break");
    // all steps of a minute fail; they stand in the range for as long as it is
    assert!(lasts > range + 60, "a restart is no incident");
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Adapter {
    rules: Vec<AdapterRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AdapterRule {
    series_query: String,
    resources: BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>,
    metrics_query: String,
}

/// Metrics that the adapter gives to scalers, for each pod.
pub(super) fn adapted() -> BTreeSet<String> {
    let known = counted();
    let adapter: Adapter = serde_yaml_ng::from_str(&text("prometheus/adapter.yaml")).unwrap();
    let rules = adapter.rules.iter().map(|rule| {
        checked(&rule.series_query, &known).unwrap();
        let metric = rule.series_query.split('{').next().unwrap();
        let query = rule.metrics_query.replace("<<.Series>>", metric);
        let query = query.replace("<<.LabelMatchers>>", r#"namespace="a",pod=~"b|c""#);
        let query = query.replace("<<.GroupBy>>", "pod");
        assert_eq!(checked(&query, &known), Ok(set(["pod"])), "{query}");
        for label in ["namespace", "pod"] {
            assert_eq!(rule.resources["overrides"][label]["resource"], label);
        }
        metric.to_owned()
    });
    rules.collect()
}

#[test]
fn prometheus_gives_the_labels_that_the_adapter_needs() {
    assert!(!adapted().is_empty());
    let scrape = &super::documents("scrape.yaml", &text("prometheus/scrape.yaml"))[0];
    let job = &scrape["scrape_configs"][0];
    assert_eq!(job["job_name"], "chemxor", "ChemxorServiceDown asks for it");
    let rules = job["relabel_configs"].as_sequence().unwrap();
    let labels: Vec<&str> = rules
        .iter()
        .filter_map(|rule| rule["target_label"].as_str())
        .collect();
    assert_eq!(labels, ["namespace", "pod"]);
    assert_eq!(rules[0]["regex"], "chemxor;operations");
}
