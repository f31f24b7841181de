//! The contract between the parties: messages and, behind the `grpc` feature, service stubs.
//!
//! The `.proto` files under `chemxor/v1` are the source; each RPC's comment lists its status codes
//! and who may retry. This crate holds no logic but the limits that every decoder applies.

/// Largest payload in one frame of a stream, in bytes.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// Largest gRPC message accepted by any of our services: a frame and its envelope.
pub const MAX_MESSAGE_BYTES: usize = MAX_FRAME_BYTES + (1 << 16);

/// Largest step message, reassembled from its chunks, in bytes.
pub const MAX_STEP_BYTES: usize = 64 << 20;

/// Largest set of public keys, in bytes.
pub const MAX_PUBLIC_KEYS_BYTES: usize = 1 << 20;

/// Largest manifest, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;

/// Largest sealed state, in bytes.
pub const MAX_SEALED_STATE_BYTES: usize = 1 << 20;

/// Largest encrypted weight blob, in bytes.
pub const MAX_BLOB_BYTES: u64 = 256 << 20;

/// Version of the session protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Pseudo step number of the state key in [`v1::SealedKey`].
pub const STATE_KEY_STEP: u32 = u32::MAX;

/// The `.proto` files as an encoded `FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Most workers that share a step.
pub const MAX_SHARES: usize = 64;

/// Messages and services of version 1.
#[allow(
    missing_docs,
    clippy::all,
    clippy::large_futures,
    unused_qualifications,
    unreachable_pub
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/chemxor.v1.rs"));
}
