use chemxor_core::Task;
use xml::reader::{EventReader, XmlEvent};

use super::*;
use crate::audit::{AuditOptions, audit};
use crate::config::ModelKind;
use crate::dataset::{Dataset, ReadOptions};
use crate::train::train;

/// Names that would be markup, a script and a reference to another server.
const EVIL: &str = "<script src='https://evil.example/x.js'></script>&\"";

fn dataset(task: Task, targets: &[&str]) -> Dataset {
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record(["smiles"].iter().chain(targets)).unwrap();
    for n in 0..60usize {
        let smiles = format!("{}O{}", "C".repeat(n % 12 + 1), "C".repeat(n / 12));
        let value = match task {
            Task::Regression => (n % 12) as f64 / 3.0 + (n % 5) as f64 / 7.0,
            Task::Binary => f64::from(u8::from(n % 12 > 4)),
            Task::Multiclass => (n % 3) as f64,
        };
        let fields = targets.iter().map(|_| value.to_string());
        csv.write_record([smiles].into_iter().chain(fields))
            .unwrap();
    }
    let options = ReadOptions {
        task,
        target_columns: targets.iter().map(|name| (*name).to_owned()).collect(),
        ..ReadOptions::default()
    };
    Dataset::from_csv("t.csv", &csv.into_inner().unwrap(), &options).unwrap()
}

fn settings(kind: ModelKind) -> TrainConfig {
    TrainConfig {
        kind,
        hidden: vec![4],
        epochs: 6,
        endpoint: EVIL.to_owned(),
        unit: EVIL.to_owned(),
        description: EVIL.to_owned(),
        ..TrainConfig::preset(kind)
    }
}

fn page(dataset: &Dataset, config: &TrainConfig, with_audit: bool) -> Page {
    let trained = train(dataset, config, &mut |_| {}).unwrap();
    let found = with_audit.then(|| {
        let options = AuditOptions {
            shadows: 4,
            budget: None,
        };
        audit(dataset, config, &trained.bundle, &options, &mut |_| {}).unwrap()
    });
    Page::of_training(&trained, dataset.outputs(), found)
}

/// Titles of the plots of a page, after checking that the whole of it is well-formed, that no
/// element or attribute loads anything, and that every number in the plots is finite.
fn titles(html: &str) -> Vec<String> {
    let mut titles = Vec::new();
    let mut inside: Vec<String> = Vec::new();
    for event in EventReader::new(html.as_bytes()) {
        match event.unwrap() {
            XmlEvent::StartElement {
                name, attributes, ..
            } => {
                let name = name.local_name;
                let loads = [
                    "script", "link", "img", "iframe", "object", "embed", "use", "image", "a",
                ];
                assert!(!loads.contains(&name.as_str()), "{name}");
                for attribute in attributes {
                    let key = attribute.name.local_name;
                    assert!(
                        !["href", "src", "xlink", "style"].contains(&key.as_str()),
                        "{key}"
                    );
                    assert!(!key.starts_with("on"), "{key}");
                    if ["d", "x", "y", "cx", "cy", "width", "height"].contains(&key.as_str()) {
                        assert!(
                            !attribute.value.contains("NaN") && !attribute.value.contains("inf")
                        );
                    }
                    if key == "clip-path" {
                        assert!(attribute.value.starts_with("url(#c"));
                    }
                }
                inside.push(name);
            }
            XmlEvent::EndElement { .. } => {
                inside.pop();
            }
            XmlEvent::Characters(text)
                if inside.last().is_some_and(|name| name == "figcaption") =>
            {
                titles.push(text);
            }
            _ => {}
        }
    }
    assert_eq!(titles.len(), html.matches("<svg ").count());
    let style = html.split("</style>").next().unwrap();
    assert!(!style.contains("url(") && !style.contains("@import"));
    assert!(!html.contains("<script"), "texts are escaped");
    titles
}

#[test]
fn a_regression_shows_every_plot_and_loads_nothing() {
    let data = dataset(Task::Regression, &["target"]);
    let html = page(&data, &settings(ModelKind::Mlp), true).html();
    let titles = titles(&html);
    assert_eq!(
        titles,
        [
            "Predicted against measured",
            "Residuals",
            "Distribution of the residuals",
            "Learning curves",
            "Precision of the hidden layers",
            "Membership inference",
            "Nearest training molecule",
        ]
    );
    for text in [
        "rmse",
        "spearman",
        "95 %",
        "noise budget",
        "-q64",
        "Clopper-Pearson",
        "TPR at FPR 0.001",
        "1 % quantile",
        "Settings",
        "(chosen)",
    ] {
        assert!(html.contains(text), "{text}");
    }
    // the hostile texts are there, as text
    assert!(
        html.matches("&lt;script src=&#39;https://evil.example")
            .count()
            >= 3
    );
    // it can be shown: no molecule stands in it
    for row in data.rows() {
        assert!(!html.contains(&format!(">{}<", row.smiles)) && !html.contains("CCCO"));
    }
}

#[test]
fn classes_show_roc_precision_and_calibration_of_each_output() {
    let data = dataset(Task::Binary, &["first", "second <b>"]);
    let html = page(&data, &settings(ModelKind::Trees), false).html();
    let names = titles(&html);
    for kind in [
        "ROC",
        "Precision and recall",
        "Calibration",
        "Scores of both classes",
    ] {
        for output in ["first", "second <b>"] {
            assert!(
                names.contains(&format!("{kind}: {output}")),
                "{kind} {names:?}"
            );
        }
    }
    assert!(names.contains(&"Loss over the trees".to_owned()));
    assert!(html.contains("No membership inference audit"));

    let data = dataset(Task::Multiclass, &["target"]);
    let names = titles(&page(&data, &settings(ModelKind::Linear), false).html());
    for class in 0..3 {
        assert!(names.contains(&format!("ROC: {class}")), "{names:?}");
    }
    assert!(names.contains(&"Loss over the penalty".to_owned()));
}

#[test]
fn a_report_without_training_or_rows_is_still_a_page() {
    let data = dataset(Task::Regression, &["target"]);
    let mut page = page(&data, &settings(ModelKind::Forest), false);
    page.training = None;
    page.lines.clear();
    page.measured.clear();
    for series in &mut page.series {
        series.predictions.clear();
    }
    assert_eq!(titles(&page.html()), ["Nearest training molecule"]);
}
