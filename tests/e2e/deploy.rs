//! The sample configurations are read by the services' own types.

use std::path::Path;

fn sample<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn sample_configurations_parse() {
    let registry: chemxor_registry::RegistryConfig = sample("registry.toml");
    assert_ne!(registry.listen.port(), 0);
    let gateway: chemxor_gateway::GatewayConfig = sample("gateway.toml");
    assert!(gateway.registry.contains(':'));
    let worker: chemxor_worker::WorkerConfig = sample("worker.toml");
    assert!(worker.sealing_key.is_absolute());
}
