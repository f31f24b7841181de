//! A model with everything that a model can have, and requests that reach for it: each is answered
//! when its owners send it, so what a stranger is refused is refused for being a stranger.

use chemxor_core::{Event, Role, RoleSet};
use chemxor_proto::{STATE_KEY_STEP, v1};
use chemxor_registry::store::{Quota, TokenOrder};
use uuid::Uuid;

use crate::api::{Api, Direct};
use crate::calls::{CALLS, Requests, call, refused_with};
use crate::cards;
use crate::model::{Model, conformance, publisher_key, reference, sealed_key};
use crate::platform::{DAY, Platform, signed, upload_parts};

/// How much of the unfinished upload is there.
const HALF: usize = 1_000;

/// What the requests name.
pub(crate) struct Target {
    pub(crate) name: String,
    /// What is read, deprecated and revoked: approved, or else the one that waits.
    pub(crate) main: Model,
    /// Approved before it.
    older: Model,
    /// Waits for approval.
    waiting: Model,
    /// A draft with all its blobs.
    draft: Model,
    /// A draft whose upload stopped.
    half: Model,
    organisation: String,
    token_id: String,
    certificate: String,
    visibility: &'static str,
}

impl Target {
    fn new(name: &str, seed: u64, approved: bool) -> Self {
        let model = |offset| Model::new(name, 10 * seed + offset);
        Self {
            name: name.to_owned(),
            main: model(if approved { 2 } else { 3 }),
            older: model(1),
            waiting: model(3),
            draft: model(4),
            half: model(5),
            organisation: "nobody".to_owned(),
            token_id: Uuid::now_v7().to_string(),
            certificate: Uuid::now_v7().to_string(),
            visibility: "everyone",
        }
    }

    /// The same of something that does not exist.
    pub(crate) fn absent() -> Self {
        Self::new("absent", 999, true)
    }

    /// Paul's model in the organisation `default`, with quinn's token; `visibility` is what the
    /// requests would make of it. Worker-3 must be registered.
    pub(crate) async fn make(
        platform: &Platform,
        name: &str,
        seed: u64,
        approved: bool,
        visibility: &'static str,
    ) -> Self {
        let mut target = Self::new(name, seed, approved);
        let (store, adam) = (platform.store(), platform.caller("adam"));
        let (api, rita) = (Direct(platform), platform.caller("rita"));
        let versions: &[&Model] = match approved {
            true => &[&target.older, &target.main],
            false => &[],
        };
        let (model, alias) = (name.parse().unwrap(), "stable".parse().unwrap());
        for version in versions {
            platform.submit("paul", version).await;
            let digest = version.version().parse().unwrap();
            let approve = store.transition(&rita, &digest, Event::Approve, "", None);
            approve.await.unwrap();
            let moved = store.set_alias(&adam, &model, &alias, &digest).await;
            moved.unwrap();
        }
        platform.submit("paul", &target.waiting).await;
        for (draft, most) in [(&target.draft, usize::MAX), (&target.half, HALF)] {
            api.begin("paul", &draft.request).await.unwrap();
            let (version, blobs) = (draft.version(), draft.blobs.iter().enumerate());
            for (step, blob) in blobs {
                let (sha256, end) = (draft.sha256(step), most.min(blob.len()));
                let stored = api.upload("paul", &version, &sha256, 0, &blob[..end]);
                stored.await.unwrap();
            }
        }
        let main = &target.main;
        let card = cards::request(main, &cards::card(main), &publisher_key());
        let (paul, digest) = (platform.caller("paul"), main.version().parse().unwrap());
        let set = store.set_card(&paul, &digest, &card.card, &card.signature);
        set.await.unwrap();
        let quota = Quota {
            organisation: "*".to_owned(),
            lifetime_queries: Some(1_000),
            ..Quota::default()
        };
        store.set_quota(&adam, &model, &quota).await.unwrap();
        let order = TokenOrder {
            organisation: "default",
            subject: "quinn",
            roles: &RoleSet::new([Role::Querier]),
            models: &[],
            lifetime: DAY,
        };
        let token = store.order_token(&adam, &order).await.unwrap();
        let waits = store.request_certificate("chemxor://client/lab-9", name);
        target.certificate = waits.await.unwrap().id.to_string();
        target.token_id = token.id.to_string();
        target.organisation = "default".to_owned();
        target.visibility = visibility;
        target
    }

    pub(crate) fn waiting(&self) -> &Model {
        &self.waiting
    }

    /// Every call of people, about this.
    pub(crate) fn requests(&self) -> Requests {
        let (name, version) = (&self.name, self.main.version());
        let exact = reference(name, &version);
        let mut card = cards::card(&self.main);
        card.contact = "another@acme.example".to_owned();
        let rest = &self.half.blobs[0][HALF..];
        let half = (self.half.version(), self.half.sha256(0));
        let upload = upload_parts(&half.0, &half.1, HALF as u64, rest);
        let (report, signature) = conformance(&self.waiting.version());
        let organisation = &self.organisation;
        let mut requests = Requests::nowhere();
        requests.get_model.model.clone_from(&exact);
        requests.begin_version = self.draft.request.clone();
        requests.upload_blob = futures::stream::iter(upload);
        requests.submit_version.version = self.draft.version();
        requests.record_conformance = v1::RecordConformanceRequest {
            version: self.waiting.version(),
            report: report.into(),
            signature: signature.into(),
        };
        requests.authorize_workers = v1::AuthorizeWorkersRequest {
            version: version.clone(),
            placements: vec![v1::Placement {
                worker: "worker-3".to_owned(),
                end_step: 2,
                ..Default::default()
            }],
            keys: [0, 1, STATE_KEY_STEP]
                .map(|step| sealed_key("worker-3", step))
                .to_vec(),
            withdrawn: vec!["worker-1".to_owned()],
        };
        requests.approve_version.model = reference(name, &self.waiting.version());
        requests.revoke_version.model.clone_from(&exact);
        requests.create_token = v1::CreateTokenRequest {
            organisation: organisation.clone(),
            subject: "quinn".to_owned(),
            roles: vec!["querier".to_owned()],
            ..Default::default()
        };
        requests.revoke_token.token_id.clone_from(&self.token_id);
        requests.set_organisation = v1::SetOrganisationRequest {
            name: organisation.clone(),
            suspended: true,
        };
        requests.set_consortium.name = "friends".to_owned();
        requests.set_member = v1::Member {
            organisation: organisation.clone(),
            subject: "quinn".to_owned(),
            roles: vec!["publisher".to_owned()],
            ..Default::default()
        };
        requests.remove_member = v1::RemoveMemberRequest {
            organisation: organisation.clone(),
            subject: "pia".to_owned(),
        };
        requests.list_members.organisation.clone_from(organisation);
        requests.list_tokens.organisation.clone_from(organisation);
        requests.set_visibility.model.clone_from(name);
        requests.set_visibility.visibility = self.visibility.to_owned();
        requests.get_visibility.model.clone_from(name);
        requests.set_alias.model.clone_from(name);
        requests.set_alias.version = self.older.version();
        requests.rollback_alias.model.clone_from(name);
        requests.list_aliases.model.clone_from(name);
        requests.get_allowance.model.clone_from(&exact);
        requests.alias_history.model.clone_from(name);
        requests.deprecate_version = v1::DeprecateVersionRequest {
            model: exact.clone(),
            sunset_unix_ms: 1,
            ..Default::default()
        };
        requests.set_quota.model.clone_from(name);
        requests.set_quota.lifetime_queries = Some(0);
        requests.list_quotas.model.clone_from(name);
        requests.deny_certificate.subject = "chemxor://client/lab".to_owned();
        requests.set_card = cards::request(&self.main, &card, &publisher_key());
        requests.get_card.model = exact;
        requests.refuse_certificate.id.clone_from(&self.certificate);
        requests
    }

    /// A refusal of this target's, as it would read for another one.
    pub(crate) fn retell(&self, message: &str, other: &Self) -> String {
        let mut text = message.to_owned();
        for (own, others) in [
            (&self.main, &other.main),
            (&self.older, &other.older),
            (&self.waiting, &other.waiting),
            (&self.draft, &other.draft),
            (&self.half, &other.half),
        ] {
            text = text.replace(&own.version(), &others.version());
        }
        text.replace(&self.name, &other.name)
            .replace(&self.organisation, &other.organisation)
    }

    /// Everything of the model and its organisation, as its administrator sees it, with what it is.
    pub(crate) async fn census(&self, platform: &Platform) -> Vec<(String, String)> {
        let (store, adam) = (platform.store(), platform.caller("adam"));
        let model = self.name.parse().unwrap();
        let alias = "stable".parse().unwrap();
        let exact = reference(&self.name, &self.main.version());
        let exact = exact.parse().unwrap();
        let mut seen = Vec::new();
        macro_rules! see {
            ($what:expr, $row:expr) => {
                let row = $row.unwrap();
                seen.push(($what.to_string(), format!("{row:?}")));
            };
        }
        see!("members", store.list_members(&adam, "default").await);
        see!("tokens", store.list_tokens(&adam, "default").await);
        see!("organisations", store.list_organisations(&adam).await);
        see!("consortia", store.list_consortia(&adam).await);
        see!("visibility", store.visibility(&adam, &model).await);
        see!("aliases", store.list_aliases(&adam, &model).await);
        let history = store.alias_history(&adam, &model, &alias).await;
        see!("alias history", history);
        see!("quotas", store.list_quotas(&adam, &model).await);
        see!("card", store.card(&adam, &exact).await);
        see!("requests", store.list_certificates(&adam, false).await);
        see!("denied", store.denied_certificates(&adam).await);
        for (what, model) in [
            ("main", &self.main),
            ("waiting", &self.waiting),
            ("draft", &self.draft),
            ("half", &self.half),
        ] {
            let version = model.version().parse().unwrap();
            let exact = reference(&self.name, &model.version());
            let row = store.find_version(&adam, &exact.parse().unwrap()).await;
            see!(what, row.map(|row| (row.state, row.sunset_at)));
            let places = store.placements(&version).await;
            see!(format!("{what} placements"), places);
            let missing = store.missing_blobs(&version).await;
            let missing = missing.map(|blobs| blobs.iter().map(|b| b.offset).sum::<u64>());
            see!(format!("{what} missing"), missing);
        }
        seen
    }
}

/// Registers the three workers that a target names.
pub(crate) async fn register_workers(platform: &Platform) {
    platform.register_workers().await;
    let api = Direct(platform);
    api.register("worker-3", &[3; 32]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_are_refused_is_answered_to_its_owners() {
    let platform = Platform::start().await;
    register_workers(&platform).await;
    let target = Target::make(&platform, "esol", 1, true, "everyone").await;
    let before = target.census(&platform).await;
    let requests = target.requests();
    let (adam, paul) = (platform.token("adam"), platform.token("paul"));
    for (rpc, action) in CALLS {
        // nobody suspends the own organisation, or denies the own certificate; for a recorded
        // certificate see `enrolment`
        if ["SetOrganisation", "DenyCertificate", "IssueCertificate"].contains(rpc) {
            continue;
        }
        let owner = match *action {
            chemxor_core::Action::Publish => paul,
            _ => adam,
        };
        let outcome = call(&platform, &owner.secret, &requests, rpc).await;
        assert_eq!(refused_with(&outcome), None, "{rpc}: {outcome:?}");
    }
    let after = target.census(&platform).await;
    let pairs = before.iter().zip(&after);
    let same = pairs.filter(|(before, after)| before == after);
    let same: Vec<&str> = same.map(|((what, _), _)| what.as_str()).collect();
    let expected = [
        "organisations",
        "denied",
        "main missing",
        "waiting placements",
        "waiting missing",
        "draft placements",
        "draft missing",
        "half",
        "half placements",
    ];
    assert_eq!(same, expected, "everything else has changed");
    let list = signed(&adam.secret, v1::ListModelsRequest::default());
    platform.catalogue().list_models(list).await.unwrap();
}
