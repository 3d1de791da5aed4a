//! Claims and members for tests.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::{Claim, Extras, Hold, Member, MemberId, Settings};

pub(super) fn member(id: u64) -> Arc<Member> {
    Arc::new(Member {
        id: MemberId(id),
        instance: format!("web-{id}").parse().unwrap(),
        backend: format!("http://10.2.2.{id}:8080").parse().unwrap(),
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        settings: Settings::default(),
        extras: Extras::default(),
        usable: true,
        drain: None,
        load: Arc::default(),
    })
}

pub(super) fn unusable(id: u64) -> Arc<Member> {
    Arc::new(Member { usable: false, ..(*member(id)).clone() })
}

pub(super) fn claim(domain: &str, path: &str, priority: i32) -> Claim {
    Claim {
        domain: domain.parse().unwrap(),
        path: path.parse().unwrap(),
        service: "web".parse().unwrap(),
        priority,
        hold: Hold::default(),
        draining: false,
        limit: None,
        members: vec![member(1)],
    }
}
