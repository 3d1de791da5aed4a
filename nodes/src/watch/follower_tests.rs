use std::fmt::Write as _;

use super::*;
use crate::layout::{BasePath, Layout};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn follower() -> Follower {
    let base: BasePath = "/s".parse().unwrap();
    Follower::new(base.service("web", Layout::Services).unwrap(), secs(10), 3)
}

fn record(name: &str, value: &str) -> Record {
    Record { key: format!("/s/web/{name}"), value: value.as_bytes().to_vec(), lease: 1, created: 1 }
}

fn page(names: &[&str], more: bool) -> Input {
    Input::Page(Page { records: names.iter().map(|name| record(name, "{}")).collect(), revision: 10, more })
}

fn changed(changes: Vec<Change>, revision: i64) -> Input {
    Input::Changed { changes, revision }
}

fn listening() -> Follower {
    let mut follower = follower();
    follower.on(page(&["a", "b"], false), secs(1));
    follower.on(Input::Opened, secs(1));
    follower
}

fn names(follower: &Follower) -> String {
    follower.view().snapshot.map_or("-".to_owned(), |snapshot| {
        let names: Vec<&str> = snapshot.nodes.keys().map(String::as_str).collect();
        format!("{}@{}", names.join(","), snapshot.revision)
    })
}

#[test]
fn every_phase_answers_every_input() {
    let inputs = || {
        vec![
            Input::Waited,
            page(&["c"], false),
            page(&["c"], true),
            Input::Opened,
            changed(vec![Change::Put(record("c", "{}")), Change::Gone("/s/web/a".to_owned())], 12),
            Input::Failed(Fault::Compacted),
            Input::Failed(Fault::Away(Error::NoLeader)),
            Input::Failed(Fault::Refused(Error::CredentialsMissing)),
        ]
    };
    let phases = || {
        let mut second_page = follower();
        second_page.on(page(&["a"], true), secs(1));
        let mut opening = follower();
        opening.on(page(&["a", "b"], false), secs(1));
        let mut pausing = listening();
        pausing.on(Input::Failed(Fault::Away(Error::NoLeader)), secs(1));
        [
            ("loading", follower()),
            ("loading the second page", second_page),
            ("opening", opening),
            ("listening", listening()),
            ("pausing", pausing),
        ]
    };
    let mut table = String::new();
    for (index, (name, before)) in phases().into_iter().enumerate() {
        writeln!(table, "{name}: {:?}, knows {}", before.step(), names(&before)).unwrap();
        for input in inputs() {
            let shown = match &input {
                Input::Page(page) => format!("Page(more: {})", page.more),
                Input::Changed { .. } => "Changed(+c -a)".to_owned(),
                input => format!("{input:?}"),
            };
            let mut phases = phases();
            let after = &mut phases[index].1;
            after.on(input, secs(2));
            let trouble = after.view().trouble.map_or("none".to_owned(), |error| error.to_string());
            writeln!(
                table,
                "  {shown}\n    -> {:?}, knows {}, trouble: {trouble}",
                after.step(),
                names(after)
            )
            .unwrap();
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn compaction_is_met_at_once_and_then_ever_more_slowly() {
    let mut follower = listening();
    follower.on(Input::Failed(Fault::Compacted), secs(2));
    assert_eq!(follower.step(), Step::Load { after: None, revision: None });
    follower.on(Input::Failed(Fault::Compacted), secs(2));
    assert!(matches!(follower.step(), Step::Wait { until } if until > secs(2)));
}

#[test]
fn what_cannot_be_read_is_named_and_does_not_hide_the_rest() {
    let mut follower = listening();
    let changes =
        vec![Change::Put(record("bad", "{\"port\":1}")), Change::Put(record("c", "{\"port\":\"1\"}"))];
    follower.on(changed(changes, 11), secs(2));
    let snapshot = follower.view().snapshot.unwrap();
    assert_eq!(snapshot.nodes.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(snapshot.unreadable.keys().collect::<Vec<_>>(), ["bad"]);
    follower.on(changed(vec![Change::Put(record("bad", "{}"))], 12), secs(2));
    assert!(follower.view().snapshot.unwrap().unreadable.is_empty());
}

/// Random changes, and random ends of the watch in the middle of them: whenever it listens, what is known is what is.
#[test]
fn a_snapshot_is_complete_after_any_row_of_faults() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut truth: BTreeMap<String, String> = BTreeMap::new();
        let (mut follower, mut revision, mut now) = (follower(), 1, Duration::ZERO);
        let mut untold: Vec<Change> = Vec::new();
        let mut pinned: Option<BTreeMap<String, String>> = None;
        for turn in 0..400 {
            let calm = turn > 380;
            if !calm && rng.bool() {
                revision += 1;
                let name = format!("n{}", rng.u32(0..12));
                if rng.bool() {
                    let value = format!("{{\"v\":\"{revision}\"}}");
                    untold.push(Change::Put(record(&name, &value)));
                    truth.insert(name, value);
                } else if truth.remove(&name).is_some() {
                    untold.push(Change::Gone(format!("/s/web/{name}")));
                }
            }
            let input = match follower.step() {
                _ if !calm && rng.u32(0..12) == 0 => {
                    Input::Failed(if rng.bool() { Fault::Compacted } else { Fault::Away(Error::NoLeader) })
                }
                Step::Wait { until } => {
                    now = until;
                    Input::Waited
                }
                Step::Load { after, .. } => {
                    if after.is_none() {
                        pinned = Some(truth.clone());
                        untold.clear();
                    }
                    let pinned = pinned.as_ref().unwrap();
                    let from = after.map_or(String::new(), |key| key["/s/web/".len()..].to_owned());
                    let rest: Vec<_> = pinned.iter().filter(|(name, _)| **name > from).collect();
                    let records = rest.iter().take(3).map(|(name, value)| record(name, value)).collect();
                    Input::Page(Page { records, revision, more: rest.len() > 3 })
                }
                Step::Open { .. } => Input::Opened,
                Step::Listen => changed(std::mem::take(&mut untold), revision),
            };
            follower.on(input, now);
        }
        assert_eq!(follower.step(), Step::Listen, "seed {seed}");
        follower.on(changed(std::mem::take(&mut untold), revision), now);
        let known = follower.view().snapshot.unwrap();
        let known: BTreeMap<String, String> =
            known.nodes.iter().map(|(name, info)| (name.clone(), crate::node::encode(info))).collect();
        assert_eq!(known, truth, "seed {seed}");
    }
}
