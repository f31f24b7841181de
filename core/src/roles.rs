//! Who may do what: one table, deny by default.

use std::fmt;
use std::str::FromStr;

/// A role that a token or a certificate carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Runs the platform.
    Admin,
    /// Runs one organisation: its members, tokens and models.
    OrgAdmin,
    /// Uploads models.
    Publisher,
    /// Approves what others of the organisation publish.
    Reviewer,
    /// Queries models.
    Querier,
    /// Reads the platform's audit log.
    Auditor,
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
    /// Visibility, aliases and deprecation of a model.
    ManageModels,
    /// Limits that a model's owner sets for an organisation.
    ManageQuotas,
    /// Make, list or revoke tokens.
    ManageTokens,
    /// Members and service accounts of an organisation.
    ManageMembers,
    /// Organisations and consortia.
    ManageOrganisations,
    /// Deny certificates.
    ManageCertificates,
    /// Export the audit log.
    ReadAudit,
    /// Open a query session.
    Query,
    /// Announce a worker and fetch its partitions.
    ServePartitions,
    /// Authorise and meter sessions on behalf of clients.
    RouteSessions,
}

/// How far a right goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reach {
    /// Not at all.
    Nothing,
    /// What belongs to the caller's organisation.
    Own,
    /// Every organisation.
    Platform,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 8] = [
        Self::Admin,
        Self::OrgAdmin,
        Self::Publisher,
        Self::Reviewer,
        Self::Querier,
        Self::Auditor,
        Self::Worker,
        Self::Gateway,
    ];

    /// The stored name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::OrgAdmin => "org-admin",
            Self::Publisher => "publisher",
            Self::Reviewer => "reviewer",
            Self::Querier => "querier",
            Self::Auditor => "auditor",
            Self::Worker => "worker",
            Self::Gateway => "gateway",
        }
    }

    /// Whether people and programs may get it in a token; the others come from certificates only.
    pub fn is_token_role(self) -> bool {
        !matches!(self, Self::Worker | Self::Gateway)
    }

    /// Whether it reaches past one organisation, so that only a platform administrator grants it.
    pub fn is_platform_role(self) -> bool {
        matches!(self, Self::Admin | Self::Auditor)
    }
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 15] = [
        Self::ReadCatalogue,
        Self::ListWorkers,
        Self::Publish,
        Self::Approve,
        Self::Revoke,
        Self::ManageModels,
        Self::ManageQuotas,
        Self::ManageTokens,
        Self::ManageMembers,
        Self::ManageOrganisations,
        Self::ManageCertificates,
        Self::ReadAudit,
        Self::Query,
        Self::ServePartitions,
        Self::RouteSessions,
    ];

    /// Whether it is about models, so that a token narrowed to some of them may do it for those. The
    /// rest is about a whole organisation or the platform.
    pub fn is_of_models(self) -> bool {
        !matches!(
            self,
            Self::ManageTokens
                | Self::ManageMembers
                | Self::ManageOrganisations
                | Self::ManageCertificates
                | Self::ReadAudit
        )
    }
}

/// The table. What is not here is denied.
pub fn reach(role: Role, action: Action) -> Reach {
    use Action as A;
    use Reach::{Nothing, Own, Platform};
    match (role, action) {
        (
            Role::Admin,
            A::ReadCatalogue
            | A::ListWorkers
            | A::Approve
            | A::Revoke
            | A::ManageModels
            | A::ManageQuotas
            | A::ManageTokens
            | A::ManageMembers
            | A::ManageOrganisations
            | A::ManageCertificates
            | A::ReadAudit,
        ) => Platform,
        (
            Role::OrgAdmin,
            A::ReadCatalogue
            | A::ListWorkers
            | A::Revoke
            | A::ManageModels
            | A::ManageQuotas
            | A::ManageTokens
            | A::ManageMembers,
        ) => Own,
        (Role::Publisher, A::ReadCatalogue | A::ListWorkers | A::Publish | A::ManageModels) => Own,
        (Role::Reviewer, A::ReadCatalogue | A::Approve) => Own,
        (Role::Querier, A::ReadCatalogue | A::Query) => Own,
        (Role::Auditor, A::ReadAudit) => Platform,
        (Role::Worker, A::ServePartitions) => Platform,
        (Role::Gateway, A::RouteSessions) => Platform,
        _ => Nothing,
    }
}

/// Whether the role may do it at all.
pub fn allowed(role: Role, action: Action) -> bool {
    reach(role, action) != Reach::Nothing
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
        self.reach(action) != Reach::Nothing
    }

    /// How far the roles together reach.
    pub fn reach(&self, action: Action) -> Reach {
        let reaches = self.0.iter().map(|role| reach(*role, action));
        reaches.max().unwrap_or(Reach::Nothing)
    }

    /// Whether the role is among them.
    pub fn contains(&self, role: Role) -> bool {
        self.0.contains(&role)
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
#[error("unknown role {0:?}: expected admin, org-admin, publisher, reviewer, querier or auditor")]
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
    fn only_platform_roles_and_services_reach_past_their_organisation() {
        for role in Role::ALL {
            let far = Action::ALL.map(|action| reach(role, action) == Reach::Platform);
            let may = role.is_platform_role() || !role.is_token_role();
            assert_eq!(far.contains(&true), may, "{role}");
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
    fn what_is_about_people_or_the_platform_is_not_about_models() {
        for action in [
            Action::ManageTokens,
            Action::ManageMembers,
            Action::ReadAudit,
        ] {
            assert!(!action.is_of_models(), "{action:?}");
        }
        for action in [Action::Query, Action::Publish, Action::ManageQuotas] {
            assert!(action.is_of_models(), "{action:?}");
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
