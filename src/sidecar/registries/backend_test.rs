//! Asks the proxy, by BACKEND_TEST, whether it reaches the backend, and says what to do if it does not.
//!
//! Only a route that the proxy reaches, and whose check passes there, is live. An application that listens on 127.0.0.1, or a container on another
//! network, looks healthy from the inside (SEMANTICS section 10).

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use registry_client::protocol::report::BackendReport;
use registry_client::protocol::{BackendUrl, Host, Refusal, Reply, Request};
use registry_client::{BackendTestError, Client, Route, RouteKey};

use super::proxy_health::{Told, is_out, why};
use super::side_connection::ask;

/// How long this process may take to connect to the backend.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a registry of ours may take to answer a BACKEND_TEST, which it does within 5 s (PROTOCOL section 1).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The first and the longest pause between two tests while the backend is unreachable.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The pause where the proxy has had too many tests.
const TEST_PAUSE: Duration = Duration::from_millis(250);

/// Tests until the proxy reaches the backend of every route. Each route is logged when it is live, and when its
/// obstacle changes.
pub(super) async fn until_live(client: Client, mut routes: BTreeMap<RouteKey, Route>) {
    let mut pause = FIRST_PAUSE;
    let mut logged: BTreeMap<RouteKey, String> = BTreeMap::new();
    loop {
        let (mut missing, mut results) = (BTreeMap::new(), BTreeMap::new());
        for (key, route) in routes {
            // Routes with one backend share its test.
            let backend = route.backend.to_string();
            if !results.contains_key(&backend)
                && let Some(result) = test(&client, &route.backend).await
            {
                results.insert(backend.clone(), result);
            }
            let Some(result) = results.get(&backend) else {
                missing.insert(key, route);
                continue;
            };
            let mut reachability = result.reachability();
            if let Reachability::Reachable { status, .. } = reachability
                && is_out(&client, &key, &route).await
            {
                reachability = Reachability::Unwell { status, why: why(&route, &Told::default()) };
            }
            let line = format!("{} -> {}: {reachability}", Urls(&route), route.backend);
            match reachability {
                Reachability::Reachable { .. } => info!("live: {line}"),
                Reachability::Unreachable { .. } | Reachability::Unwell { .. } => {
                    if logged.get(&key) != Some(&line) {
                        warn!("not live: {line}");
                    }
                    logged.insert(key.clone(), line);
                    missing.insert(key, route);
                }
            }
        }
        if missing.is_empty() {
            return;
        }
        routes = missing;
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Tests one backend from here and from the proxy; `None` where the proxy could not be asked.
async fn test(client: &Client, backend: &BackendUrl) -> Option<TestResult> {
    let (from_here, from_proxy) = tokio::join!(connect(backend), ask_proxy(client, backend));
    // Only this tells an application that listens on loopback from one that does not listen yet.
    let on_loopback = from_here.is_err() && accepts((Ipv4Addr::LOCALHOST, backend.port())).await.is_ok();
    Some(TestResult { backend: backend.clone(), from_here, on_loopback, from_proxy: from_proxy? })
}

/// The proxy's report, or why there is none; `None` where the proxy could not be asked.
///
/// The application may take long for its first answer, and a stop may be asked for meanwhile. So a server of ours is
/// asked over another connection than the one on which the session is drained. A reference server can only be asked
/// over that one; it is not asked once the session leaves.
async fn ask_proxy(client: &Client, backend: &BackendUrl) -> Option<Result<BackendReport, String>> {
    let status = client.status();
    if status.ours {
        let (registry, session) = (status.registry.peer?, status.session?);
        let reply = loop {
            let test = Request::BackendTest(backend.clone());
            match ask(registry, &session, test, ANSWER_TIMEOUT).await? {
                // A little later, then: there were others from here.
                Reply::Error(Refusal::Other(text)) if text == "too many backend tests" => {
                    sleep(TEST_PAUSE).await
                }
                reply => break reply,
            }
        };
        return match reply {
            Reply::BackendOk(report) => Some(Ok(report)),
            Reply::BackendFail(error) => Some(Err(BackendTestError::Unreachable(error).to_string())),
            // There is, or will be, another session.
            Reply::Error(Refusal::NoSession | Refusal::SessionNotFound | Refusal::SessionReplaced) => None,
            Reply::Error(refusal) => Some(Err(BackendTestError::Refused(refusal).to_string())),
            _ => None,
        };
    }
    match client.backend_test(backend.clone()).await {
        Ok(report) => Some(Ok(report)),
        Err(BackendTestError::NoSession | BackendTestError::TooMany | BackendTestError::Stopped) => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

/// Connects to the advertised address, as the proxy would.
async fn connect(backend: &BackendUrl) -> Result<(), String> {
    accepts(backend.authority()).await
}

/// Whether somebody accepts a connection there, or why not.
async fn accepts(place: impl ToSocketAddrs) -> Result<(), String> {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(place)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no connection within {CONNECT_TIMEOUT:?}")),
    }
}

/// The URLs of a route, for the log.
struct Urls<'a>(&'a Route);

impl fmt::Display for Urls<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, domain) in self.0.domains.as_slice().iter().enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(f, "{separator}http://{domain}{}", self.0.path)?;
        }
        Ok(())
    }
}

/// The result of testing one backend.
#[derive(Debug, Clone, PartialEq)]
struct TestResult {
    /// The backend as it was registered.
    backend: BackendUrl,
    /// Whether this process could connect to it, or why not.
    from_here: Result<(), String>,
    /// Whether something accepts connections on its port at 127.0.0.1 in this network namespace.
    on_loopback: bool,
    /// The proxy's report, or why there is none.
    from_proxy: Result<BackendReport, String>,
}

/// What the result means.
#[derive(Debug, Clone, PartialEq)]
enum Reachability {
    /// Requests reach it.
    Reachable {
        /// How long the backend took to answer the proxy, in milliseconds.
        response_time_ms: f64,
        /// The status of that answer.
        status: u16,
    },
    /// The proxy reaches it, but its check does not pass, so it sends no requests, or soon will not.
    Unwell {
        /// The status of the answer to the test.
        status: u16,
        /// Why, and what an operator can do.
        why: String,
    },
    /// Requests do not reach it.
    Unreachable {
        /// What the proxy reports.
        seen: String,
        /// What an operator can do.
        hint: String,
    },
}

impl TestResult {
    /// Any answer counts as reachable; its status is the application's affair.
    fn reachability(&self) -> Reachability {
        match &self.from_proxy {
            Ok(report) if report.reachable => Reachability::Reachable {
                response_time_ms: report.response_time_ms,
                status: report.status_code,
            },
            Ok(_) => self.unreachable("it got no answer".to_owned()),
            Err(seen) => self.unreachable(seen.clone()),
        }
    }

    fn unreachable(&self, seen: String) -> Reachability {
        let port = self.backend.port();
        let hint = match (&self.from_here, self.backend.host()) {
            _ if seen.contains("not allowed") => {
                "the proxy may not reach this address: see BACKEND_ALLOW in its configuration".to_owned()
            }
            (Err(_), _) if self.on_loopback => {
                format!("the application listens on 127.0.0.1 only; let it listen on 0.0.0.0:{port}")
            }
            (Err(reason), _) => format!(
                "nor can this container ({reason}): does the application still start? Otherwise: is {port} its port?"
            ),
            (Ok(()), Host::Ip(ip)) => format!(
                "this container can: do the proxy and the application share a network? If {ip} is on another \
                 one, set SIDECAR_WEB_NET_CIDR to the network that they share"
            ),
            (Ok(()), Host::Name(name)) => {
                format!("this container can: is {name} on a network that the proxy shares?")
            }
        };
        Reachability::Unreachable { seen, hint }
    }
}

impl fmt::Display for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reachability::Reachable { response_time_ms, status } => {
                // A registry that does not measure says 0.
                match *response_time_ms {
                    0.0 => write!(f, "the proxy reached it, status {status}"),
                    time if time < 0.1 => {
                        write!(f, "the proxy reached it in less than 0.1 ms, status {status}")
                    }
                    time => write!(f, "the proxy reached it in {time:.1} ms, status {status}"),
                }
            }
            Reachability::Unwell { status, why } => {
                write!(f, "the proxy reached it, status {status}, but {why}")
            }
            Reachability::Unreachable { seen, hint } => {
                write!(f, "the proxy cannot reach it ({seen}); {hint}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(from_here: Result<(), &str>, from_proxy: Result<u16, &str>) -> TestResult {
        TestResult {
            backend: "http://10.2.2.7:8080/".parse().unwrap(),
            from_here: from_here.map_err(str::to_owned),
            on_loopback: false,
            from_proxy: from_proxy.map_err(str::to_owned).map(|status_code| BackendReport {
                reachable: true,
                response_time_ms: 1.25,
                status_code,
                tls_valid: false,
            }),
        }
    }

    #[test]
    fn any_answer_makes_it_live() {
        for status in [200, 404, 500] {
            let reachability = result(Ok(()), Ok(status)).reachability();
            assert_eq!(reachability, Reachability::Reachable { response_time_ms: 1.25, status });
        }
    }

    #[test]
    fn an_application_on_loopback_only_is_named_as_such() {
        let seen = result(Err("connection refused"), Err("connection refused"));
        let reachability = seen.reachability();
        assert!(reachability.to_string().contains("does the application still start"), "{reachability}");
        assert!(!reachability.to_string().contains("127.0.0.1 only"), "{reachability}");
        let reachability = TestResult { on_loopback: true, ..seen }.reachability();
        assert!(reachability.to_string().contains("listens on 127.0.0.1 only"), "{reachability}");
        assert!(reachability.to_string().contains("0.0.0.0:8080"), "{reachability}");
    }

    #[test]
    fn a_network_that_is_not_shared_is_named_as_such() {
        let reachability = result(Ok(()), Err("timed out")).reachability();
        assert!(reachability.to_string().contains("share a network"), "{reachability}");
    }

    #[test]
    fn a_policy_that_refuses_is_named_as_such() {
        let reachability = result(Ok(()), Err("not allowed: 127.0.0.1:80")).reachability();
        assert!(reachability.to_string().contains("BACKEND_ALLOW"), "{reachability}");
    }
}
