//! How the model was trained: curves, precision, data, settings.

use chemxor_core::Task;

use super::super::plots;
use super::super::svg::{Chart, escape, number};
use super::super::{Page, TrainReport};
use super::{Writer, bytes};

/// Left-out lines that are listed.
const MOST_LINES: usize = 40;

impl Writer {
    pub(super) fn training(&mut self, page: &Page, report: &TrainReport) {
        put!(self, "<section><h2>Training and precision</h2>");
        let mut facts = vec![
            vec!["kind".to_owned(), report.kind.to_owned()],
            vec![
                "features that vary".to_owned(),
                report.active_features.to_string(),
            ],
            vec![
                "epochs, trees or penalties".to_owned(),
                report.epochs_run.to_string(),
            ],
        ];
        if let Some(best) = report.best_epoch {
            facts.push(vec!["kept".to_owned(), best.to_string()]);
        }
        if let Some(penalty) = report.penalty {
            facts.push(vec!["penalty".to_owned(), number(penalty)]);
        }
        facts.extend([
            vec![
                "mean |integers − floating point|".to_owned(),
                number(report.twin_mean_difference),
            ],
            vec!["largest".to_owned(), number(report.twin_largest_difference)],
            vec![
                "held-out molecules outside the calibrated range".to_owned(),
                report.outside_range.to_string(),
            ],
            vec![
                "time of training and quantisation".to_owned(),
                format!("{:.1} s", report.seconds),
            ],
        ]);
        self.table(&["", ""], &facts);
        let charts: Vec<Chart> = plots::learning(report, page.manifest.task)
            .into_iter()
            .chain(plots::sweep(&report.sweep, page.manifest.task))
            .collect();
        self.charts(&charts);
        if report.sweep.is_empty() {
            put!(
                self,
                "<p class=\"quiet\">No precision was searched: it was given, or the model has no hidden layer that is rounded.</p>"
            );
        } else {
            let rows: Vec<Vec<String>> = report
                .sweep
                .iter()
                .map(|row| {
                    let bits: Vec<String> = row.bits.iter().map(u8::to_string).collect();
                    vec![
                        format!(
                            "{}{}",
                            bits.join(", "),
                            if row.chosen { " (chosen)" } else { "" }
                        ),
                        number(row.twin),
                        format!("{:.2}", 100.0 * row.loss),
                        number(row.cost),
                        bytes(row.bytes),
                    ]
                })
                .collect();
            let header = [
                "b of the hidden layers",
                "validation figure",
                "worst loss (%)",
                "estimate (ms)",
                "bytes a query",
            ];
            self.table(&header, &rows);
        }
        put!(self, "</section>");
    }

    pub(super) fn data(&mut self, page: &Page, report: &TrainReport) {
        put!(self, "<section><h2>Data</h2>");
        let rows = [
            ("usable rows", report.rows),
            ("learned from, validation included", report.train_rows),
            ("held out", report.test_rows),
            ("left out", report.bad_rows.len()),
            (
                "rows whose molecule stood in the file before",
                report.duplicates.repeated,
            ),
            (
                "of these with another value",
                report.duplicates.conflicting.len(),
            ),
            ("changed by standardisation", report.standardised_rows),
        ];
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .map(|(what, count)| vec![what.to_owned(), count.to_string()])
            .collect();
        self.table(&["", "rows"], &rows);
        if !report.bad_rows.is_empty() {
            let lines: Vec<String> = report
                .bad_rows
                .iter()
                .take(MOST_LINES)
                .map(|row| row.line.to_string())
                .collect();
            let more = if report.bad_rows.len() > MOST_LINES {
                ", …"
            } else {
                ""
            };
            put!(
                self,
                "<p>Left out: lines {}{more}. <code>chemxor train</code> prints the reasons.</p>",
                lines.join(", ")
            );
        }
        if page.manifest.task == Task::Multiclass {
            let names: Vec<String> = page.outputs.iter().map(|name| escape(name)).collect();
            put!(self, "<p>Classes: {}.</p>", names.join(", "));
        }
        put!(self, "</section>");
    }

    pub(super) fn settings(&mut self, report: &TrainReport) {
        let Ok(serde_json::Value::Object(settings)) = serde_json::to_value(&report.settings) else {
            return;
        };
        put!(self, "<section><details><summary>Settings</summary>");
        let mut rows = Vec::new();
        for (key, value) in settings {
            match value {
                serde_json::Value::Null => {}
                serde_json::Value::Object(inner) => {
                    rows.extend(
                        inner
                            .iter()
                            .map(|(sub, value)| vec![format!("{key}.{sub}"), plain(value)]),
                    );
                }
                value => rows.push(vec![key, plain(&value)]),
            }
        }
        self.table(&["key", "value"], &rows);
        put!(self, "</details></section>");
    }
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
