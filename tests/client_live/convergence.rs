//! Whatever happens in between, a moment after the link is back the server has what is wanted, once.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use registry_client::protocol::{HealthCheck, RouteOption};
use registry_client::{CallError, Client, RouteKey, Routes};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{Backend, server, soon};
use crate::world::{intent, live, route, start};

/// Passes bytes on until it is cut; every connection that is open then ends.
struct Link {
    address: SocketAddr,
    cuts: watch::Sender<u32>,
}

impl Link {
    async fn to(target: SocketAddr) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, cut) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut cut = cut.clone();
                tokio::spawn(async move {
                    cut.mark_unchanged();
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Link { address, cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

fn some_routes(rng: &mut fastrand::Rng, backends: &[String]) -> Routes {
    let mut routes = Routes::new();
    for number in 0..rng.usize(0..8) {
        let domain = format!("{}.example.com", rng.u32(0..6));
        let mut wanted = route(&domain, &format!("/{number}"), &backends[rng.usize(0..backends.len())]);
        wanted.priority = rng.i32(1..3);
        if rng.bool() {
            wanted = wanted.with_option(RouteOption::Compression(true));
        }
        if rng.bool() {
            let (path, interval) = ("/up".parse().unwrap(), "30s".parse().unwrap());
            wanted = wanted.with_health(HealthCheck { path, interval, timeout: interval });
        }
        routes.insert(RouteKey::from(format!("k{number}")), wanted);
    }
    routes
}

/// Each route as the registry lists it, once everything is in force there.
async fn registered(client: &Client) -> Vec<String> {
    let entries = loop {
        live(client).await;
        match soon(client.registered_routes()).await {
            Ok(entries) => break entries,
            // That the link was cut is only being noticed.
            Err(CallError::NoSession) => {}
            Err(other) => panic!("{other}"),
        }
    };
    let mut shown: Vec<String> = entries
        .iter()
        .map(|entry| {
            format!(
                "{:?} {} {} {} {:?}",
                entry.domains, entry.path, entry.backend, entry.priority, entry.status
            )
        })
        .collect();
    shown.sort();
    shown
}

#[tokio::test]
async fn what_is_wanted_while_links_break_is_in_force_afterwards_and_not_twice() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let server = server(&[]).await;
    let (one, two) = (Backend::new("one").await, Backend::new("two").await);
    let backends = [one.url(), two.url()];
    let link = Link::to(server.registry_address()).await;
    let (client, _events) = start(link.address, intent());
    for _ in 0..40 {
        for _ in 0..rng.usize(1..6) {
            match rng.u32(0..3) {
                0 => client.set_routes(some_routes(&mut rng, &backends)).unwrap(),
                1 => link.cut(),
                _ => {
                    for _ in 0..rng.u32(0..20) {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        let listed = registered(&client).await;
        let wanted = client.routes();
        assert_eq!(listed.len(), wanted.len(), "seed {seed}: {listed:#?}");
        assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), listed.len(), "seed {seed}: doubled");
        for route in wanted.values() {
            let shown = format!(" {} {} {} Active", route.path, route.backend, route.priority);
            assert!(listed.iter().any(|entry| entry.ends_with(&shown)), "seed {seed}: {shown}: {listed:#?}");
        }
    }
}
