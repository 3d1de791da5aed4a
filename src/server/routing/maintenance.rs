//! What people see while nobody of a claim is usable and a member is in maintenance (SEMANTICS section 5).

use std::sync::Arc;

use super::{Claim, Member};

/// A member's maintenance.
#[derive(Debug, Clone)]
pub struct Maintenance {
    /// Where people get the page; `None`: the proxy has its own.
    pub page: Option<Arc<Member>>,
}

impl Claim {
    /// The maintenance that people see when no member is usable: the one of the member that joined last.
    pub fn maintenance(&self) -> Option<&Maintenance> {
        self.members.iter().rev().find_map(|member| member.terms.extras.maintenance())
    }
}
