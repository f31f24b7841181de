//! Nobody approves a version before its publisher has shown, by encrypted queries to the workers that
//! hold it, that it is what was trained.

use chemxor_client::keyring::Keyring;
use chemxor_client::placement::Spread;
use chemxor_client::{Access, Token, conformance, publish};
use chemxor_core::Bundle;

use crate::platform::Platform;

#[test]
fn a_version_whose_answers_are_not_those_of_its_weights_is_not_approved() {
    let platform = Platform::start(2);
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/esol.csv");
    let file = platform.path("esol.cxb").display().to_string();
    let train = ["train", "--input", data, "--name", "esol", "--epochs", "4"];
    platform.json(&[&train[..], &["--output", &file]].concat());
    let bundle = Bundle::from_bytes(&std::fs::read(&file).unwrap()).unwrap();
    platform.json(&["keys", "new", "--publisher"]);
    let ring = Keyring::open(&platform.path("keys")).unwrap();
    let signer = ring.signing_key("publisher", None).unwrap();
    let token = std::fs::read_to_string(platform.path("local/publisher.token")).unwrap();
    let access = |endpoint: &str| Access {
        token: Token::new(&token),
        ..platform.access(endpoint)
    };
    let registry = access(&platform.registry.as_ref().unwrap().address);
    let gateway = access(&platform.gateway.as_ref().unwrap().address);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime.block_on(async {
        let workers = publish::workers(&registry).await.unwrap();
        let spread = Spread::default();
        let published = publish::publish(&registry, &bundle, &signer, &workers, spread);
        assert_eq!(published.await.unwrap().state, "submitted");
        // the workers hold one model, the publisher believes in another: its outputs are moved
        let mut believed = bundle.manifest().clone();
        let half = 1u32 << (believed.graph.last().output_bits - 1);
        for known in &mut believed.known_answers {
            known.outputs[0].code ^= half;
        }
        let version = bundle.version();
        let predictor = conformance::predictor(&gateway, version, &believed).unwrap();
        let run = conformance::run(&predictor, version, |_| ()).await.unwrap();
        assert!(run.worst_permille > 1000, "{run:?}");
        conformance::record(&registry, &signer, &run).await
    });
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("CX-M11") && said.contains("twin"), "{said}");
    let said = platform.refusal(&["approve", "esol"]);
    assert!(said.contains("CX-M11"), "{said}");

    // the same command again goes on where publishing stopped
    let shown = platform.json(&["publish", &file]);
    let worst = shown["conformance"]["worst_permille"].as_u64().unwrap();
    assert!(worst <= 1000 && shown["uploaded_bytes"] == 0, "{shown}");

    // nobody needs the publisher's word for it: a reviewer asks before approving, a lab afterwards
    let said = platform.refusal(&["conform", "esol"]);
    assert!(said.contains("CX-M01"), "{said}");
    let seen = platform.json(&["conform", "esol", "--waiting"]);
    assert!(
        seen["conforms"] == true && seen["run"]["vectors"] == 16,
        "{seen}"
    );
    assert_eq!(platform.json(&["approve", "esol"])["state"], "approved");
    let seen = platform.json(&["conform", "esol"]);
    assert!(
        seen["conforms"] == true && seen["run"]["vectors"] == 16,
        "{seen}"
    );
}
