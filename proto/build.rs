//! Generates message types (always) and service stubs (behind the `grpc` feature) with protox, so
//! that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "chemxor/v1/query.proto",
        "chemxor/v1/worker.proto",
        "chemxor/v1/registry.proto",
        "chemxor/v1/admin.proto",
        "chemxor/v1/cards.proto",
        "chemxor/v1/certificates.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    // for reflection
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(out, prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".")
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
