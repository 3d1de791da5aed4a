//! The routing table as requests meet it, and their way through it (SEMANTICS section 2).

use std::net::IpAddr;

use super::Model;
use super::serving::{Claim, Member};

/// A claim as requests meet it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClaimView {
    pub domain: String,
    pub path: String,
    pub service: String,
    pub priority: i32,
    pub limit: Option<(u32, u64)>,
    pub hold: u64,
    /// Whether it is sticky, and what its guards ask: where it redirects to, who may, whom to ask, how long a body may be.
    pub guards: (bool, [Option<String>; 3], Option<u64>),
    pub held_until: Option<u64>,
    pub members: Vec<MemberView>,
}

/// A member as requests meet it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MemberView {
    pub instance: String,
    pub backend: String,
    pub peer: IpAddr,
    pub usable: bool,
    /// Since when it is drained, and for how long.
    pub drain: Option<(u64, u64)>,
    pub timeout: u64,
    /// websocket, preserve_host, compression, http2, strip_prefix
    pub flags: [bool; 5],
    pub weight: u64,
    pub headers: Vec<(String, String)>,
    pub breaker: Option<(u32, u64, u32)>,
    /// In maintenance, and with which page.
    pub maintenance: Option<Option<String>>,
}

impl Model {
    /// The whole routing table, in a fixed order.
    pub(crate) fn table(&self) -> Vec<ClaimView> {
        let mut views: Vec<ClaimView> = self.claims.iter().map(|claim| self.view(claim)).collect();
        views.sort_by(|a, b| (&a.domain, &a.path).cmp(&(&b.domain, &b.path)));
        views
    }

    fn view(&self, claim: &Claim) -> ClaimView {
        let members = claim.members.iter().map(|member| self.member_view(claim, member)).collect();
        ClaimView {
            domain: claim.domain.clone(),
            path: claim.path.clone(),
            service: claim.service.clone(),
            priority: claim.priority,
            limit: claim.limit,
            hold: claim.hold,
            guards: claim.guards.clone(),
            held_until: claim.until,
            members,
        }
    }

    fn member_view(&self, claim: &Claim, member: &Member) -> MemberView {
        let session = &self.sessions[member.session];
        let cells = self.cells(member);
        let mut headers = cells.headers.clone();
        headers.sort();
        MemberView {
            instance: session.instance.clone(),
            backend: member.backend.clone(),
            peer: session.peer,
            usable: self.usable(claim, member),
            drain: session.drain.map(|drain| (drain.since, drain.time)),
            timeout: cells.millis("timeout").unwrap_or(60_000),
            flags: [
                cells.flag("websocket", true),
                cells.flag("preserve_host", true),
                cells.flag("compression", false),
                cells.flag("http2", false),
                cells.flag("strip_prefix", false),
            ],
            weight: cells.number("weight").unwrap_or(100),
            headers,
            breaker: cells.breaker,
            maintenance: self.maintained(member).map(|entered| entered.page.clone()),
        }
    }

    /// The claim that a request is for: SEMANTICS section 2, sentence by sentence.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<(String, String)> {
        let host = host.to_lowercase();
        let host = host.split(':').next().unwrap_or_default();
        let mut hosts = vec![host.to_owned()];
        let mut rest = host;
        while let Some((_, suffix)) = rest.split_once('.') {
            hosts.push(format!("*.{suffix}"));
            rest = suffix;
        }
        for host in hosts {
            let fits = |claim: &&Claim| {
                let prefix = claim.path.trim_end_matches('/');
                claim.domain == host && (path == prefix || path.starts_with(&format!("{prefix}/")))
            };
            let best = self.claims.iter().filter(fits).max_by_key(|claim| (claim.priority, claim.path.len()));
            if let Some(claim) = best {
                return Some((claim.domain.clone(), claim.path.clone()));
            }
        }
        None
    }
}
