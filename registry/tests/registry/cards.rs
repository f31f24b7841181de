//! Model cards: bound to a version, signed with its key, checked on the way in, kept for ever.

use chemxor_core::{Assay, ErrorId, Manifest, ModelCard, sign_card};
use chemxor_proto::v1;
use ed25519_dalek::SigningKey;

use crate::api::{Api, Direct};
use crate::model::{Model, publisher_key, reference};
use crate::platform::{Platform, id};

/// A card that has nothing to mend.
pub(crate) fn card(model: &Model) -> ModelCard {
    let (manifest, version) = Manifest::from_bytes(&model.request.manifest).unwrap();
    let mut card = ModelCard::draft(&manifest, version);
    let text = || "shake flask at 25 °C".to_owned();
    card.contact = "models@acme.example".to_owned();
    card.assay = Assay {
        description: text(),
        species: "none".to_owned(),
        target: "none".to_owned(),
    };
    card.training_data.sources = vec![text()];
    card.training_data.licence = text();
    card.training_data.preparation = text();
    card.training_data.split = "scaffold".to_owned();
    card.applicability.description = text();
    card.intended_use.purpose = text();
    card.intended_use.out_of_scope = vec![text()];
    (card.metrics[0].low, card.metrics[0].high) = (0.9, 1.3);
    card
}

pub(crate) fn request(model: &Model, card: &ModelCard, key: &SigningKey) -> v1::SetCardRequest {
    let bytes = card.to_bytes().unwrap();
    v1::SetCardRequest {
        version: model.version(),
        signature: sign_card(key, &bytes).to_vec().into(),
        card: bytes.into(),
    }
}

async fn set(
    platform: &Platform,
    by: &str,
    request: v1::SetCardRequest,
) -> Result<v1::Card, ErrorId> {
    let answer = platform.cards().set_card(platform.by(by, request)).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| id(&status))
}

async fn get(platform: &Platform, by: &str, model: &str) -> Result<v1::Card, ErrorId> {
    let model = model.to_owned();
    let request = platform.by(by, v1::GetCardRequest { model });
    let answer = platform.cards().get_card(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| id(&status))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_is_signed_kept_in_revisions_and_seen_by_who_sees_the_model() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    platform.submit("paul", &model).await;
    let mut written = card(&model);
    let first = request(&model, &written, &publisher_key());
    let made = set(&platform, "paul", first.clone()).await.unwrap();
    assert_eq!((made.revision, &made.name[..]), (1, "esol"));
    let again = set(&platform, "paul", first.clone()).await.unwrap();
    assert_eq!(again.revision, 1, "the same again is no revision");
    written.contact = "other@acme.example".to_owned();
    let second = request(&model, &written, &publisher_key());
    assert_eq!(
        set(&platform, "paul", second.clone())
            .await
            .unwrap()
            .revision,
        2
    );

    // as with the version: before approval only its publisher and those who review
    let exact = reference("esol", &model.version());
    assert_eq!(
        get(&platform, "quinn", &exact).await.unwrap_err(),
        ErrorId::ModelUnknown
    );
    assert_eq!(get(&platform, "rita", &exact).await.unwrap().revision, 2);
    Direct(&platform).approve("rita", "esol").await.unwrap();
    let read = get(&platform, "quinn", "esol").await.unwrap();
    assert_eq!(read.card, second.card);
    let key = publisher_key().verifying_key().to_bytes();
    assert_eq!(read.publisher_key, key.as_slice());
    chemxor_core::verify_card(&key, &read.card, &read.signature).unwrap();

    let changes = [
        "update cards set card = 'x'",
        "delete from cards where revision = 1",
    ];
    for statement in changes {
        let refused = platform.database.execute(statement).await.unwrap_err();
        assert!(refused.contains("append only"), "{refused}");
    }
    Direct(&platform).revoke("adam", &exact).await.unwrap();
    let late = set(&platform, "paul", first).await.unwrap_err();
    assert_eq!(late, ErrorId::WrongState);
    assert_eq!(get(&platform, "quinn", &exact).await.unwrap().revision, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_is_wrong_unsigned_or_of_somebody_else_is_refused() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let (model, other) = (Model::new("esol", 1), Model::new("esol", 2));
    platform.submit("paul", &model).await;
    platform.submit("paul", &other).await;
    let good = card(&model);
    let change = |change: fn(&mut ModelCard)| {
        let mut card = card(&model);
        change(&mut card);
        request(&model, &card, &publisher_key())
    };
    let mut changed = request(&model, &good, &publisher_key());
    changed.card = [&changed.card[..], b" "].concat().into();
    let foreign = request(&model, &good, &SigningKey::from_bytes(&[9; 32]));
    let mut moved = request(&model, &good, &publisher_key());
    moved.version = other.version();
    let mut no_json = foreign.clone();
    no_json.card = b"{".to_vec().into();
    for (name, bad) in [
        ("changed after signing", changed),
        ("foreign key", foreign),
        ("of another version", moved),
        ("no JSON", no_json),
        (
            "unfinished",
            change(|card| card.contact = "TODO".to_owned()),
        ),
        ("contradicts", change(|card| card.unit = "mg/L".to_owned())),
        ("leaks more", change(|card| card.leakage.bits_per_query = 1)),
    ] {
        let refused = set(&platform, "paul", bad).await.unwrap_err();
        assert_eq!(refused, ErrorId::CardRefused, "{name}");
    }
    let card = request(&model, &good, &publisher_key());
    let pia = set(&platform, "pia", card.clone()).await.unwrap_err();
    assert_eq!(pia, ErrorId::RoleMissing, "another publisher");
    let exact = reference("esol", &model.version());
    assert_eq!(
        get(&platform, "paul", &exact).await.unwrap_err(),
        ErrorId::CardMissing
    );
    let mut long = card;
    long.card = vec![b' '; (256 << 10) + 1].into();
    let refused = set(&platform, "paul", long).await.unwrap_err();
    assert_eq!(refused, ErrorId::ArgumentInvalid);
}
