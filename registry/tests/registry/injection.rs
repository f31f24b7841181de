//! SQL in every text of every call of people: it is refused, or kept as the text it is.

use std::collections::{BTreeMap, BTreeSet};

use chemxor_core::{Action, ErrorId};
use chemxor_proto::v1;

use crate::calls::{CALLS, Requests, call, people_calls, refused_with};
use crate::platform::{Platform, signed, upload_parts};
use crate::targets::{Target, register_workers};

const INJECTIONS: [&str; 6] = [
    "'; drop table tokens; --",
    "' or '1'='1",
    "esol'); update members set roles = '{admin}'; --",
    "\\'; select pg_sleep(30); --",
    "${DATABASE_URL}",
    "esol\u{0}",
];

/// Texts that are free: they are stored and mean nothing.
const FREE: [&str; 7] = [
    "ApproveVersion.note",
    "CreateToken.subject",
    "DenyCertificate.reason",
    "DeprecateVersion.reason",
    "RefuseCertificate.reason",
    "RevokeVersion.reason",
    "SetMember.subject",
];

/// Whom it does not know is withdrawn already.
const WITHDRAWN: &str = "AuthorizeWorkers.withdrawn";

type Put = fn(&mut Requests, String);

/// One line a text: where it is in which request.
macro_rules! texts {
    ($($rpc:literal $field:literal $put:expr;)*) => {
        const TEXTS: &[(&str, &str, Put)] = &[$(($rpc, $field, $put),)*];
    };
}

texts! {
    "ListModels" "page_token" |r, t| r.list_models.page_token = t;
    "GetModel" "model" |r, t| r.get_model.model = t;
    "BeginVersion" "keys.worker" |r, t| r.begin_version.keys[0].worker = t;
    "BeginVersion" "placements.worker" |r, t| r.begin_version.placements[0].worker = t;
    "UploadBlob" "header.version" |r, t| {
        r.upload_blob = futures::stream::iter(upload_parts(&t, &[1; 32], 0, b"x"));
    };
    "SubmitVersion" "version" |r, t| r.submit_version.version = t;
    "RecordConformance" "version" |r, t| r.record_conformance.version = t;
    "AuthorizeWorkers" "version" |r, t| r.authorize_workers.version = t;
    "AuthorizeWorkers" "placements.worker" |r, t| r.authorize_workers.placements[0].worker = t;
    "AuthorizeWorkers" "keys.worker" |r, t| r.authorize_workers.keys[0].worker = t;
    "AuthorizeWorkers" "withdrawn" |r, t| {
        r.authorize_workers = v1::AuthorizeWorkersRequest {
            version: r.authorize_workers.version.clone(),
            withdrawn: vec![t],
            ..Default::default()
        };
    };
    "ApproveVersion" "model" |r, t| r.approve_version.model = t;
    "ApproveVersion" "note" |r, t| r.approve_version.note = t;
    "RevokeVersion" "model" |r, t| r.revoke_version.model = t;
    "CreateToken" "subject" |r, t| r.create_token.subject = t;
    "CreateToken" "roles" |r, t| r.create_token.roles = vec![t];
    "CreateToken" "organisation" |r, t| r.create_token.organisation = t;
    "CreateToken" "models" |r, t| r.create_token.models = vec![t];
    "RevokeToken" "token_id" |r, t| r.revoke_token.token_id = t;
    "SetOrganisation" "name" |r, t| r.set_organisation.name = t;
    "SetConsortium" "name" |r, t| r.set_consortium.name = t;
    "SetConsortium" "organisations" |r, t| r.set_consortium.organisations = vec![t];
    "SetMember" "organisation" |r, t| r.set_member.organisation = t;
    "SetMember" "subject" |r, t| r.set_member.subject = t;
    "SetMember" "kind" |r, t| r.set_member.kind = t;
    "SetMember" "roles" |r, t| r.set_member.roles = vec![t];
    "RemoveMember" "organisation" |r, t| r.remove_member.organisation = t;
    "RemoveMember" "subject" |r, t| r.remove_member.subject = t;
    "ListMembers" "organisation" |r, t| r.list_members.organisation = t;
    "ListTokens" "organisation" |r, t| r.list_tokens.organisation = t;
    "SetVisibility" "model" |r, t| r.set_visibility.model = t;
    "SetVisibility" "visibility" |r, t| r.set_visibility.visibility = t;
    "SetVisibility" "organisations" |r, t| {
        r.set_visibility.visibility = "listed".to_owned();
        r.set_visibility.organisations = vec![t];
    };
    "SetVisibility" "consortium" |r, t| {
        r.set_visibility.visibility = "consortium".to_owned();
        r.set_visibility.consortium = t;
    };
    "GetVisibility" "model" |r, t| r.get_visibility.model = t;
    "SetAlias" "model" |r, t| r.set_alias.model = t;
    "SetAlias" "alias" |r, t| r.set_alias.alias = t;
    "SetAlias" "version" |r, t| r.set_alias.version = t;
    "RollbackAlias" "model" |r, t| r.rollback_alias.model = t;
    "RollbackAlias" "alias" |r, t| r.rollback_alias.alias = t;
    "ListAliases" "model" |r, t| r.list_aliases.model = t;
    "GetAllowance" "model" |r, t| r.get_allowance.model = t;
    "AliasHistory" "model" |r, t| r.alias_history.model = t;
    "AliasHistory" "alias" |r, t| r.alias_history.alias = t;
    "DeprecateVersion" "model" |r, t| r.deprecate_version.model = t;
    "DeprecateVersion" "reason" |r, t| r.deprecate_version.reason = t;
    "SetQuota" "model" |r, t| r.set_quota.model = t;
    "SetQuota" "organisation" |r, t| r.set_quota.organisation = t;
    "ListQuotas" "model" |r, t| r.list_quotas.model = t;
    "DenyCertificate" "subject" |r, t| r.deny_certificate.subject = format!("chemxor://{t}");
    "DenyCertificate" "serial" |r, t| r.deny_certificate.serial = t;
    "DenyCertificate" "reason" |r, t| {
        // another one than this test shows
        r.deny_certificate.subject = "chemxor://client/lab-9".to_owned();
        r.deny_certificate.reason = t;
    };
    "SetCard" "version" |r, t| r.set_card.version = t;
    "GetCard" "model" |r, t| r.get_card.model = t;
    "IssueCertificate" "id" |r, t| r.issue_certificate.id = t;
    "IssueCertificate" "request_pem" |r, t| r.issue_certificate.request_pem = t;
    "IssueCertificate" "certificate_pem" |r, t| {
        r.issue_certificate.id.clone_from(&r.refuse_certificate.id);
        r.issue_certificate.certificate_pem = t;
    };
    "RefuseCertificate" "id" |r, t| r.refuse_certificate.id = t;
    "RefuseCertificate" "reason" |r, t| r.refuse_certificate.reason = t;
    // what is revoked takes no other reason
    "RevokeVersion" "reason" |r, t| r.revoke_version.reason = t;
}

/// Every text of every call of people, as the contract has it: `RPC.field`, nested ones with a dot.
fn contract() -> BTreeSet<String> {
    let files = [
        include_str!("../../../proto/chemxor/v1/registry.proto"),
        include_str!("../../../proto/chemxor/v1/admin.proto"),
        include_str!("../../../proto/chemxor/v1/cards.proto"),
        include_str!("../../../proto/chemxor/v1/certificates.proto"),
    ];
    let (mut requests, mut messages) = (BTreeMap::new(), BTreeMap::<&str, Vec<_>>::new());
    let mut message = "";
    for line in files.iter().flat_map(|file| file.lines()) {
        let mut words = line.split_whitespace().filter(|word| *word != "optional");
        match (words.next(), words.next(), words.next()) {
            (Some("message"), Some(name), _) => message = name,
            (Some("rpc"), Some(call), _) => {
                let (rpc, rest) = call.split_once('(').unwrap();
                let request = rest.trim_end_matches(')');
                requests.insert(rpc, request);
            }
            (Some("repeated"), Some(kind), Some(field)) | (Some(kind), Some(field), Some("=")) => {
                messages.entry(message).or_default().push((kind, field));
            }
            _ => {}
        }
    }
    // the one streamed request
    requests.insert("UploadBlob", "UploadBlobRequest");
    fn texts(
        messages: &BTreeMap<&str, Vec<(&str, &str)>>,
        message: &str,
        path: &str,
        found: &mut BTreeSet<String>,
    ) {
        for (kind, field) in messages.get(message).into_iter().flatten() {
            let path = format!("{path}.{field}");
            match *kind {
                "string" => drop(found.insert(path)),
                kind => texts(messages, kind, &path, found),
            }
        }
    }
    let mut found = BTreeSet::new();
    for (rpc, _) in CALLS {
        texts(&messages, requests[rpc], rpc, &mut found);
    }
    found
}

#[test]
fn no_text_of_the_contract_is_left_out() {
    let known = TEXTS.iter().map(|(rpc, field, _)| format!("{rpc}.{field}"));
    assert_eq!(known.collect::<BTreeSet<_>>(), contract());
}

/// Who holds which roles in the organisation `default`, without those whom the injections name.
async fn members(platform: &Platform) -> Vec<(String, Vec<String>)> {
    let adam = platform.caller("adam");
    let members = platform.store().list_members(&adam, "default").await;
    let members = members.unwrap().into_iter();
    let genuine = members.filter(|member| !INJECTIONS.contains(&&*member.subject));
    genuine.map(|m| (m.subject, m.roles)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_in_every_text_of_every_call_is_refused_or_kept_as_text() {
    let platform = Platform::start().await;
    register_workers(&platform).await;
    let target = Target::make(&platform, "esol", 1, true, "everyone").await;
    let (adam, paul) = (platform.token("adam"), platform.token("paul"));
    // in place of a token
    for (call, _, outcome) in people_calls(&platform, INJECTIONS[1], &target.requests()).await {
        let refused = refused_with(&outcome);
        assert_eq!(refused, Some(ErrorId::TokenRefused), "{call}");
    }
    let before = (members(&platform).await, target.census(&platform).await);
    let mut kept = BTreeSet::new();
    // texts that go through end something; all others come first
    let order = |free: bool| {
        let texts = TEXTS.iter();
        texts.filter(move |(rpc, field, _)| FREE.contains(&&*format!("{rpc}.{field}")) == free)
    };
    for (rpc, field, put) in order(false).chain(order(true)) {
        let (_, action) = CALLS.iter().find(|(name, _)| name == rpc).unwrap();
        let owner = match action {
            Action::Publish => paul,
            _ => adam,
        };
        let what = format!("{rpc}.{field}");
        if FREE.contains(&&*what) && kept.is_empty() {
            // up to here nothing was changed
            let now = (members(&platform).await, target.census(&platform).await);
            assert_eq!(now, before);
        }
        for text in INJECTIONS {
            let mut requests = target.requests();
            put(&mut requests, text.to_owned());
            let outcome = call(&platform, &owner.secret, &requests, rpc).await;
            let free = FREE.contains(&&*what) && !text.contains('\0');
            match refused_with(&outcome) {
                None if what == WITHDRAWN => {}
                None => {
                    assert!(free, "{what} takes {text:?}");
                    kept.insert(what.clone());
                }
                // the first text has moved the version or the request
                Some(ErrorId::WrongState) => assert!(free, "{what}: {outcome:?}"),
                Some(ErrorId::Internal | ErrorId::StorageUnavailable) => {
                    panic!("{what} of {text:?} reached the database: {outcome:?}")
                }
                Some(_) => assert!(!free, "{what} of {text:?}: {outcome:?}"),
            }
        }
    }
    assert_eq!(kept, FREE.map(str::to_owned).into());
    assert_eq!(members(&platform).await, before.0);
    // what was kept is the text itself, and the log of it is whole
    let rows = platform.export().await;
    for text in &INJECTIONS[..5] {
        let text = serde_json::to_string(text).unwrap();
        assert!(rows.contains(text.trim_matches('"')), "{text}");
    }
    assert!(platform.store().verify_audit().await.unwrap().is_ok());
    let list = signed(&adam.secret, v1::ListModelsRequest::default());
    platform.catalogue().list_models(list).await.unwrap();
}
