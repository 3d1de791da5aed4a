//! Each operation against real etcd of both versions.

#[expect(clippy::duplicate_mod, reason = "a library has no place for what only its unit tests share")]
#[path = "../tests/support/etcd.rs"]
mod support;

use super::*;
use support::{Etcd as Program, Version};

fn kv(program: &Program) -> Kv {
    Kv::new(Config::new([program.endpoint()])).unwrap()
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.to_owned(), value: value.into(), lease: 0 }
}

fn then(ops: Vec<Op>) -> Transaction {
    Transaction { then: ops, ..Transaction::default() }
}

/// An answer that got lost tells nothing, so the same transaction must not do its work twice.
async fn a_transaction_that_counts_itself_is_made_once(version: Version) {
    let program = Program::start(version);
    let kv = kv(&program);
    let counted = |version, value| Transaction {
        when: vec![Compare::Version { key: "/a/count".to_owned(), version }],
        then: vec![put("/a/count", ""), put("/a/value", value)],
        otherwise: vec![Op::Get { key: "/a/count".to_owned() }, Op::Get { key: "/a/none".to_owned() }],
    };
    let first = kv.transact(&counted(0, "one")).await.unwrap();
    assert!(first.succeeded && first.found.is_empty());
    let again = kv.transact(&counted(0, "one")).await.unwrap();
    let [Some(count), None] = &again.found[..] else { panic!("{again:?}") };
    assert!(!again.succeeded && count.version == 1 && count.modified == first.revision, "{again:?}");
    assert!(kv.transact(&counted(1, "two")).await.unwrap().succeeded);
    assert_eq!(program.value("/a/value"), "two");
}

async fn a_watch_tells_all_of_a_revision_at_once(version: Version) {
    let program = Program::start(version);
    let kv = kv(&program);
    // More than a message may have by default, in one revision.
    let long = "x".repeat(1 << 20);
    let first = kv.transact(&then(vec![put("/a/1", &long)])).await.unwrap().revision;
    for key in ["/a/2", "/a/3", "/a/4", "/a/5"] {
        kv.transact(&then(vec![put(key, &long)])).await.unwrap();
    }
    let last = kv.transact(&then(vec![Op::DeleteBelow { prefix: "/a/".to_owned() }, put("/b/1", "")])).await;
    let last = last.unwrap().revision;
    let mut watch = kv.watch("/a/", first).await.unwrap();
    for revision in first..last {
        let revised = watch.next().await.unwrap();
        assert_eq!((revised.revision, revised.events.len()), (revision, 1));
    }
    let revised = watch.next().await.unwrap();
    assert_eq!((revised.revision, revised.events.len()), (last, 5));
    assert_eq!(revised.events[0], Event::Deleted { key: "/a/1".to_owned() });
}

async fn groups_carry_more_operations_than_a_transaction(version: Version) {
    let program = Program::start(version);
    let kv = kv(&program);
    let group = |number: i32| {
        Op::Group((0..60).map(|other| put(&format!("/a/{number:02}/{other:02}"), "")).collect())
    };
    let answer = kv.transact(&then((0..60).map(group).collect())).await.unwrap();
    let query = Query { prefix: "/a/", after: None, limit: 4000, revision: None };
    let page = kv.page(query).await.unwrap();
    assert_eq!((page.entries.len(), page.more), (3600, false));
    assert!(page.entries.iter().all(|entry| entry.modified == answer.revision));
    let flat = (0..200).map(|number| put(&format!("/b/{number}"), "")).collect();
    assert!(matches!(kv.transact(&then(flat)).await, Err(Fault::Refused(_))));
}

async fn pages_are_of_one_revision_until_it_is_compacted(version: Version) {
    let program = Program::start(version);
    let kv = kv(&program);
    for key in ["/a/1", "/a/2", "/a/3", "/b/4"] {
        kv.transact(&then(vec![put(key, "old")])).await.unwrap();
    }
    let query = Query { prefix: "/a/", after: None, limit: 2, revision: None };
    let first = kv.page(query).await.unwrap();
    assert_eq!((first.entries.len(), first.more), (2, true));
    kv.transact(&then(vec![put("/a/3", "new")])).await.unwrap();
    let rest = Query { after: Some("/a/2"), revision: Some(first.revision), ..query };
    let second = kv.page(rest).await.unwrap();
    assert_eq!((second.entries.len(), second.more, second.revision), (1, false, first.revision));
    assert_eq!(second.entries[0].value, b"old");
    program.ctl(&["compact", &(first.revision + 1).to_string()]);
    assert_eq!(kv.page(rest).await, Err(Fault::Compacted));
    let mut watch = kv.watch("/a/", first.revision).await.unwrap();
    assert_eq!(watch.next().await, Err(Fault::Compacted));
}

macro_rules! stories {
    ($($name:ident)+) => {
        mod etcd_3_4 { $(#[tokio::test] async fn $name() { super::$name(super::Version::V3_4).await })+ }
        mod etcd_3_5 { $(#[tokio::test] async fn $name() { super::$name(super::Version::V3_5).await })+ }
    };
}

stories! {
    a_transaction_that_counts_itself_is_made_once
    a_watch_tells_all_of_a_revision_at_once
    groups_carry_more_operations_than_a_transaction
    pages_are_of_one_revision_until_it_is_compacted
}
