//! A container gets another address under load, as by `docker network disconnect` and `connect --ip`: the application and
//! its sidecar are in a network namespace of their own, whose address goes without a word and is another a moment later.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::load::Load;
use crate::programs::{PATIENCE, Program, status, wait_until};
use crate::{HOST, SERVER, SIDECAR, SLOW_RATE, application};

/// Set where the test's own network exists.
const INSIDE: &str = "TEST_IS_IN_ITS_NETWORK";
const PROXY: &str = "10.2.2.2";
const OLD: &str = "10.2.2.7";
const NEW: &str = "10.2.2.9";
const PORT: u16 = 8080;
/// How long the container is without an address.
const GAP: Duration = Duration::from_millis(300);
/// From when on no request may fail.
const LIMIT: Duration = Duration::from_secs(2);

/// A namespace that lives as long as this.
struct Container(Child);

impl Container {
    fn start() -> Container {
        let holder =
            Command::new("unshare").args(["-n", "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
        let container = Container(holder);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let its = format!("/proc/{}/ns/net", container.0.id());
        wait_until("the namespace is there", || std::fs::read_link(&its).is_ok_and(|its| its != own));
        container
    }

    fn id(&self) -> String {
        self.0.id().to_string()
    }

    /// Runs a line of `ip` inside.
    fn ip(&self, line: &str) {
        let id = self.id();
        let words = ["-t", &id, "-n", "ip"].into_iter().chain(line.split(' '));
        assert!(Command::new("nsenter").args(words).status().unwrap().success(), "ip {line}");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(line: &str) {
    assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
}

#[test]
fn another_address_under_load_costs_at_most_what_was_on_the_wire() {
    if std::env::var_os(INSIDE).is_some() {
        return another_address();
    }
    let is_permitted =
        Command::new("unshare").args(["-n", "true"]).status().is_ok_and(|status| status.success());
    if !is_permitted {
        return println!("NOT RUN: network namespaces are not permitted here");
    }
    let name = "address::another_address_under_load_costs_at_most_what_was_on_the_wire";
    let mut inside = Command::new("unshare");
    inside.arg("-n").arg(std::env::current_exe().unwrap()).args([name, "--exact", "--nocapture"]);
    let output = inside.env(INSIDE, "1").output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    println!("{}", said.join("\n"));
    assert!(output.status.success() && said[0].contains("1 passed"));
}

fn another_address() {
    let container = Container::start();
    ip("link set lo up");
    ip("link add veth0 type veth peer name eth0");
    ip(&format!("link set eth0 netns {}", container.id()));
    ip(&format!("address add {PROXY}/24 dev veth0"));
    ip("link set veth0 up");
    container.ip("link set lo up");
    container.ip(&format!("address add {OLD}/24 dev eth0"));
    container.ip("link set eth0 up");

    let (registry, http) = (format!("{PROXY}:81"), format!("{PROXY}:80"));
    let env =
        [("REGISTRY_LISTEN", registry), ("HTTP_LISTEN", http.clone()), ("ADMIN_LISTEN", "off".to_owned())];
    let _server = Program::start("server", SERVER, &[], &env);
    let http = http.parse().unwrap();
    let instance = sidecar(&container);
    instance.wait_for_log("live:");
    let load = Load::start(http, HOST, SLOW_RATE);
    wait_until("requests are answered", || status(http, HOST, "/1") == 200);
    load.wait_until_busy();

    let changed = Instant::now();
    container.ip(&format!("address del {OLD}/24 dev eth0"));
    sleep(GAP);
    container.ip(&format!("address add {NEW}/24 dev eth0"));
    instance.wait_for_log(&format!("address changed from {OLD} to {NEW}"));
    wait_until("the new address is live", || {
        instance.log().iter().any(|line| line.contains("live:") && line.contains(NEW))
    });
    let live_after = changed.elapsed();
    // What is on the wire to the old address fails, or is repeated, within this time.
    sleep(PATIENCE);
    let (good, losses) = load.end();
    let since = |sent: Instant| sent.saturating_duration_since(changed);
    let last = losses.iter().map(|loss| since(loss.sent)).max().unwrap_or_default();
    let slowest = losses.iter().map(|loss| loss.took).max().unwrap_or_default();
    println!(
        "{good} requests were answered and {} not; the last of these was sent {last:?} after the change, the slowest took \
         {slowest:?}; live at the new address after {live_after:?}",
        losses.len()
    );
    assert!(last < LIMIT, "{losses:?}");
    // At most what is sent until the new address is known.
    assert!(losses.len() <= SLOW_RATE as usize, "{losses:?}");
}

fn sidecar(container: &Container) -> Program {
    let this = std::env::current_exe().unwrap();
    let id = container.id();
    let serves = ["--ignored", "--exact", "application::serves", "--nocapture"];
    let words = [&["-t", &id, "-n", SIDECAR, "--", this.to_str().unwrap()][..], &serves].concat();
    let env = [
        ("REGISTRY_HOST", PROXY.to_owned()),
        ("SERVICE_NAME", "shop".to_owned()),
        ("INSTANCE_NAME", "shop-1".to_owned()),
        ("DOMAINS", HOST.to_owned()),
        ("PORT", PORT.to_string()),
        ("SIDECAR_WEB_NET_CIDR", "10.2.2.0/24".to_owned()),
        (application::PORT, PORT.to_string()),
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
    ];
    Program::start("instance", "/usr/bin/nsenter", &words, &env)
}
