//! PRE_START behind a maintenance page: registered before the command has run, live when it answers.

use crate::programs::{Server, get, wait_until};
use crate::registered::HOST;
use crate::relay::Relay;
use crate::{SERVER, VERSIONED, Wrapped, text};

/// Two steps that each wait until they are let go; the first prints what is nobody's business.
const STEPS: &str = "# Migrating the database\necho horse; until [ -e one ]; do sleep 0.02; done\n\
                     until [ -e two ]; do sleep 0.02; done";

fn server() -> Server {
    Server::start(SERVER, &[("HOLD", "0s")])
}

#[test]
fn people_get_the_page_while_steps_run_and_the_application_when_it_answers() {
    let wrapped = Wrapped::with_page(server(), &[("SIDECAR_PRE_START", STEPS)], &VERSIONED);
    wait_until("the page is shown", || wrapped.shown("/anything").0 == 503);
    let page = get(wrapped.server.http, HOST, "/").unwrap();
    assert!(page.body.contains("We will be right back"), "{}", page.body);
    assert!(page.head.contains("X-Maintenance-Mode: true") || page.head.contains("x-maintenance-mode: true"));
    assert!(wrapped.is_healthy(), "{}", text(&wrapped.say("healthcheck").stdout));

    let (_, told) = wrapped.shown("/api/status");
    assert!(
        told.contains("step 1 of 2: Migrating the database") && told.contains("\"progress\":0"),
        "{told}"
    );
    let status = wrapped.status();
    assert!(
        status.contains("step 1 of 2: Migrating the database") && status.contains("maintenance"),
        "{status}"
    );
    wrapped.program.wait_for_log("step 1 of 2 | horse");
    assert!(!told.contains("horse") && !status.contains("horse"), "{told}{status}");

    wrapped.touch("one");
    // The name of what is no plain program is left out.
    wait_until("the second step is told", || wrapped.shown("/api/status").1.contains("step 2 of 2"));
    assert!(wrapped.shown("/api/status").1.contains("\"progress\":50"));
    wrapped.touch("two");
    wrapped.program.wait_for_log("live:");
    assert_eq!(wrapped.shown("/").0, 200);
    assert!(!wrapped.status().contains("step"), "{}", wrapped.status());
    assert!(wrapped.status().contains("application  ready"), "{}", wrapped.status());
    // Nobody has ever seen anything but the page and the application.
    assert!(!wrapped.has_logged("not live"), "{:?}", wrapped.program.log());
}

#[test]
fn without_a_page_nothing_is_registered_before_the_application_answers() {
    let wrapped = Wrapped::start(server(), &[("SIDECAR_PRE_START", STEPS)], &VERSIONED);
    wrapped.program.wait_for_log("step 1 of 2 | horse");
    assert!(wrapped.status().contains("nothing is registered"), "{}", wrapped.status());
    assert_eq!(wrapped.shown("/").0, 404);
    assert!(wrapped.is_healthy());
    wrapped.touch("one");
    wrapped.touch("two");
    wrapped.program.wait_for_log("live:");
    assert_eq!(wrapped.shown("/").0, 200);
}

#[test]
fn a_stop_behind_the_page_takes_it_away_and_starts_nothing() {
    let mut wrapped = Wrapped::with_page(server(), &[("SIDECAR_PRE_START", STEPS)], &VERSIONED);
    wait_until("the page is shown", || wrapped.shown("/").0 == 503);
    wrapped.touch("one");
    wrapped.program.wait_for_log("step 2 of 2");
    wrapped.program.signal("TERM");
    assert_eq!(wrapped.program.wait().code(), Some(0));
    assert_eq!(wrapped.shown("/").0, 404);
    assert!(!wrapped.has_logged("Server address"), "{:?}", wrapped.program.log());
}

#[test]
fn a_step_that_fails_behind_the_page_takes_it_away() {
    let steps = "until [ -e one ]; do sleep 0.02; done; exit 9";
    let mut wrapped = Wrapped::with_page(server(), &[("SIDECAR_PRE_START", steps)], &VERSIONED);
    wait_until("the page is shown", || wrapped.shown("/").0 == 503);
    wrapped.touch("one");
    assert_eq!(wrapped.program.wait().code(), Some(9));
    assert_eq!(wrapped.shown("/").0, 404);
}

#[test]
fn a_command_that_does_not_exist_is_never_registered_unless_a_step_brings_it() {
    let server = server();
    let relay = Relay::start(server.registry);
    let relayed = relay.address.port().to_string();
    let more = [("REGISTRY_PORT", relayed.as_str()), ("SIDECAR_PRE_START", "true")];
    let mut wrapped = Wrapped::with_page(server, &more, &["/no/such/program"]);
    assert_eq!(wrapped.program.wait().code(), Some(127));
    assert_eq!(relay.sent(), "");

    let bring =
        "printf '#!/bin/sh\\nexec %s\\n' \"caddy respond --listen 127.0.0.1:$PORT\" > app; chmod +x app";
    let more = [("SIDECAR_PRE_START", bring)];
    let wrapped = Wrapped::with_page(crate::Server::start(SERVER, &[]), &more, &["./app"]);
    wrapped.program.wait_for_log("live:");
}

#[test]
fn the_page_stays_until_the_application_is_as_healthy_as_its_check_wants_it() {
    // It listens at once, and has nothing to say for a while.
    let script = "caddy respond --listen 127.0.0.1:$PORT --status 503 early & until [ -e one ]; do sleep 0.02; done; \
                  kill $!; wait; exec caddy respond --listen 127.0.0.1:$PORT ready";
    let server = server();
    let port = crate::free_address().port();
    let (check, port) = (format!("http://127.0.0.1:{port}/"), port.to_string());
    let more =
        [("PORT", port.as_str()), ("SIDECAR_READY_CHECK", check.as_str()), ("SIDECAR_PRE_START", "true")];
    let wrapped = Wrapped::with_page(server, &more, &["sh", "-c", script]);
    wait_until("it listens", || std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok());
    wait_until("the page is shown", || wrapped.shown("/").1.contains("We will be right back"));
    assert!(!wrapped.is_healthy(), "{}", text(&wrapped.say("healthcheck").stdout));
    wrapped.touch("one");
    wrapped.program.wait_for_log("live:");
    assert_eq!(wrapped.shown("/"), (200, "ready".to_owned()));
}

#[test]
fn without_registration_there_is_the_page_all_the_same() {
    let page = crate::free_address();
    let port = page.port().to_string();
    let more =
        [("ENABLE_REGISTRY", "false"), ("MAINTENANCE_PORT", port.as_str()), ("SIDECAR_PRE_START", STEPS)];
    let wrapped = Wrapped::start(server(), &more, &VERSIONED);
    let told = || get(page, HOST, "/api/status").map_or(String::new(), |answer| answer.body);
    wait_until("the step is told", || told().contains("Migrating the database"));
    wrapped.touch("one");
    wrapped.touch("two");
    wrapped.program.wait_for_log("Server address");
    wait_until("it is over", || !told().contains("step 2"));
    assert_eq!(wrapped.shown("/").0, 404);
    assert!(wrapped.has_logged("registration is off (ENABLE_REGISTRY=false)"));
}
