//! Who may do what: one table, deny by default.

use std::fmt;
use std::str::FromStr;

/// A role that a token or a certificate carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Runs the platform.
    Admin,
    /// Uploads models.
    Publisher,
    /// Approves what others publish.
    Reviewer,
    /// Queries models.
    Querier,
    /// A partition worker, known by its certificate.
    Worker,
    /// A gateway, known by its certificate.
    Gateway,
}

/// Something that a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read the catalogue.
    ReadCatalogue,
    /// List the workers that may be authorised.
    ListWorkers,
    /// Create, upload and submit a version.
    Publish,
    /// Approve a submitted version.
    Approve,
    /// Revoke a version.
    Revoke,
    /// Make or revoke tokens.
    ManageTokens,
    /// Open a query session.
    Query,
    /// Announce a worker and fetch its partitions.
    ServePartitions,
    /// Authorise sessions on behalf of clients.
    RouteSessions,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [
        Self::Admin,
        Self::Publisher,
        Self::Reviewer,
        Self::Querier,
        Self::Worker,
        Self::Gateway,
    ];

    /// The stored name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Publisher => "publisher",
            Self::Reviewer => "reviewer",
            Self::Querier => "querier",
            Self::Worker => "worker",
            Self::Gateway => "gateway",
        }
    }

    /// Whether people and programs may get it in a token; the others come from certificates only.
    pub fn is_token_role(self) -> bool {
        !matches!(self, Self::Worker | Self::Gateway)
    }
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 9] = [
        Self::ReadCatalogue,
        Self::ListWorkers,
        Self::Publish,
        Self::Approve,
        Self::Revoke,
        Self::ManageTokens,
        Self::Query,
        Self::ServePartitions,
        Self::RouteSessions,
    ];
}

/// The table. What is not here is denied.
pub fn allowed(role: Role, action: Action) -> bool {
    use Action as A;
    match role {
        Role::Admin => {
            matches!(
                action,
                A::ReadCatalogue | A::ListWorkers | A::Approve | A::Revoke | A::ManageTokens
            )
        }
        Role::Publisher => matches!(action, A::ReadCatalogue | A::ListWorkers | A::Publish),
        Role::Reviewer => matches!(action, A::ReadCatalogue | A::Approve),
        Role::Querier => matches!(action, A::ReadCatalogue | A::Query),
        Role::Worker => matches!(action, A::ServePartitions),
        Role::Gateway => matches!(action, A::RouteSessions),
    }
}

/// The roles of one caller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleSet(Vec<Role>);

impl RoleSet {
    /// From any collection; order and repeats do not matter.
    pub fn new(roles: impl IntoIterator<Item = Role>) -> Self {
        let mut roles: Vec<Role> = roles.into_iter().collect();
        roles.sort_unstable();
        roles.dedup();
        Self(roles)
    }

    /// Whether one of the roles allows the action.
    pub fn allows(&self, action: Action) -> bool {
        self.0.iter().any(|role| allowed(*role, action))
    }

    /// The roles, sorted.
    pub fn iter(&self) -> impl Iterator<Item = Role> + '_ {
        self.0.iter().copied()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A role that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown role {0:?}: expected admin, publisher, reviewer or querier")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;
    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UnknownRole(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_who_publishes_or_queries_governs() {
        for role in [Role::Publisher, Role::Querier, Role::Worker, Role::Gateway] {
            for action in [Action::Approve, Action::Revoke, Action::ManageTokens] {
                assert!(!allowed(role, action), "{role} {action:?}");
            }
        }
    }

    #[test]
    fn every_action_has_somebody_and_no_role_has_all() {
        for action in Action::ALL {
            assert!(
                Role::ALL.into_iter().any(|role| allowed(role, action)),
                "{action:?}"
            );
        }
        for role in Role::ALL {
            assert!(
                !Action::ALL.into_iter().all(|action| allowed(role, action)),
                "{role}"
            );
        }
    }

    #[test]
    fn only_certificates_make_services() {
        for role in Role::ALL.into_iter().filter(|role| role.is_token_role()) {
            assert!(
                !allowed(role, Action::ServePartitions) && !allowed(role, Action::RouteSessions)
            );
        }
    }
}
