//! Whether the backend is reachable *for the proxy*, and if not, what a person should look at.
//!
//! A route is live only then: an application that listens on 127.0.0.1, or a container on another network,
//! looks perfect from the inside (SEMANTICS section 10). The verdict is pure; asking is the caller's.

use std::fmt;

use crate::protocol::report::BackendReport;
use crate::protocol::{BackendUrl, Host};

/// What was found out about one backend.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Findings {
    /// The backend as it was registered.
    pub backend: BackendUrl,
    /// Whether we could connect to it ourselves.
    pub from_here: Result<(), String>,
    /// What the proxy saw; an error is why it saw nothing.
    pub from_proxy: Result<BackendReport, String>,
}

/// What that means.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// Requests can reach it.
    Live {
        /// Milliseconds until the proxy had its answer.
        response_time_ms: f64,
        /// The answer's status.
        status: u16,
    },
    /// They cannot: what the proxy saw, and what to look at.
    Unreachable {
        /// The proxy's words.
        seen: String,
        /// What would help.
        advice: String,
    },
}

impl Findings {
    /// Requests reach it if the proxy got any answer; what the answer says is the application's business.
    pub(super) fn verdict(&self) -> Verdict {
        match &self.from_proxy {
            Ok(report) if report.reachable => {
                Verdict::Live { response_time_ms: report.response_time_ms, status: report.status_code }
            }
            Ok(_) => self.unreachable("it got no answer".to_owned()),
            Err(seen) => self.unreachable(seen.clone()),
        }
    }

    fn unreachable(&self, seen: String) -> Verdict {
        let port = self.backend.port();
        let advice = match (&self.from_here, self.backend.host()) {
            _ if seen.contains("not allowed") => {
                "the proxy may not reach this address: see BACKEND_ALLOW in its configuration".to_owned()
            }
            (Err(reason), _) => format!(
                "nor can this container ({reason}): the application probably listens on 127.0.0.1 only; \
                 let it listen on 0.0.0.0:{port}"
            ),
            (Ok(()), Host::Ip(ip)) => format!(
                "this container can: do the proxy and the application share a network? If {ip} is on another \
                 one, set SIDECAR_WEB_NET_CIDR to the network that they share"
            ),
            (Ok(()), Host::Name(name)) => {
                format!("this container can: is {name} on a network that the proxy shares?")
            }
        };
        Verdict::Unreachable { seen, advice }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Live { response_time_ms, status } => {
                write!(f, "the proxy reached it in {response_time_ms:.1} ms, status {status}")
            }
            Verdict::Unreachable { seen, advice } => {
                write!(f, "the proxy cannot reach it ({seen}); {advice}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(from_here: Result<(), &str>, from_proxy: Result<u16, &str>) -> Findings {
        Findings {
            backend: "http://10.2.2.7:8080/".parse().unwrap(),
            from_here: from_here.map_err(str::to_owned),
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
            let verdict = findings(Ok(()), Ok(status)).verdict();
            assert_eq!(verdict, Verdict::Live { response_time_ms: 1.25, status });
        }
    }

    #[test]
    fn an_application_on_loopback_only_is_named_as_such() {
        let verdict = findings(Err("connection refused"), Err("connection refused")).verdict();
        assert!(verdict.to_string().contains("listens on 127.0.0.1 only"), "{verdict}");
        assert!(verdict.to_string().contains("0.0.0.0:8080"), "{verdict}");
    }

    #[test]
    fn a_network_that_is_not_shared_is_named_as_such() {
        let verdict = findings(Ok(()), Err("timed out")).verdict();
        assert!(verdict.to_string().contains("share a network"), "{verdict}");
    }

    #[test]
    fn a_policy_that_refuses_is_named_as_such() {
        let verdict = findings(Ok(()), Err("not allowed: 127.0.0.1:80")).verdict();
        assert!(verdict.to_string().contains("BACKEND_ALLOW"), "{verdict}");
    }
}
