//! The lifecycle of a version on the store: whatever anybody asks for, in whatever order, the state,
//! the refusal and the audit log are those of a small model.

use std::collections::BTreeSet;

use chemxor_core::{ErrorId, Event, Role, RoleSet, State};
use chemxor_registry::store::Caller;

use crate::api::{Api, Direct};
use crate::model::{Model, conformance, reference};
use crate::platform::Platform;

/// Who asks: all but the last belong to the organisation that publishes.
const ACTORS: [&str; 7] = ["paul", "petra", "pia", "rita", "adam", "quinn", "stranger"];

/// What somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ask {
    Move(Event),
    Record,
}

const ASKS: [Ask; 5] = [
    Ask::Move(Event::Submit),
    Ask::Record,
    Ask::Move(Event::Approve),
    Ask::Move(Event::Deprecate),
    Ask::Move(Event::Revoke),
];

/// What is known of a version.
struct Version {
    publisher: &'static str,
    state: State,
    conforms: bool,
}

impl Version {
    /// The rules, told once more and without a table.
    fn ask(&mut self, who: &str, ask: Ask) -> Result<(), ErrorId> {
        let publishes = matches!(who, "paul" | "petra" | "pia" | "stranger");
        let reviews = matches!(who, "petra" | "rita" | "adam" | "stranger");
        let governs = matches!(who, "adam" | "stranger");
        let may = match ask {
            Ask::Record | Ask::Move(Event::Submit) => publishes,
            Ask::Move(Event::Approve) => reviews,
            Ask::Move(Event::Deprecate) => publishes || governs,
            Ask::Move(Event::Revoke) => governs,
        };
        if !may {
            return Err(ErrorId::RoleMissing);
        }
        if who == "stranger" {
            return Err(ErrorId::ModelUnknown);
        }
        let own = who == self.publisher;
        if ask == Ask::Record && !own {
            return Err(ErrorId::RoleMissing);
        }
        let next = match (self.state, ask) {
            (State::Submitted, Ask::Record) => State::Submitted,
            (State::Draft, Ask::Move(Event::Submit)) => State::Submitted,
            (State::Submitted, Ask::Move(Event::Approve)) => State::Approved,
            (State::Approved, Ask::Move(Event::Deprecate)) => State::Deprecated,
            (State::Draft | State::Revoked, Ask::Move(Event::Revoke)) => {
                return Err(ErrorId::WrongState);
            }
            (_, Ask::Move(Event::Revoke)) => State::Revoked,
            _ => return Err(ErrorId::WrongState),
        };
        match ask {
            Ask::Move(Event::Submit) if !own => return Err(ErrorId::RoleMissing),
            Ask::Move(Event::Approve) if own => return Err(ErrorId::SelfApproval),
            Ask::Move(Event::Approve) if !self.conforms => return Err(ErrorId::NotConformant),
            Ask::Record => self.conforms = true,
            Ask::Move(_) => {}
        }
        self.state = next;
        Ok(())
    }
}

/// The same numbers at every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

fn caller(platform: &Platform, who: &str) -> Caller {
    match who {
        "stranger" => {
            let roles = [Role::OrgAdmin, Role::Publisher, Role::Reviewer];
            Caller::new("strangers", "paul", RoleSet::new(roles))
        }
        who => platform.caller(who),
    }
}

async fn ask(platform: &Platform, who: &str, of: &str, ask: Ask) -> Result<(), ErrorId> {
    let (store, caller) = (platform.store(), caller(platform, who));
    let version = of.parse().unwrap();
    let done = match ask {
        Ask::Move(event) => {
            let moved = store.transition(&caller, &version, event, "", None).await;
            moved.map(drop)
        }
        Ask::Record => {
            let (report, signature) = conformance(of);
            let recorded = store.record_conformance(&caller, &version, &report, &signature);
            recorded.await
        }
    };
    done.map_err(|error| error.id())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_sequence_of_actors_and_events_ends_as_the_model_says() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let (api, adam) = (Direct(&platform), platform.caller("adam"));
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut states, mut refusals) = (BTreeSet::new(), BTreeSet::new());
    for walk in 0..12 {
        let publisher = ACTORS[walk % 2];
        // a name has one publisher
        let name = ["esol", "logd"][walk % 2];
        let model = Model::new(name, 10 * walk as u64);
        let (text, exact) = (model.version(), reference(name, &model.version()));
        let exact = exact.parse().unwrap();
        api.begin(publisher, &model.request).await.unwrap();
        for (step, blob) in model.blobs.iter().enumerate() {
            let sha256 = model.sha256(step);
            let stored = api.upload(publisher, &text, &sha256, 0, blob);
            stored.await.unwrap();
        }
        let mut version = Version {
            publisher,
            state: State::Draft,
            conforms: false,
        };
        let rows = "select count(*) from audit";
        let mut audited = platform.database.number(rows).await;
        let mut told = Vec::new();
        for _ in 0..60 {
            let who = ACTORS[dice.below(ACTORS.len())];
            let what = ASKS[dice.below(ASKS.len())];
            let expected = version.ask(who, what);
            let outcome = ask(&platform, who, &text, what).await;
            told.push((who, what));
            assert_eq!(outcome, expected, "of {publisher}: {told:?}");
            audited += i64::from(outcome.is_ok());
            let row = platform.store().find_version(&adam, &exact).await.unwrap();
            assert_eq!(row.state, version.state, "of {publisher}: {told:?}");
            let now = platform.database.number(rows).await;
            assert_eq!(now, audited, "a row for what was done: {told:?}");
            states.insert(version.state.as_str());
            refusals.extend(outcome.err().map(|id| id.to_string()));
        }
    }
    assert_eq!(states.len(), 5, "every state was reached: {states:?}");
    let every = [
        ErrorId::RoleMissing,
        ErrorId::ModelUnknown,
        ErrorId::WrongState,
        ErrorId::SelfApproval,
        ErrorId::NotConformant,
    ];
    assert_eq!(refusals, every.map(|id| id.to_string()).into());
    assert!(platform.store().verify_audit().await.unwrap().is_ok());
}
