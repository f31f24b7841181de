//! The report as one HTML file that loads nothing: tables and inline plots. It names no molecule, so
//! that it can be shown.

use chemxor_core::Task;
use chemxor_fhe::plan::report::PlanReport;

use super::svg::{Chart, escape, number, short};
use super::{Page, outputs};
use crate::metrics::Figure;

/// Writing to a String cannot fail.
macro_rules! put {
    ($writer:expr, $($text:tt)*) => {{
        use std::fmt::Write as _;
        let _ = writeln!($writer.out, $($text)*);
    }};
}

mod privacy;
mod training;

/// Outputs whose plots are shown.
const MOST_OUTPUTS: usize = 12;
const STYLE: &str = include_str!("style.css");

pub(super) fn html(page: &Page) -> String {
    let mut writer = Writer {
        out: String::new(),
        charts: 0,
    };
    writer.page(page);
    writer.out
}

struct Writer {
    out: String,
    charts: usize,
}

impl Writer {
    fn page(&mut self, page: &Page) {
        let manifest = &page.manifest;
        let name = escape(manifest.name.as_str());
        put!(
            self,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\
             <title>{name}: model report</title><style>{STYLE}</style></head><body><main>"
        );
        put!(
            self,
            "<header><h1>{name}</h1><p class=\"lead\">{}</p>",
            escape(&short(&headline(page), 300))
        );
        if !manifest.description.is_empty() {
            put!(
                self,
                "<p>{}</p>",
                escape(&short(&manifest.description, 500))
            );
        }
        put!(
            self,
            "<p class=\"quiet\">version <code>{}</code></p></header>",
            escape(&page.version)
        );
        self.tiles(page);
        self.quality(page);
        if let Some(report) = &page.training {
            self.training(page, report);
        }
        self.cost(&page.costs, manifest.leakage_bits_per_query);
        self.privacy(page);
        self.domain(page);
        if let Some(report) = &page.training {
            self.data(page, report);
            self.settings(report);
        }
        put!(
            self,
            "<footer class=\"quiet\">Made by {}. Seed {}. Training file SHA-256 <code>{}</code>.</footer></main></body></html>",
            escape(&manifest.toolchain),
            manifest.seed,
            escape(&manifest.data.sha256)
        );
    }

    fn chart(&mut self, chart: &Chart) {
        self.charts += 1;
        let svg = chart.to_svg(self.charts);
        put!(
            self,
            "<figure><figcaption>{}</figcaption>{svg}</figure>",
            escape(&chart.title)
        );
    }

    fn charts(&mut self, charts: &[Chart]) {
        if charts.is_empty() {
            return;
        }
        put!(self, "<div class=\"plots\">");
        for chart in charts {
            self.chart(chart);
        }
        put!(self, "</div>");
    }

    /// Cells are text; columns after the first are numbers.
    fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
        put!(self, "<div class=\"scroll\"><table><thead><tr>");
        for cell in header {
            put!(self, "<th>{}</th>", escape(cell));
        }
        put!(self, "</tr></thead><tbody>");
        for row in rows {
            put!(self, "<tr>");
            for cell in row {
                put!(self, "<td>{}</td>", escape(cell));
            }
            put!(self, "</tr>");
        }
        put!(self, "</tbody></table></div>");
    }

    fn tiles(&mut self, page: &Page) {
        put!(self, "<div class=\"tiles\">");
        let mut tile = |what: &str, value: &str, note: &str| {
            put!(
                self,
                "<div class=\"tile\"><span>{}</span><b>{}</b><span>{}</span></div>",
                escape(what),
                escape(value),
                escape(note)
            );
        };
        for series in &page.series {
            if let Some(figure) = series.figures.first() {
                let at = figure.interval;
                let note = format!("{} to {}, 95 %", number(at.low), number(at.high));
                tile(
                    &format!("{}, {}", figure.name, series.name),
                    &number(at.value),
                    &note,
                );
            }
        }
        let costs = &page.costs;
        tile(
            "rounds a query",
            &costs.steps.len().to_string(),
            &format!(
                "{} up, {} down",
                bytes(costs.bytes_up),
                bytes(costs.bytes_down)
            ),
        );
        put!(self, "</div>");
    }

    fn quality(&mut self, page: &Page) {
        put!(self, "<section><h2>Quality on held-out molecules</h2>");
        put!(
            self,
            "<p>{} molecules. Intervals hold 95 % of 1,000 bootstrap draws.</p>",
            page.lines.len()
        );
        let mut header = vec!["figure".to_owned()];
        header.extend(page.series.iter().map(|series| series.name.clone()));
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let first: &[Figure] = page.series.first().map_or(&[], |series| &series.figures);
        let rows: Vec<Vec<String>> = first
            .iter()
            .enumerate()
            .map(|(at, figure)| {
                let name = if figure.output.is_empty() {
                    figure.name.to_owned()
                } else {
                    format!("{} of {}", figure.name, figure.output)
                };
                let value = |figure: &Figure| {
                    let at = figure.interval;
                    format!(
                        "{} ({} to {})",
                        number(at.value),
                        number(at.low),
                        number(at.high)
                    )
                };
                let own = page
                    .series
                    .iter()
                    .map(|series| series.figures.get(at).map_or_else(String::new, value));
                std::iter::once(name).chain(own).collect()
            })
            .collect();
        self.table(&header, &rows);
        let several = page.outputs.len() > 1;
        for (at, name) in page.outputs.iter().enumerate().take(MOST_OUTPUTS) {
            let output = outputs::Output {
                page,
                at,
                name: if several { name.clone() } else { String::new() },
            };
            self.charts(&output.charts());
        }
        if page.outputs.len() > MOST_OUTPUTS {
            put!(
                self,
                "<p class=\"quiet\">Plots of the first {MOST_OUTPUTS} of {} outputs.</p>",
                page.outputs.len()
            );
        }
        put!(self, "</section>");
    }

    fn cost(&mut self, costs: &PlanReport, leakage: u64) {
        put!(self, "<section><h2>What an encrypted query costs</h2>");
        put!(
            self,
            "<p>{} rounds, {} up, {} down; public keys {} once a session. By the planner's model {} ms of \
             computing on one thread and of sending at 400 Mbit/s. A query releases at most {leakage} bits \
             about the weights.</p>",
            costs.steps.len(),
            bytes(costs.bytes_up),
            bytes(costs.bytes_down),
            bytes(costs.public_key_bytes),
            number(costs.estimated_ms)
        );
        let rows: Vec<Vec<String>> = costs
            .steps
            .iter()
            .map(|step| {
                let spent = step.noise.exp2() + step.switch.exp2();
                vec![
                    format!("{} {}", step.step, step.kind),
                    format!("{} → {}", step.shape[0], step.shape[1]),
                    format!("{} / {} / {}", step.bits[0], step.bits[1], step.bits[2]),
                    step.ring.to_owned(),
                    step.security_bits.to_string(),
                    step.products.to_string(),
                    format!("{} + {}", bytes(step.bytes[0]), bytes(step.bytes[1])),
                    format!("{:.0} %", 100.0 * spent / step.allowed.exp2()),
                    format!("2^{:.0}", step.failure).replace('-', "\u{2212}"),
                    number(step.estimated_ms),
                ]
            })
            .collect();
        let header = [
            "step",
            "shape",
            "bits in / sum / out",
            "ring",
            "security (bits)",
            "products",
            "up + down",
            "noise budget",
            "failure",
            "estimate (ms)",
        ];
        self.table(&header, &rows);
        put!(self, "</section>");
    }
}

fn headline(page: &Page) -> String {
    let manifest = &page.manifest;
    let unit = if manifest.unit.is_empty() {
        String::new()
    } else {
        format!(" in {}", manifest.unit)
    };
    let task = match manifest.task {
        Task::Regression => "regression",
        Task::Binary => "two classes",
        Task::Multiclass => "several classes",
    };
    format!("{}{unit}, {task}", manifest.endpoint)
}

fn bytes(count: usize) -> String {
    if count < 10_000 {
        format!("{count} B")
    } else {
        format!("{:.0} kB", count as f64 / 1000.0)
    }
}
