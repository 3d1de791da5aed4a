//! Each question against real etcd: what another client did in between decides, not what we knew before.

#[path = "../tests/support/etcd.rs"]
mod support;

use super::*;
use support::{Etcd as Program, Version};

const KEY: &str = "/services/web/n1";
const TTL: Duration = Duration::from_secs(60);
const LEASE: i64 = 0x4242_4242;

fn etcd(program: &Program) -> Etcd {
    Etcd::new(Config::new([program.endpoint()])).unwrap()
}

async fn claimed(etcd: &Etcd) -> i64 {
    etcd.grant(LEASE, TTL).await.unwrap();
    match etcd.claim(KEY, "{}", LEASE).await.unwrap() {
        Claimed::Now { revision } => revision,
        found => panic!("{found:?}"),
    }
}

/// Its watch has told it nothing yet, so it still takes the key for its own.
async fn withdrawing_or_writing_late_leaves_a_successor_alone(version: Version) {
    let program = Program::start(version);
    let etcd = etcd(&program);
    let created = claimed(&etcd).await;
    let lease = program.lease(60);
    program.ctl(&["put", &format!("--lease={lease}"), KEY, r#"{"version":"2"}"#]);
    assert_eq!(etcd.write(KEY, "{}", LEASE, created).await, Ok(false));
    etcd.withdraw(KEY, LEASE, Some(created)).await.unwrap();
    assert_eq!(program.value(KEY), r#"{"version":"2"}"#);

    // The same where the key was deleted and put again under our own lease.
    program.ctl(&["del", KEY]);
    etcd.grant(LEASE, TTL).await.unwrap();
    etcd.claim(KEY, "{}", LEASE).await.unwrap();
    assert_eq!(etcd.write(KEY, "late", LEASE, created).await, Ok(false));
}

async fn asking_twice_grants_one_lease(version: Version) {
    let program = Program::start(version);
    let etcd = etcd(&program);
    assert_eq!(etcd.grant(LEASE, TTL).await, Ok(TTL));
    assert_eq!(etcd.grant(LEASE, TTL).await, Err(Fault::LeaseExists));
    etcd.renew(LEASE, TTL).await.unwrap();
    etcd.withdraw(KEY, LEASE, None).await.unwrap();
    // It is gone, which is what was wanted.
    etcd.withdraw(KEY, LEASE, None).await.unwrap();
    assert_eq!(etcd.renew(LEASE, TTL).await, Err(Fault::LeaseLost));
    assert_eq!(etcd.claim(KEY, "{}", LEASE).await, Err(Fault::LeaseLost));
}

async fn compacted_history_is_told_from_other_faults(version: Version) {
    let program = Program::start(version);
    let etcd = etcd(&program);
    let created = claimed(&etcd).await;
    (0..5).for_each(|_| drop(program.ctl(&["put", "/services/web/n2", "{}"])));
    program.ctl(&["compact", &(created + 4).to_string()]);
    let mut watch = etcd.watch(Keys::Below("/services/web/"), created).await.unwrap();
    assert_eq!(watch.next().await, Err(Fault::Compacted));
    let page = etcd.page("/services/web/", Some("/services/web/n1"), Some(created)).await;
    assert_eq!(page, Err(Fault::Compacted));
}

macro_rules! stories {
    ($($name:ident)+) => {
        mod etcd_3_4 { $(#[tokio::test] async fn $name() { super::$name(super::Version::V3_4).await })+ }
        mod etcd_3_5 { $(#[tokio::test] async fn $name() { super::$name(super::Version::V3_5).await })+ }
    };
}

stories! {
    withdrawing_or_writing_late_leaves_a_successor_alone
    asking_twice_grants_one_lease
    compacted_history_is_told_from_other_faults
}
