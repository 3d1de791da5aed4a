use super::*;
use registry_client::{Client, ClientConfig, Endpoint, Intent};

#[tokio::test]
async fn the_page_has_every_family_with_its_labels() {
    let state = DaemonState::new();
    let intent = Intent::new("shop".parse().unwrap(), "shop-1".parse().unwrap());
    // Nobody is ever request: the test ends before the task runs.
    let (client, _events) = Client::start(ClientConfig::new(Endpoint::new("proxy", 81)), intent);
    state.set_clients(vec![client]);
    state.change_conditions(|conditions| conditions.ready = true);
    (0..3).for_each(|_| state.count_start());
    let snapshot = Snapshot { uptime: Duration::from_secs(5), ..snapshot(&state) };
    insta::assert_snapshot!(render(&snapshot).replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[test]
fn only_the_one_page_is_there() {
    let request = |path: &str, head_only| Request { head_only, path: path.to_owned(), forwarded: false };
    let state = DaemonState::new();
    let metrics = respond(&request("/metrics", true), &state);
    assert_eq!((metrics.status, metrics.content_type, metrics.head_only), ("200 OK", CONTENT, true));
    assert_eq!(respond(&request("/", false), &state).status, "404 Not Found");
}
