//! Registrations and watches against real etcd, of both versions. `etcdctl` is the other program that keeps to the
//! same keys and values.

#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "support/etcd.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use registry_nodes::{
    Config, Credentials, Error, Event, Events, Layout, Node, OnTaken, Pem, Registration, Registry,
    ServiceWatch, State, Tls,
};
use support::{Etcd, PATIENCE, Version, wait_at_most, wait_for};
use tokio::time::timeout;

const KEY: &str = "/services/web/n1";

/// Each story is told with both versions.
macro_rules! stories {
    ($($name:ident)+) => {
        mod etcd_3_4 {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Version::V3_4).await })+
        }
        mod etcd_3_5 {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Version::V3_5).await })+
        }
    };
}

stories! {
    a_node_is_what_others_write_and_read
    names_are_cleaned_as_others_clean_them
    the_later_layout_is_read
    a_node_is_gone_at_once_when_it_is_deregistered_or_dropped
    a_node_is_gone_a_ttl_after_its_program
    one_lease_lasts_for_the_life_of_a_registration
    a_revoked_lease_is_noticed_and_the_node_put_again_at_once
    a_deleted_key_is_put_again_at_once
    a_late_old_instance_does_not_remove_its_successor
    a_taken_name_is_refused_where_that_is_asked_for
    a_taken_name_is_waited_for
    what_a_node_says_can_change
    a_restarted_etcd_has_the_node_again
    an_etcd_that_was_paused_for_longer_than_the_ttl_has_the_node_again
    compaction_while_the_watch_is_lost_loses_no_change
    many_nodes_are_read_page_by_page
    authentication_that_is_enabled_midway_ends_nothing
    expired_tokens_end_nothing
    a_wrong_password_is_named_and_tried_for_ever
    client_certificates_are_asked_for_and_shown
    the_leader_of_three_dies
}

fn registry(etcd: &Etcd) -> Registry {
    Registry::new(config(etcd)).unwrap()
}

fn config(etcd: &Etcd) -> Config {
    Config { timeout: Duration::from_secs(3), ..Config::new([etcd.endpoint()]) }
}

fn node() -> Node {
    Node::new("n1").with("address", "10.2.2.7:8080").with("version", "1.0.0")
}

async fn registered(registry: &Registry, ttl: u64) -> Registration {
    let registration = registry.register_node("web", node(), Duration::from_secs(ttl)).unwrap();
    soon("to be registered", registration.registered()).await.unwrap();
    registration
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {what} in vain"))
}

async fn state(events: &mut Events, wanted: State) {
    let reached = async {
        while events.next().await.expect("the registration has ended") != Event::State(wanted.clone()) {}
    };
    soon(&format!("for {wanted:?}"), reached).await;
}

/// Waits until the watch knows exactly these nodes.
async fn knows(watch: &mut ServiceWatch, names: &[&str]) {
    let known = |watch: &ServiceWatch| {
        watch.view().snapshot.as_ref().is_some_and(|snapshot| snapshot.nodes.keys().eq(names.iter()))
    };
    let reached = timeout(PATIENCE, async {
        while !known(watch) {
            watch.next().await;
        }
    });
    let reached = reached.await;
    assert!(reached.is_ok(), "waited for {names:?} in vain, knows {:?}", watch.view());
}

async fn a_node_is_what_others_write_and_read(version: Version) {
    let etcd = Etcd::start(version);
    let registry = Registry::connect(config(&etcd)).await.unwrap();
    let mut watch = registry.watch("web").unwrap();
    knows(&mut watch, &[]).await;
    let _registration = registered(&registry, 10).await;
    assert_eq!(etcd.value(KEY), r#"{"address":"10.2.2.7:8080","version":"1.0.0"}"#);
    knows(&mut watch, &["n1"]).await;

    let lease = etcd.lease(60);
    etcd.ctl(&["put", &format!("--lease={lease}"), "/services/web/other", r#"{"address":"10.2.2.8:80"}"#]);
    etcd.ctl(&["put", "/services/web/broken", "not JSON"]);
    etcd.ctl(&["put", "/services/web2/elsewhere", "{}"]);
    knows(&mut watch, &["n1", "other"]).await;
    let nodes = registry.service_nodes("web").await.unwrap();
    assert_eq!(nodes, [node(), Node::new("other").with("address", "10.2.2.8:80")]);
    let unreadable: Vec<String> = registry.snapshot("web").await.unwrap().unreadable.into_keys().collect();
    assert_eq!(unreadable, ["broken"]);
    etcd.ctl(&["lease", "revoke", &lease]);
    knows(&mut watch, &["n1"]).await;
}

async fn names_are_cleaned_as_others_clean_them(version: Version) {
    let etcd = Etcd::start(version);
    let config = Config { base_path: "//apps//prod/".parse().unwrap(), ..config(&etcd) };
    let registry = Registry::new(config).unwrap();
    let registration = registry.register_node("team/web", Node::new("a/b"), Duration::from_secs(10)).unwrap();
    soon("to be registered", registration.registered()).await.unwrap();
    assert_eq!(etcd.value("/apps/prod/team-web/a-b"), "{}");
    assert_eq!(registry.service_nodes("team/web").await.unwrap(), [Node::new("a-b")]);
    for (service, name) in [("", "n"), ("web", ""), ("..", "n")] {
        let refused = registry.register_node(service, Node::new(name), Duration::from_secs(10)).unwrap_err();
        assert!(matches!(refused, Error::Name(_)), "{refused}");
    }
    let refused = registry.register_node("web", node(), Duration::from_millis(900)).unwrap_err();
    assert!(matches!(refused, Error::Config(_)), "{refused}");
}

async fn the_later_layout_is_read(version: Version) {
    let etcd = Etcd::start(version);
    let registry = Registry::new(Config { layout: Layout::Groups, ..config(&etcd) }).unwrap();
    let value = r#"{"id":"n1","exporter_type":"node","port":9100,"labels":{"zone":"a"}}"#;
    etcd.ctl(&["put", "/services/metrics", r#"{"name":"metrics"}"#]);
    etcd.ctl(&["put", "/services/metrics/nodes/n1_node", value]);
    let expected = Node::new("n1_node").with("id", "n1").with("exporter_type", "node").with("port", "9100");
    let expected = expected.with("labels.zone", "a");
    assert_eq!(registry.service_nodes("metrics").await.unwrap(), [expected]);
    let mut watch = registry.watch("metrics").unwrap();
    knows(&mut watch, &["n1_node"]).await;
}

async fn a_node_is_gone_at_once_when_it_is_deregistered_or_dropped(version: Version) {
    let etcd = Etcd::start(version);
    let registry = registry(&etcd);
    let registration = registered(&registry, 60).await;
    let lease = etcd.lease_of(KEY).unwrap();
    registration.deregister(Duration::from_secs(5)).await.unwrap();
    assert!(!etcd.exists(KEY));
    assert!(!etcd.ctl(&["lease", "list"]).contains(&lease));

    let registration = registered(&registry, 60).await;
    drop(registration);
    assert!(wait_at_most(Duration::from_secs(5), || !etcd.exists(KEY)).is_some());

    // Whoever stops waiting has deregistered all the same.
    let registration = registered(&registry, 60).await;
    drop(timeout(Duration::ZERO, registration.deregister(Duration::from_secs(5))).await);
    assert!(wait_at_most(Duration::from_secs(5), || !etcd.exists(KEY)).is_some());
}

async fn a_node_is_gone_a_ttl_after_its_program(version: Version) {
    let etcd = Etcd::start(version);
    let endpoint = etcd.endpoint();
    let ends = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let registration = runtime.block_on(async {
            let registry = Registry::new(Config::new([endpoint])).unwrap();
            registered(&registry, 3).await
        });
        // A runtime of one thread has ended all of its tasks when it is dropped, so nobody is left who renews the node
        // or deregisters it.
        drop(runtime);
        drop(registration);
    });
    ends.join().unwrap();
    assert!(etcd.exists(KEY));
    let taken = wait_at_most(Duration::from_secs(4), || !etcd.exists(KEY));
    assert!(taken.is_some(), "still there 1 s after its TTL of 3 s");
}

async fn one_lease_lasts_for_the_life_of_a_registration(version: Version) {
    let etcd = Etcd::start(version);
    let registration = registered(&registry(&etcd), 2).await;
    let (lease, mut events) = (etcd.lease_of(KEY), registration.events());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        assert_eq!(etcd.lease_of(KEY), lease);
        let left = etcd.ctl(&["lease", "timetolive", lease.as_deref().unwrap()]);
        assert!(!left.contains("already expired"), "{left}");
    }
    let nothing = timeout(Duration::from_millis(10), events.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

async fn a_revoked_lease_is_noticed_and_the_node_put_again_at_once(version: Version) {
    let etcd = Etcd::start(version);
    // A renewal would notice it after 20 s.
    let registration = registered(&registry(&etcd), 60).await;
    let mut events = registration.events();
    etcd.ctl(&["lease", "revoke", &etcd.lease_of(KEY).unwrap()]);
    state(&mut events, State::Lost).await;
    state(&mut events, State::Registered).await;
    assert!(etcd.exists(KEY));
}

async fn a_deleted_key_is_put_again_at_once(version: Version) {
    let etcd = Etcd::start(version);
    let registration = registered(&registry(&etcd), 60).await;
    let (lease, mut events) = (etcd.lease_of(KEY), registration.events());
    etcd.ctl(&["del", KEY]);
    assert_eq!(soon("for the news", events.next()).await, Some(Event::Trouble(Error::KeyDeleted)));
    state(&mut events, State::Registered).await;
    assert_eq!(etcd.lease_of(KEY), lease);
}

async fn a_late_old_instance_does_not_remove_its_successor(version: Version) {
    let etcd = Etcd::start(version);
    let registration = registered(&registry(&etcd), 60).await;
    // A program that writes without asking.
    let lease = etcd.lease(60);
    etcd.ctl(&["put", &format!("--lease={lease}"), KEY, r#"{"version":"2.0.0"}"#]);
    registration.deregister(Duration::from_secs(5)).await.unwrap();
    assert_eq!(etcd.value(KEY), r#"{"version":"2.0.0"}"#);
    assert_eq!(etcd.lease_of(KEY), Some(lease));
}

async fn a_taken_name_is_refused_where_that_is_asked_for(version: Version) {
    let etcd = Etcd::start(version);
    let (one, another) = (registry(&etcd), registry(&etcd));
    let _living = registered(&one, 60).await;
    let lease = etcd.lease_of(KEY).unwrap();
    let refused =
        another.register_node_with("web", node(), Duration::from_secs(60), OnTaken::Refuse).unwrap();
    let error = soon("for the refusal", refused.registered()).await.unwrap_err();
    assert!(matches!(&error, Error::NameTaken { key, .. } if key == KEY), "{error}");
    assert_eq!(etcd.lease_of(KEY), Some(lease.clone()));
    // The lease that was granted in vain is given back.
    wait_for("one lease", || etcd.ctl(&["lease", "list"]).matches("\n").count() == 1);
}

async fn a_taken_name_is_waited_for(version: Version) {
    let etcd = Etcd::start(version);
    let (one, another) = (registry(&etcd), registry(&etcd));
    let living = registered(&one, 60).await;
    let waiting =
        another.register_node("web", node().with("version", "2.0.0"), Duration::from_secs(60)).unwrap();
    wait_for("the second to wait", || waiting.state() == State::Waiting);
    assert!(etcd.value(KEY).contains("1.0.0"));
    living.deregister(Duration::from_secs(5)).await.unwrap();
    soon("to be registered", waiting.registered()).await.unwrap();
    assert!(etcd.value(KEY).contains("2.0.0"));
}

async fn what_a_node_says_can_change(version: Version) {
    let etcd = Etcd::start(version);
    let registration = registered(&registry(&etcd), 60).await;
    let (lease, created) = (etcd.lease_of(KEY), etcd.field(KEY, "CreateRevision"));
    registration.set_info(Node::new("").with("version", "1.0.1").info);
    wait_for("the new value", || etcd.value(KEY) == r#"{"version":"1.0.1"}"#);
    assert_eq!((etcd.lease_of(KEY), etcd.field(KEY, "CreateRevision")), (lease, created));
}

async fn a_restarted_etcd_has_the_node_again(version: Version) {
    let mut etcd = Etcd::start(version);
    let registry = registry(&etcd);
    let mut watch = registry.watch("web").unwrap();
    let registration = registered(&registry, 5).await;
    knows(&mut watch, &["n1"]).await;
    etcd.kill();
    // Long enough for several tries to fail.
    wait_for("the watch to notice", || watch.view().trouble.is_some());
    wait_for("the registration to notice", || registration.state() == State::Lost);
    assert_eq!(watch.view().snapshot.as_ref().unwrap().nodes.len(), 1, "the last snapshot stays");
    etcd.restart();
    etcd.ctl(&["put", "/services/web/n2", "{}"]);
    wait_for("the registration to be back", || registration.state() == State::Registered);
    knows(&mut watch, &["n1", "n2"]).await;
    wait_for("the trouble to be over", || watch.view().trouble.is_none());
}

async fn an_etcd_that_was_paused_for_longer_than_the_ttl_has_the_node_again(version: Version) {
    let etcd = Etcd::start(version);
    let registry = registry(&etcd);
    let mut watch = registry.watch("web").unwrap();
    let registration = registered(&registry, 3).await;
    let mut events = registration.events();
    etcd.signal("STOP");
    state(&mut events, State::Lost).await;
    std::thread::sleep(Duration::from_secs(2));
    etcd.signal("CONT");
    state(&mut events, State::Registered).await;
    knows(&mut watch, &["n1"]).await;
    // It lives on: the lease it hangs on is renewed.
    std::thread::sleep(Duration::from_secs(4));
    assert!(etcd.exists(KEY));
    assert_eq!(registration.state(), State::Registered);
}

async fn compaction_while_the_watch_is_lost_loses_no_change(version: Version) {
    let mut etcd = Etcd::start(version);
    let registry = registry(&etcd);
    let mut watch = registry.watch("web").unwrap();
    etcd.ctl(&["put", "/services/web/gone", "{}"]);
    knows(&mut watch, &["gone"]).await;
    etcd.kill();
    wait_for("the watch to notice", || watch.view().trouble.is_some());
    etcd.restart();
    // The watch may be back in the middle of this, at any revision of it.
    for n in 0..20 {
        etcd.ctl(&["put", "/services/web/new", &format!("{{\"n\":\"{n}\"}}")]);
    }
    etcd.ctl(&["del", "/services/web/gone"]);
    let revision = etcd.field("/services/web/new", "Revision").unwrap();
    etcd.ctl(&["compact", "--physical", &revision]);
    knows(&mut watch, &["new"]).await;
    etcd.ctl(&["put", "/services/web/newer", "{}"]);
    knows(&mut watch, &["new", "newer"]).await;
    assert_eq!(watch.view().snapshot.as_ref().unwrap().nodes["new"]["n"], "19");
}

async fn many_nodes_are_read_page_by_page(version: Version) {
    let etcd = Etcd::start(version);
    let mut lines = String::new();
    let mut puts = 0;
    for n in 0..1200 {
        lines.push_str(&format!("put /services/web/n{n:04} null\n"));
        puts += 1;
        // etcd takes at most 128 operations in a transaction.
        if puts == 100 {
            etcd.txn(&lines);
            (lines, puts) = (String::new(), 0);
        }
    }
    let registry = registry(&etcd);
    assert_eq!(registry.service_nodes("web").await.unwrap().len(), 1200);
    let mut watch = registry.watch("web").unwrap();
    let snapshot = soon("for a snapshot", watch.next_snapshot()).await;
    assert_eq!(snapshot.nodes.len(), 1200);
}

async fn authentication_that_is_enabled_midway_ends_nothing(version: Version) {
    let mut etcd = Etcd::start(version);
    let credentials = Some(Credentials { user: "root".to_owned(), password: "secret".to_owned() });
    let with_user = Registry::new(Config { credentials, ..config(&etcd) }).unwrap();
    let mut watch = with_user.watch("web").unwrap();
    let registration = registered(&with_user, 3).await;
    knows(&mut watch, &["n1"]).await;
    etcd.enable_auth("secret");
    registration.set_info(Node::new("").with("version", "2").info);
    wait_for("the new value", || etcd.value(KEY) == r#"{"version":"2"}"#);
    etcd.ctl(&["put", "/services/web/n2", "{}"]);
    knows(&mut watch, &["n1", "n2"]).await;
    // Tokens live in etcd's memory: none of before is good any more, for the watch either.
    etcd.restart();
    etcd.ctl(&["put", "/services/web/n3", "{}"]);
    knows(&mut watch, &["n1", "n2", "n3"]).await;
    wait_for("the registration to be back", || registration.state() == State::Registered);
    let without = registry(&etcd).service_nodes("web").await.unwrap_err();
    assert_eq!(without, Error::CredentialsMissing);
}

async fn expired_tokens_end_nothing(version: Version) {
    let mut etcd = Etcd::start_with(version, &["--auth-token-ttl=1"]);
    etcd.enable_auth("secret");
    let credentials = Some(Credentials { user: "root".to_owned(), password: "secret".to_owned() });
    let registry = Registry::connect(Config { credentials, ..config(&etcd) }).await.unwrap();
    let mut watch = registry.watch("web").unwrap();
    let registration = registered(&registry, 30).await;
    knows(&mut watch, &["n1"]).await;
    for round in 0..3 {
        std::thread::sleep(Duration::from_millis(2500));
        // Whoever asks once gets an answer, not a verdict on the token.
        assert_eq!(registry.service_nodes("web").await.unwrap().len(), 1);
        let value = round.to_string();
        registration.set_info(Node::new("").with("round", &value).info);
        wait_for("the new value", || etcd.value(KEY) == format!("{{\"round\":\"{value}\"}}"));
    }
    etcd.ctl(&["put", "/services/web/n2", "{}"]);
    knows(&mut watch, &["n1", "n2"]).await;
}

async fn a_wrong_password_is_named_and_tried_for_ever(version: Version) {
    let mut etcd = Etcd::start(version);
    etcd.enable_auth("secret");
    let credentials = Some(Credentials { user: "root".to_owned(), password: "changed".to_owned() });
    let registry = Registry::new(Config { credentials, ..config(&etcd) }).unwrap();
    assert_eq!(registry.check().await, Err(Error::CredentialsRefused));
    let registration = registry.register_node("web", node(), Duration::from_secs(10)).unwrap();
    let mut events = registration.events();
    assert_eq!(soon("for the news", events.next()).await, Some(Event::Trouble(Error::CredentialsRefused)));
    // Somebody gives it the password that we have.
    etcd.ctl_with("changed\n", &["user", "passwd", "root", "--interactive=false"]);
    etcd.as_root("changed");
    soon("to be registered", registration.registered()).await.unwrap();
    assert!(etcd.exists(KEY));
}

async fn client_certificates_are_asked_for_and_shown(version: Version) {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let etcd = Etcd::start_with_tls(version, directory.path());
    let file = |name: &str| Some(Pem::File(directory.path().join(name)));
    let tls = Tls { ca: file("ca.pem"), cert: file("client.pem"), key: file("client-key.pem") };
    let with = |tls: Tls| Registry::new(Config { tls, ..config(&etcd) }).unwrap();
    let _registration = registered(&with(tls.clone()), 10).await;
    assert!(etcd.exists(KEY));
    for wrong in [Tls { cert: None, key: None, ..tls.clone() }, Tls { ca: file("other-ca.pem"), ..tls }] {
        let error = with(wrong).check().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
}

async fn the_leader_of_three_dies(version: Version) {
    let mut members = Etcd::cluster(version);
    let endpoints: Vec<String> = members.iter().map(Etcd::endpoint).collect();
    let config = Config { timeout: Duration::from_secs(3), ..Config::new(endpoints) };
    let registry = Registry::connect(config).await.unwrap();
    let mut watch = registry.watch("web").unwrap();
    let registration = registered(&registry, 5).await;
    knows(&mut watch, &["n1"]).await;
    // Each of them in turn, so that whichever we talk to and whichever leads are among them.
    for index in 0..3 {
        members[index].kill();
        let other = (index + 1) % 3;
        wait_for("a majority that answers", || {
            members[other].etcdctl(&["put", &format!("/services/web/x{index}"), "{}"]).status.success()
        });
        let expected: Vec<String> =
            ["n1".to_owned()].into_iter().chain((0..=index).map(|index| format!("x{index}"))).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        knows(&mut watch, &expected).await;
        wait_for("the registration", || {
            registration.state() == State::Registered && members[other].exists(KEY)
        });
        members[index].start_again();
        wait_for("the member to be back", || members[index].etcdctl(&["get", "x"]).status.success());
    }
}

/// An authority, a server's certificate for 127.0.0.1, a client's, and an authority that signed neither.
fn certificates(directory: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    let authority = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec![]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = parameters.self_signed(&key).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        Issuer::new(parameters, key)
    };
    let issuer = authority("ca");
    authority("other-ca");
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
}
