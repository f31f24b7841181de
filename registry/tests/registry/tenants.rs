//! Tenant isolation: role x RPC x visibility x relation. Nothing of another organisation is changed or
//! revealed; whoever its owner names may read and query what is approved, and nothing else.

use chemxor_core::{Action, ErrorId, Role, allowed};
use chemxor_proto::v1;
use chemxor_registry::store::Visibility;

use crate::calls::{CALLS, Outcome, call, people_calls, refused_with};
use crate::platform::{Platform, signed};
use crate::targets::{Target, register_workers};

/// Somebody of another organisation.
struct Caller {
    role: Role,
    secret: String,
    /// Whether the models' owner lists the organisation, itself or with its consortium.
    listed: bool,
    /// What is said about something that does not exist.
    absent: Vec<Outcome>,
}

/// One caller for each relation and role; platform roles have no relation.
async fn callers(platform: &Platform, absent: &Target) -> Vec<Caller> {
    let mut callers = Vec::new();
    for (organisation, listed) in [("stranger", false), ("friend", true)] {
        for role in Role::ALL {
            if !role.is_token_role() || role.is_platform_role() {
                continue;
            }
            let token = platform
                .token_in(organisation, role.as_str(), &[role])
                .await;
            let secret = token.secret.to_string();
            let mut requests = absent.requests();
            // a name that is free may be taken; what belongs to others is refused for that reason
            requests.begin_version = v1::BeginVersionRequest::default();
            let calls = people_calls(platform, &secret, &requests).await;
            callers.push(Caller {
                role,
                secret,
                listed,
                absent: calls.into_iter().map(|(.., outcome)| outcome).collect(),
            });
        }
    }
    callers
}

/// What a refused call says, when the caller's role allows it.
fn hidden(rpc: &str) -> ErrorId {
    match rpc {
        "BeginVersion" => ErrorId::ManifestRefused,
        "CreateToken" | "SetMember" | "RemoveMember" | "ListMembers" | "ListTokens" => {
            ErrorId::OrganisationUnknown
        }
        "RevokeToken" => ErrorId::ArgumentInvalid,
        _ => ErrorId::ModelUnknown,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_isolated_on_every_call_whatever_their_role() {
    let platform = Platform::start().await;
    register_workers(&platform).await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let absent = Target::absent();
    let callers = callers(&platform, &absent).await;
    let members = ["default", "friend"].map(str::to_owned);
    store
        .set_consortium(&adam, "friends", &members)
        .await
        .unwrap();
    for (seed, (kind, approved)) in [
        ("private", false),
        ("private", true),
        ("listed", false),
        ("listed", true),
        ("consortium", true),
        ("everyone", false),
        ("everyone", true),
    ]
    .into_iter()
    .enumerate()
    {
        let (visibility, other) = match kind {
            "private" => (Visibility::Private, "everyone"),
            "listed" => (Visibility::Listed(vec!["friend".to_owned()]), "everyone"),
            "consortium" => (Visibility::Consortium("friends".to_owned()), "private"),
            _ => (Visibility::Everyone, "private"),
        };
        let name = format!("model-{seed}");
        let target = Target::make(&platform, &name, seed as u64, approved, other).await;
        let model = name.parse().unwrap();
        let set = store.set_visibility(&adam, &model, &visibility).await;
        set.unwrap();
        let before = target.census(&platform).await;
        for caller in &callers {
            let visible = kind == "everyone" || (caller.listed && kind != "private");
            let what = format!("a {kind} model, approved: {approved}");
            check(&platform, &target, &absent, caller, (visible, approved)).await;
            check_use(&platform, &target, caller, visible && approved, &what).await;
        }
        assert_eq!(target.census(&platform).await, before, "{kind} {approved}");
    }
}

/// Every call of one caller about one model.
async fn check(
    platform: &Platform,
    target: &Target,
    absent: &Target,
    caller: &Caller,
    (visible, approved): (bool, bool),
) {
    let (requests, role) = (target.requests(), caller.role);
    let seen = visible && approved;
    for ((rpc, action), nothing) in CALLS.iter().zip(&caller.absent) {
        let outcome = call(platform, &caller.secret, &requests, rpc).await;
        let what = format!("{role} (listed: {}) {rpc}: {outcome:?}", caller.listed);
        let refused = refused_with(&outcome);
        if !allowed(role, *action) {
            assert_eq!(refused, Some(ErrorId::RoleMissing), "{what}");
            continue;
        }
        let reads = match *rpc {
            // of these the answer is bounded, not the call; see `check_use` and the catalogue's tests
            "ListModels" | "ListWorkers" => true,
            "GetModel" | "GetAllowance" | "GetCard" => seen,
            // that a model is there is known with it; its aliases name only what is approved
            "AliasHistory" | "ListAliases" => visible,
            _ => false,
        };
        assert_eq!(refused, (!reads).then(|| hidden(rpc)), "{what}");
        // nor does the wording tell what is hidden from what does not exist
        if let (Err(refused), false, true) = (&outcome, seen, *rpc != "BeginVersion") {
            let nothing = nothing.as_ref().unwrap_err();
            let retold = absent.retell(nothing.message(), target);
            assert_eq!(refused.message(), retold, "{what}");
            assert_eq!(refused.code(), nothing.code(), "{what}");
        }
    }
    // nor may one put something else under the name
    if allowed(role, Action::Publish) {
        let mut changed = requests;
        changed.begin_version = crate::model::Model::new(&target.name, 777).request;
        let outcome = call(platform, &caller.secret, &changed, "BeginVersion").await;
        assert_eq!(refused_with(&outcome), Some(ErrorId::ManifestRefused));
    }
}

/// What the catalogue lists for the caller, and whether a session begins.
async fn check_use(platform: &Platform, target: &Target, caller: &Caller, seen: bool, what: &str) {
    let Caller { role, secret, .. } = caller;
    if allowed(*role, Action::ReadCatalogue) {
        let list = v1::ListModelsRequest {
            page_size: 200,
            ..Default::default()
        };
        let answer = platform.catalogue().list_models(signed(secret, list)).await;
        let models = answer.unwrap().into_inner().models;
        let states = models.iter().filter(|listed| listed.name == target.name);
        let states: Vec<&str> = states.map(|listed| &*listed.state).collect();
        let expected: &[&str] = match seen {
            true => &["approved", "approved"],
            false => &[],
        };
        assert_eq!(states, expected, "{role} lists {what}");
    }
    for (version, may) in [
        ("".to_owned(), seen && allowed(*role, Action::Query)),
        (format!("@{}", target.waiting().version()), false),
        ("@stable".to_owned(), seen && allowed(*role, Action::Query)),
    ] {
        let model = format!("{}{version}", target.name).parse().unwrap();
        let session = platform.store().authorize_session(secret, &model).await;
        assert_eq!(session.is_ok(), may, "{role} queries {what} {version}");
    }
}
