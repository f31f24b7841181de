use super::*;
use crate::{BlobDigest, Bundle};

fn manifest() -> Manifest {
    let golden = include_bytes!("../../tests/golden/bundle-v1.cxbn");
    Bundle::from_bytes(golden).unwrap().manifest().clone()
}

fn good() -> (ModelCard, Manifest, VersionId) {
    let manifest = manifest();
    let version = VersionId::of(b"a version");
    let mut card = ModelCard::draft(&manifest, version);
    let text = "written by a person".to_owned();
    card.contact = text.clone();
    card.assay = Assay {
        description: text.clone(),
        species: "none".to_owned(),
        target: "none".to_owned(),
    };
    card.training_data.sources = vec![text.clone()];
    card.training_data.licence = "CC-BY 4.0".to_owned();
    card.training_data.preparation = text.clone();
    card.training_data.split = "scaffold".to_owned();
    card.applicability.description = text.clone();
    card.intended_use.purpose = text.clone();
    card.intended_use.out_of_scope = vec![text];
    card.metrics[0].low -= 0.1;
    card.metrics[0].high += 0.1;
    let rounds = manifest.graph.steps().len() as u32;
    card.encrypted = Some(EncryptedFigures {
        rounds,
        bytes_up: 1000,
        bytes_down: 900,
        public_key_bytes: 5000,
        p50_ms: 4.0,
        p95_ms: 9.0,
        molecules: 20,
        security_bits: 128,
        log2_failure: -40.0,
        metric: "rmse".to_owned(),
        metric_clear: 1.0,
        metric_encrypted: 1.01,
        measured_on: "2026-11-20".to_owned(),
        command: "chemxor evaluate".to_owned(),
    });
    card.privacy_audit = Some(PrivacyAudit {
        attack: "likelihood ratio".to_owned(),
        auc: 0.55,
        auc_low: 0.5,
        auc_high: 0.6,
        tpr_at_1_percent_fpr: 0.02,
        members: 100,
        non_members: 100,
    });
    (card, manifest, version)
}

fn fields(findings: &[Finding]) -> Vec<&str> {
    findings
        .iter()
        .map(|finding| finding.field.as_str())
        .collect()
}

#[test]
fn a_written_card_has_nothing_to_mend_and_survives_its_bytes() {
    let (card, manifest, version) = good();
    assert_eq!(card.lint_for(&manifest, &version), []);
    let bytes = card.to_bytes().unwrap();
    assert_eq!(ModelCard::from_bytes(&bytes).unwrap(), card);
}

/// What an audit wrote into the manifest is in the draft, and nothing of it is left to write.
#[test]
fn a_draft_takes_the_audit_of_the_manifest() {
    let mut manifest = manifest();
    manifest.privacy = Some(crate::PrivacyStatement {
        differential: None,
        membership: Some(MembershipInference {
            shadows: 16,
            auc: [0.61, 0.55, 0.67],
            members: 900,
            others: 226,
            found_at_0: [0.02, 0.01, 0.03],
            found_at_0001: [0.03, 0.025, 0.035],
            found_at_001: 0.05,
        }),
    });
    manifest.check().unwrap();
    let draft = ModelCard::draft(&manifest, VersionId::of(b"a version"));
    let audit = draft.privacy_audit.clone().unwrap();
    assert_eq!(audit.attack, "likelihood ratio with 16 shadow models");
    assert_eq!(
        [audit.auc, audit.auc_low, audit.auc_high],
        [0.61, 0.55, 0.67]
    );
    assert_eq!((audit.members, audit.non_members), (900, 226));
    assert_eq!(audit.tpr_at_1_percent_fpr, 0.05);
    assert!(!fields(&draft.lint()).contains(&"privacy_audit"));

    let found = manifest.privacy.as_mut().unwrap().membership.as_mut();
    found.unwrap().auc[1] = f64::NAN;
    assert!(manifest.check().is_err());
}

#[test]
fn a_draft_says_what_is_left_to_write_and_only_that() {
    let manifest = manifest();
    let version = VersionId::of(b"a version");
    let draft = ModelCard::draft(&manifest, version);
    let findings = draft.lint_for(&manifest, &version);
    let errors: Vec<&str> = fields(&findings)
        .into_iter()
        .filter(|field| !["encrypted", "privacy_audit"].contains(field))
        .collect();
    let expected = [
        "contact",
        "assay.description",
        "assay.species",
        "assay.target",
        "training_data.sources[0]",
        "training_data.licence",
        "training_data.preparation",
        "training_data.split",
        "applicability.description",
        "intended_use.purpose",
        "intended_use.out_of_scope[0]",
        "metrics[0]",
    ];
    assert_eq!(errors, expected);
    let warned = findings.iter().filter(|f| f.severity == Severity::Warning);
    assert_eq!(warned.count(), 2);
}

/// Each change breaks one rule, and is found at its place.
#[test]
fn every_rule_finds_its_violation() {
    type Change = fn(&mut ModelCard);
    let cases: [(&str, Change); 22] = [
        ("format", |card| card.format = 2),
        ("endpoint", |card| card.endpoint = "  ".to_owned()),
        ("unit", |card| card.unit = "another".to_owned()),
        ("contact", |card| card.contact = "a\u{7}".to_owned()),
        ("contact", |card| card.contact = "x".repeat(5000)),
        ("training_data.sources", |card| {
            card.training_data.sources.clear()
        }),
        ("training_data.molecules", |card| {
            card.training_data.molecules += 1
        }),
        ("intended_use.out_of_scope", |card| {
            card.intended_use.out_of_scope.clear()
        }),
        ("metrics", |card| card.metrics.clear()),
        ("metrics", |card| card.metrics[0].name = "mae".to_owned()),
        ("metrics", |card| {
            let metric = &mut card.metrics[0];
            metric.value += 50.0;
            (metric.low, metric.high) = (metric.value - 1.0, metric.value + 1.0);
        }),
        ("metrics[0]", |card| card.metrics[0].low = f64::NAN),
        ("metrics[0]", |card| card.metrics[0].confidence = 95.0),
        ("metrics[0]", |card| card.metrics[0].molecules = 0),
        ("leakage.bits_per_query", |card| {
            card.leakage.bits_per_query += 1
        }),
        ("encrypted.security_bits", |card| {
            card.encrypted.as_mut().unwrap().security_bits = 127
        }),
        ("encrypted.log2_failure", |card| {
            card.encrypted.as_mut().unwrap().log2_failure = 0.5
        }),
        ("encrypted.rounds", |card| {
            card.encrypted.as_mut().unwrap().rounds += 1
        }),
        ("encrypted.measured_on", |card| {
            card.encrypted.as_mut().unwrap().measured_on = "20.11.2026".to_owned();
        }),
        ("encrypted", |card| {
            card.encrypted.as_mut().unwrap().p95_ms = 0.1
        }),
        ("privacy_audit", |card| {
            card.privacy_audit.as_mut().unwrap().auc = 1.2
        }),
        ("version", |card| card.version = VersionId::of(b"another")),
    ];
    for (field, change) in cases {
        let (mut card, manifest, version) = good();
        change(&mut card);
        let findings = card.lint_for(&manifest, &version);
        assert!(fields(&findings).contains(&field), "{field}: {findings:?}");
        assert!(
            findings.iter().all(|f| f.severity == Severity::Error),
            "{findings:?}"
        );
    }
}

#[test]
fn unknown_fields_and_long_cards_are_refused() {
    let (card, ..) = good();
    let mut value = serde_json::to_value(&card).unwrap();
    value["surprise"] = 1.into();
    let unknown = ModelCard::from_bytes(value.to_string().as_bytes()).unwrap_err();
    assert!(unknown.to_string().contains("surprise"), "{unknown}");
    let long = vec![b' '; MAX_CARD_BYTES + 1];
    assert_eq!(
        ModelCard::from_bytes(&long),
        Err(CardError::Length(MAX_CARD_BYTES + 1))
    );
}

#[test]
fn markdown_escapes_what_the_author_wrote() {
    let (mut card, ..) = good();
    card.contact = "a | b <script>\n# title [x](http://y)".to_owned();
    let text = card.to_markdown();
    assert!(
        text.contains("a \\| b \\<script\\> \\# title \\[x\\](http://y)"),
        "{text}"
    );
    assert!(text.lines().filter(|line| line.starts_with("# ")).count() == 1);
    for part in [
        "p50 4.0 ms",
        "128 bits",
        "2^-40",
        "AUC 0.550",
        "1.0100 encrypted",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let digest = BlobDigest::of(b"unused");
    assert!(!text.contains(&digest.to_string()));
}
