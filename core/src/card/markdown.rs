//! A card as Markdown.

use std::fmt::Write;

use super::ModelCard;
use crate::Task;

/// What a cell or a line of Markdown may hold: no markup of the author's, one line.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            '\n' => out.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

fn list(out: &mut String, entries: &[String]) {
    for entry in entries {
        let _ = writeln!(out, "- {}", plain(entry));
    }
}

impl ModelCard {
    /// The card for people. Text of the author is escaped.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        // writing to a string does not fail
        let _ = self.write_markdown(&mut out);
        out
    }

    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        let task = match self.task {
            Task::Regression => "regression",
            Task::Binary => "binary classification",
            Task::Multiclass => "classification",
        };
        writeln!(out, "# {}\n", self.model)?;
        writeln!(out, "| | |\n|---|---|")?;
        writeln!(out, "| version | `{}` |", self.version)?;
        writeln!(out, "| task | {task} |")?;
        writeln!(out, "| endpoint | {} |", plain(&self.endpoint))?;
        if !self.unit.is_empty() {
            writeln!(out, "| unit | {} |", plain(&self.unit))?;
        }
        writeln!(out, "| assay | {} |", plain(&self.assay.description))?;
        writeln!(out, "| species | {} |", plain(&self.assay.species))?;
        writeln!(out, "| target | {} |", plain(&self.assay.target))?;
        writeln!(out, "| contact | {} |", plain(&self.contact))?;

        writeln!(
            out,
            "\n## Intended use\n\n{}\n",
            plain(&self.intended_use.purpose)
        )?;
        writeln!(out, "Not for:\n")?;
        list(out, &self.intended_use.out_of_scope);

        writeln!(
            out,
            "\n## Applicability\n\n{}",
            plain(&self.applicability.description)
        )?;
        if !self.applicability.exclusions.is_empty() {
            writeln!(out, "\nKnown not to work:\n")?;
            list(out, &self.applicability.exclusions);
        }

        let data = &self.training_data;
        writeln!(
            out,
            "\n## Training data\n\n{} molecules from:\n",
            data.molecules
        )?;
        list(out, &data.sources);
        writeln!(out, "\nLicence: {}", plain(&data.licence))?;
        writeln!(out, "\nPreparation: {}", plain(&data.preparation))?;
        writeln!(out, "\nSplit: {}", plain(&data.split))?;

        writeln!(out, "\n## Quality on held-out molecules\n")?;
        writeln!(
            out,
            "| metric | value | interval | confidence | molecules |"
        )?;
        writeln!(out, "|---|--:|---|--:|--:|")?;
        for metric in &self.metrics {
            writeln!(
                out,
                "| {} | {:.4} | {:.4} to {:.4} | {} % | {} |",
                plain(&metric.name),
                metric.value,
                metric.low,
                metric.high,
                (metric.confidence * 1000.0).round() / 10.0,
                metric.molecules
            )?;
        }

        writeln!(out, "\n## Encrypted queries\n")?;
        match &self.encrypted {
            None => writeln!(out, "Not measured.")?,
            Some(figures) => {
                writeln!(out, "| | |\n|---|---|")?;
                writeln!(out, "| rounds | {} |", figures.rounds)?;
                writeln!(
                    out,
                    "| bytes a query | {} up, {} down |",
                    figures.bytes_up, figures.bytes_down
                )?;
                writeln!(
                    out,
                    "| public keys, once a session | {} bytes |",
                    figures.public_key_bytes
                )?;
                writeln!(
                    out,
                    "| time a query | p50 {:.1} ms, p95 {:.1} ms ({} queries) |",
                    figures.p50_ms, figures.p95_ms, figures.molecules
                )?;
                writeln!(out, "| security | {} bits |", figures.security_bits)?;
                writeln!(
                    out,
                    "| probability of a wrong output | 2^{:.0} |",
                    figures.log2_failure
                )?;
                writeln!(
                    out,
                    "| {} | {:.4} in clear, {:.4} encrypted |",
                    plain(&figures.metric),
                    figures.metric_clear,
                    figures.metric_encrypted
                )?;
                writeln!(
                    out,
                    "| measured | {}, `{}` |",
                    plain(&figures.measured_on),
                    figures.command.replace(['`', '\n', '|'], " ")
                )?;
            }
        }

        let leakage = &self.leakage;
        writeln!(out, "\n## What queries learn about the weights\n")?;
        writeln!(out, "At most {} bits a query.", leakage.bits_per_query)?;
        match leakage.lifetime_queries {
            Some(queries) => writeln!(
                out,
                "An organisation may ask {queries} queries for ever: at most {} bits.",
                u128::from(queries) * u128::from(leakage.bits_per_query)
            )?,
            None => writeln!(out, "The card states no lifetime budget.")?,
        }

        writeln!(out, "\n## What the model tells about its training data\n")?;
        match &self.privacy_audit {
            None => writeln!(out, "Not audited."),
            Some(audit) => writeln!(
                out,
                "Membership inference ({}): AUC {:.3} ({:.3} to {:.3}, 0.5 is a guess), {:.1} % of the members found at 1 % false alarms; {} members, {} others.",
                plain(&audit.attack),
                audit.auc,
                audit.auc_low,
                audit.auc_high,
                100.0 * audit.tpr_at_1_percent_fpr,
                audit.members,
                audit.non_members
            ),
        }
    }
}
