//! The comments of the `.proto` files are part of the contract: each RPC says in five lines who may
//! call it, how it ends, what may be sent again, whether a repeat adds nothing, and its limits. What
//! they name is compared with the one table of error ids and with the ids that the services raise.

use std::collections::BTreeSet;
use std::path::Path;

use chemxor_core::ErrorId;
use chemxor_runtime::status::code;

const PROTOS: [(&str, &str); 6] = [
    ("admin", include_str!("../../proto/chemxor/v1/admin.proto")),
    ("cards", include_str!("../../proto/chemxor/v1/cards.proto")),
    (
        "certificates",
        include_str!("../../proto/chemxor/v1/certificates.proto"),
    ),
    ("query", include_str!("../../proto/chemxor/v1/query.proto")),
    (
        "registry",
        include_str!("../../proto/chemxor/v1/registry.proto"),
    ),
    (
        "worker",
        include_str!("../../proto/chemxor/v1/worker.proto"),
    ),
];

/// Every code of gRPC but OK.
const CODES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Where a service raises its errors. Of a worker's steps none is here: their ids travel in frames.
const SOURCES: [(&str, &[&str]); 10] = [
    ("Catalog", &["registry/src/service/catalog.rs"]),
    (
        "Publishing",
        &[
            "registry/src/service/publishing.rs",
            "registry/src/publication.rs",
            "registry/src/store/blobs.rs",
            "registry/src/store/conformance.rs",
            "registry/src/store/placements.rs",
        ],
    ),
    (
        "Admin",
        &[
            "registry/src/service/admin.rs",
            "registry/src/store/lifecycle.rs",
            "registry/src/store/tokens.rs",
        ],
    ),
    (
        "Governance",
        &[
            "registry/src/service/governance.rs",
            "registry/src/store/aliases.rs",
            "registry/src/store/denied.rs",
            "registry/src/store/organisations.rs",
            "registry/src/store/quotas.rs",
            "registry/src/store/visibility.rs",
        ],
    ),
    (
        "Cards",
        &[
            "registry/src/service/cards.rs",
            "registry/src/store/cards.rs",
        ],
    ),
    (
        "Certificates",
        &[
            "registry/src/service/certificates.rs",
            "registry/src/store/certificates.rs",
        ],
    ),
    (
        "Control",
        &[
            "registry/src/service/control.rs",
            "registry/src/service/watch.rs",
            "registry/src/store/sessions.rs",
            "registry/src/store/workers.rs",
        ],
    ),
    (
        "Metering",
        &[
            "registry/src/service/metering.rs",
            "registry/src/store/reservations.rs",
        ],
    ),
    (
        "Query",
        &[
            "gateway/src/authorise.rs",
            "gateway/src/inbox.rs",
            "gateway/src/service.rs",
            "gateway/src/session/mod.rs",
            "gateway/src/session/state.rs",
        ],
    ),
    ("Partition", &["services/worker/src/partition.rs"]),
];

struct Rpc {
    service: String,
    name: String,
    /// Key and text of each of its lines, wrapped text joined.
    lines: Vec<(String, String)>,
}

impl Rpc {
    fn line(&self, key: &str) -> Option<&str> {
        let mut found = self.lines.iter().filter(|(name, _)| name == key);
        let (_, text) = found.next()?;
        assert!(found.next().is_none(), "{} has {key} twice", self.name);
        Some(text)
    }

    /// The statuses that it may end with beside the common ones, each with its explanation.
    fn statuses(&self) -> Vec<(&str, &str)> {
        let text = self.line("Status").unwrap_or_default();
        let clauses = clauses(text.trim_end_matches('.'));
        let own = clauses.into_iter().filter(|clause| *clause != "common");
        own.map(|clause| {
            let (code, rest) = clause
                .split_once(" (")
                .unwrap_or_else(|| panic!("{}: {clause:?} is no CODE (when; retry)", self.name));
            (code, rest)
        })
        .collect()
    }

    fn is_common(&self) -> bool {
        let text = self.line("Status").unwrap_or_default();
        text.starts_with("common.") || text.starts_with("common;")
    }
}

/// The parts between semicolons that stand in no parenthesis.
fn clauses(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ';' if depth == 0 => {
                parts.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[from..].trim());
    parts
}

/// `Key: text` lines of a comment; a line without a key goes on with the text before it.
fn keyed(comment: &[&str]) -> Vec<(String, String)> {
    const KEYS: [&str; 7] = [
        "Role",
        "Certificate",
        "Status",
        "Retry",
        "Idempotent",
        "Limits",
        "Common",
    ];
    let mut lines: Vec<(String, String)> = Vec::new();
    for line in comment {
        let key = line.split_once(": ").filter(|(key, _)| KEYS.contains(key));
        match (key, lines.last_mut()) {
            (Some((key, text)), _) => lines.push((key.to_owned(), text.to_owned())),
            (None, Some((_, text))) => *text = format!("{text} {line}"),
            (None, None) => {}
        }
    }
    lines
}

/// Every RPC, and each service with its common codes.
fn contract() -> (Vec<Rpc>, Vec<(String, Vec<String>)>) {
    let (mut rpcs, mut services) = (Vec::new(), Vec::new());
    for (_, proto) in PROTOS {
        let mut comment = Vec::new();
        for line in proto.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("//") {
                comment.push(text.trim());
                continue;
            }
            if let Some(name) = line.strip_prefix("service ") {
                let lines = keyed(&comment);
                let common = lines.iter().find(|(key, _)| key == "Common");
                let common = common.map(|(_, text)| words(text)).unwrap_or_default();
                services.push((name.trim_end_matches(" {").to_owned(), common));
            }
            if let (Some(rest), Some((service, _))) = (line.strip_prefix("rpc "), services.last()) {
                let name = rest.split('(').next().unwrap();
                rpcs.push(Rpc {
                    service: service.clone(),
                    name: name.to_owned(),
                    lines: keyed(&comment),
                });
            }
            comment.clear();
        }
    }
    (rpcs, services)
}

/// Words that look like a code of gRPC.
fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    words
        .filter(|word| word.len() > 4)
        .map(str::to_owned)
        .collect()
}

/// `NotFound` as `NOT_FOUND`.
fn wire_name(id: ErrorId) -> String {
    let mut name = String::new();
    for c in format!("{:?}", code(id)).chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

/// The error ids that a text names.
fn ids(text: &str) -> Vec<ErrorId> {
    let parts = text.match_indices("CX-");
    parts
        .map(|(at, _)| text[at..at + 6].parse().unwrap())
        .collect()
}

#[test]
fn each_rpc_says_who_may_call_how_it_ends_what_may_be_repeated_and_its_limits() {
    let (rpcs, services) = contract();
    let declared = PROTOS.iter().flat_map(|(_, text)| text.lines());
    let declared = declared.filter(|line| line.trim().starts_with("rpc "));
    assert_eq!(rpcs.len(), declared.count());
    assert_eq!(services.len(), SOURCES.len());
    for rpc in &rpcs {
        let name = &rpc.name;
        let who = rpc.line("Role").is_some() != rpc.line("Certificate").is_some();
        assert!(who, "{name} has a Role or a Certificate line");
        for key in ["Status", "Retry", "Idempotent", "Limits"] {
            let text = rpc.line(key).unwrap_or_default();
            assert!(text.ends_with('.') && text.len() > 3, "{name}: {key}");
        }
        let repeat = rpc.line("Idempotent").unwrap();
        let known =
            ["yes.", "yes, ", "yes; ", "no, ", "no; "].map(|start| repeat.starts_with(start));
        assert!(known.contains(&true), "{name}: {repeat}");
    }
}

#[test]
fn each_code_in_the_contract_is_one_of_grpc_and_the_one_of_its_error_ids() {
    let (rpcs, services) = contract();
    for (service, common) in &services {
        for code in common {
            assert!(CODES.contains(&code.as_str()), "{service}: {code}");
        }
    }
    for rpc in &rpcs {
        let common = services.iter().find(|(name, _)| *name == rpc.service);
        let common = common.map(|(_, codes)| codes.clone()).unwrap();
        assert!(!(rpc.is_common() && common.is_empty()), "{}", rpc.name);
        let mut may_end: BTreeSet<String> = BTreeSet::new();
        if rpc.is_common() {
            may_end.extend(common);
        }
        for (code, when) in rpc.statuses() {
            let name = &rpc.name;
            assert!(CODES.contains(&code), "{name}: {code}");
            let advised =
                ["retry", "again", "later", "another", "ask"].map(|word| when.contains(word));
            assert!(
                advised.contains(&true),
                "{name}: {code} says what to do: {when}"
            );
            for id in ids(when) {
                assert_eq!(wire_name(id), code, "{name}: {id}");
            }
            may_end.insert(code.to_owned());
        }
        for code in words(rpc.line("Retry").unwrap()) {
            assert!(may_end.contains(&code), "{}: {code} in Retry", rpc.name);
        }
    }
}

#[test]
fn what_a_service_raises_is_in_its_contract() {
    let (rpcs, services) = contract();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (service, files) in SOURCES {
        let own = rpcs.iter().filter(|rpc| rpc.service == service);
        let own = own.flat_map(|rpc| rpc.statuses());
        let mut listed: BTreeSet<String> = own.map(|(code, _)| code.to_owned()).collect();
        let common = services.iter().find(|(name, _)| name == service);
        listed.extend(common.unwrap().1.iter().cloned());
        for file in files {
            let text = std::fs::read_to_string(root.join(file)).unwrap();
            for id in ErrorId::ALL {
                let raised = text
                    .match_indices(&format!("ErrorId::{id:?}"))
                    .any(|(at, found)| {
                        let after = text[at + found.len()..].chars().next();
                        !after.is_some_and(|c| c.is_ascii_alphanumeric())
                    });
                let code = wire_name(*id);
                assert!(
                    !raised || listed.contains(&code),
                    "{file} raises {id}, and {service} lists no {code}"
                );
            }
        }
    }
}

#[test]
fn the_page_of_each_error_names_its_code() {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
    for id in ErrorId::ALL {
        let page = std::fs::read_to_string(pages.join(format!("{id}.md"))).unwrap();
        let line = format!("\ngRPC status: `{}`.\n", wire_name(*id));
        assert!(page.contains(&line), "docs/errors/{id}.md lacks {line}");
    }
}
