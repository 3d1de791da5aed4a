//! Claims and members for tests.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::{Claim, Endpoint, Extras, Hold, Member, MemberId, Settings, Terms};

pub(super) fn terms(instance: &str, priority: i32) -> Arc<Terms> {
    Arc::new(Terms {
        service: "web".parse().unwrap(),
        instance: instance.parse().unwrap(),
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        priority,
        hold: Duration::ZERO,
        settings: Settings::default(),
        extras: Extras::default(),
        drain: None,
    })
}

pub(super) fn member(id: u64) -> Member {
    let backend = format!("http://10.2.2.{id}:8080").parse().unwrap();
    Member {
        endpoint: Arc::new(Endpoint::new(MemberId(id), backend)),
        terms: terms(&format!("web-{id}"), 10),
        route: Arc::default(),
        usable: true,
    }
}

pub(super) fn unusable(id: u64) -> Member {
    Member { usable: false, ..member(id) }
}

pub(super) fn claim(domain: &str, path: &str, priority: i32) -> Claim {
    Claim {
        owns_host: false,
        domain: domain.parse().unwrap(),
        path: path.parse().unwrap(),
        terms: terms("web-1", priority),
        limit: None,
        hold: Hold::default(),
        members: vec![member(1)].into(),
    }
}
