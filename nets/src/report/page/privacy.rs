//! What is known of the training molecules: privacy and applicability domain.

use super::super::svg::{Chart, number};
use super::super::{Page, plots};
use super::Writer;
use crate::audit::{Attack, PrivacyAudit, Proportion, Target};

/// What the ten descriptors are called, with their unit.
const DESCRIPTORS: [&str; 10] = [
    "molecular weight (g/mol)",
    "Crippen logP",
    "TPSA (Å²)",
    "H-bond donors",
    "H-bond acceptors",
    "rotatable bonds",
    "rings",
    "aromatic rings",
    "heavy atoms",
    "fraction of sp³ carbons",
];

impl Writer {
    pub(super) fn privacy(&mut self, page: &Page) {
        put!(self, "<section><h2>Privacy of the training molecules</h2>");
        let statement = page.manifest.privacy.as_ref();
        match statement.and_then(|privacy| privacy.differential.as_ref()) {
            Some(dp) => put!(
                self,
                "<p>Trained with differentially private gradients: ε = {} at δ = {}, for the {} molecules \
                 that gradients come from. The molecules that stop the training and calibrate the ranges, and \
                 the held-out ones, are not covered.</p>",
                number(dp.epsilon),
                number(dp.delta),
                dp.rows
            ),
            None => put!(self, "<p>Trained without differential privacy.</p>"),
        }
        match &page.audit {
            Some(audit) => self.audit(audit),
            None => put!(
                self,
                "<p class=\"quiet\">No membership inference audit: run <code>chemxor audit-privacy</code> and give its result with <code>--audit</code>.</p>"
            ),
        }
        put!(self, "</section>");
    }

    fn audit(&mut self, audit: &PrivacyAudit) {
        put!(
            self,
            "<p>Membership inference with {} shadow models (likelihood-ratio attack, Carlini et al. 2022) on \
             what a query releases. “This model” is attacked with its own training and held-out \
             molecules; “its recipe” with models of the same settings on halves of the data, which \
             gives enough pairs for small false positive rates. Intervals are Clopper-Pearson, 95 %; for the \
             recipe they take pairs of one molecule as independent. An AUC of 0.5 is guessing.</p>",
            audit.shadows
        );
        let rows: Vec<Vec<String>> = audit.attacks.iter().map(attack_row).collect();
        let header = [
            "attack",
            "molecules",
            "members + others",
            "AUC",
            "TPR at FPR 0",
            "TPR at FPR 0.001",
            "TPR at FPR 0.01",
        ];
        self.table(&header, &rows);
        let charts: Vec<Chart> = plots::attack(&audit.attacks).into_iter().collect();
        self.charts(&charts);
        if let Some(other) = audit
            .attacks
            .iter()
            .find(|attack| attack.target == Target::Published)
            && let Some(point) = other.points.first()
        {
            put!(
                self,
                "<p class=\"quiet\">With {} molecules that were not learned, no false alarm among them still allows a \
                 false positive rate of {} at 95 % confidence.</p>",
                other.others,
                number(point.false_positives.high)
            );
        }
    }

    pub(super) fn domain(&mut self, page: &Page) {
        let Some(domain) = &page.manifest.domain else {
            return;
        };
        put!(self, "<section><h2>Applicability domain</h2>");
        put!(
            self,
            "<p>What the training molecules were like, coarse enough to be public. A client says of its own molecule \
             whether it lies within.</p>"
        );
        let thousandths = |value: i64| number(value as f64 / 1000.0);
        let rows: Vec<Vec<String>> = DESCRIPTORS
            .iter()
            .zip(&domain.descriptors)
            .map(|(name, [low, high])| {
                vec![(*name).to_owned(), thousandths(*low), thousandths(*high)]
            })
            .collect();
        self.table(&["descriptor", "1 % quantile", "99 % quantile"], &rows);
        let charts: Vec<Chart> = plots::neighbours(&domain.nearest_neighbour)
            .into_iter()
            .collect();
        self.charts(&charts);
        put!(self, "</section>");
    }
}

fn attack_row(attack: &Attack) -> Vec<String> {
    let target = match attack.target {
        Target::Published => "this model",
        Target::Procedure => "its recipe",
    };
    let percent = |p: &Proportion| {
        format!(
            "{:.1} % ({:.1} to {:.1})",
            100.0 * p.value,
            100.0 * p.low,
            100.0 * p.high
        )
    };
    let [low, high] = attack.auc_interval;
    let mut row = vec![
        format!("{target}, {}", attack.variant),
        attack.group.clone(),
        format!("{} + {}", attack.members, attack.others),
        format!("{:.3} ({low:.3} to {high:.3})", attack.auc),
    ];
    row.extend(
        attack
            .points
            .iter()
            .map(|point| percent(&point.true_positives)),
    );
    row
}
