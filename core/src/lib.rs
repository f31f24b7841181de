//! Pure domain types that every party shares: ids, the model manifest and its step graph, the
//! lifecycle of a version, roles, and the closed set of error ids.
//!
//! Invariant: no I/O, no clock, no randomness, no async runtime. Text from outside becomes a domain
//! type here, once, or is refused with an error that names the input.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod audit;
mod bundle;
mod card;
mod conformance;
mod error_id;
mod frames;
mod graph;
mod ids;
mod known_answers;
mod lifecycle;
mod manifest;
mod reply;
mod reply_shape;
mod roles;
mod signing;
mod text;

pub use audit::{
    AuditLine, AuditRow, AuditSummary, ChainError, ChainVerifier, Checkpoint, verify_export,
};
pub use bundle::{Bundle, BundleError};
pub use card::{
    Applicability, Assay, CARD_FORMAT, CardError, CardMetric, EncryptedFigures, Finding,
    IntendedUse, LeakageBudget, MAX_CARD_BYTES, ModelCard, PrivacyAudit, Severity, TODO,
    TrainingData,
};
pub use conformance::{
    CONFORMANCE_FORMAT, Conformance, ConformanceError, LEAST_VECTORS, MAX_CONFORMANCE_BYTES,
    check_known_answers, check_rings,
};
pub use error_id::ErrorId;
pub use frames::{FrameError, Reassembler};
pub use graph::{
    Conv2d, Expansion, Geometry, GraphError, Grid, Monomials, RingName, RingStatement, StepGraph,
    StepKind, StepSpec,
};
pub use ids::{
    AliasName, BlobDigest, IdError, ModelName, ModelRef, OrganisationName, Selector, VersionId,
    WorkerName,
};
pub use known_answers::{ExpectedCode, KnownAnswer, MAX_KNOWN_ANSWERS, code_offset, widest};
pub use lifecycle::{Event, LifecycleError, State};
pub use manifest::{
    ApplicabilityDomain, BlobRef, DataFingerprint, DescriptorScaling, DifferentialPrivacy,
    Featuriser, MANIFEST_FORMAT, Manifest, ManifestError, MembershipInference, Metrics,
    OutputScaling, PrivacyStatement, Standardisation, Task,
};
pub use reply::{JoinError, REPLY_HEAD, join_replies, reply_groups, reply_header};
pub use reply_shape::ReplyShape;
pub use roles::{Action, Reach, Role, RoleSet, allowed, reach};
pub use signing::{
    SignatureError, sign_approval, sign_card, sign_checkpoint, sign_conformance, sign_manifest,
    verify_approval, verify_card, verify_checkpoint, verify_conformance, verify_manifest,
};
pub use text::is_visible;
