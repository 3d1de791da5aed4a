use super::*;
use crate::client::{Client, ClientConfig, Endpoint, Intent};

#[tokio::test]
async fn the_page_has_every_family_with_its_labels() {
    let agent = Agent::new();
    let intent = Intent::new("shop".parse().unwrap(), "shop-1".parse().unwrap());
    // Nobody is ever asked: the test ends before the task runs.
    let (client, _events) = Client::start(ClientConfig::new(Endpoint::new("proxy", 81)), intent);
    agent.set_clients(vec![client]);
    agent.change(|conditions| conditions.ready = true);
    (0..3).for_each(|_| agent.count_start());
    let snapshot = Snapshot { uptime: Duration::from_secs(5), ..look(&agent) };
    insta::assert_snapshot!(render(&snapshot).replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[test]
fn only_the_one_page_is_there() {
    let asked = |path: &str, head_only| Asked { head_only, path: path.to_owned(), forwarded: false };
    let agent = Agent::new();
    let metrics = answer(&asked("/metrics", true), &agent);
    assert_eq!((metrics.status, metrics.kind, metrics.head_only), ("200 OK", CONTENT, true));
    assert_eq!(answer(&asked("/", false), &agent).status, "404 Not Found");
}
