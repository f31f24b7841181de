//! Queries that are answered.

use super::model::Model;
use super::platform::{EVALUATED, Options, Platform, metric};

#[tokio::test]
async fn encrypted_queries_answer_what_the_clear_twin_answers() {
    let models = [
        Model::light("on", 0b1111_0110),
        Model::light("off", 0b0000_1001),
    ];
    let platform = Platform::serving(Options::default(), &[&models[0], &models[1]]).await;
    for model in &models {
        let mut stream = platform.open(model).await;
        for query in 1..=3 {
            stream.ask(model, query).await;
        }
    }
    assert_eq!(metric(EVALUATED), 12, "two steps of six queries");
}

#[tokio::test]
#[should_panic(expected = "the twin says")]
async fn an_answer_of_another_model_is_not_taken_for_right() {
    let (on, off) = (
        Model::light("on", 0b1111_0110),
        Model::light("off", 0b0000_1001),
    );
    let platform = Platform::serving(Options::default(), &[&on]).await;
    let mut stream = platform.open(&on).await;
    let wrong = Model {
        version: on.version,
        key: on.key.clone(),
        ..off
    };
    stream.ask(&wrong, 1).await;
}
