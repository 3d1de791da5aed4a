//! All variables of the server, in one table. They have no prefix, because the server runs alone in its container.

use crate::environment::Fallback::{Derived, Text, Unset};
use crate::environment::{Table, Variable};

/// The server's variables.
pub const TABLE: Table = Table { prefix: "", variables: VARIABLES };

/// The variables, in the order of the documentation.
#[rustfmt::skip] // One row a line, however long: it is read as a table.
pub const VARIABLES: &[Variable] = &[
    Variable::new("HTTP_LISTEN", Text("0.0.0.0:80"), "0.0.0.0:8080", "where the proxy takes requests").bare(),
    Variable::new("REGISTRY_LISTEN", Text("0.0.0.0:81"), "0.0.0.0:81", "where sidecars and other clients register").bare(),
    Variable::new("REGISTRY_ALLOW", Derived("loopback and private ranges"), "10.2.2.0/24,127.0.0.0/8", "from which addresses they may").bare(),
    Variable::new("HOSTS", Text("shared"), "first", "whether several services may claim paths of a host (shared), or it belongs to the first (first)").bare(),
    Variable::new("BACKEND_ALLOW", Derived("the client's own address and private ranges"), "10.2.2.0/24", "which addresses a backend may have").bare(),
    Variable::new("TRUSTED_PROXIES", Unset, "10.0.0.0/8", "whose X-Forwarded-For and CF-Connecting-IP are believed").bare(),
    Variable::new("SESSION_GRACE", Text("5m"), "5m", "how long a lost session's routes stay").bare(),
    Variable::new("STAGE_TTL", Text("30m"), "30m", "how long staged changes wait for their apply").bare(),
    Variable::new("MAX_CONNECTIONS", Text("10000"), "10000", "how many clients the proxy serves at once").bare(),
    Variable::new("MAX_BUFFERED", Derived("a quarter of the memory that the container or the machine has"), "268435456", "how many bytes of responses HTTP/2 clients may leave unread, all together").bare(),
    Variable::new("MAX_SESSIONS", Text("10000"), "10000", "how many sessions there may be").bare(),
    Variable::new("MAX_SESSIONS_PER_ADDRESS", Text("256"), "256", "how many of them an address may have; loopback may have any number").bare(),
    Variable::new("MAX_ROUTES_PER_SESSION", Text("1000"), "1000", "how many routes each may have").bare(),
    Variable::new("MAX_HEADERS_PER_ROUTE", Text("64"), "64", "how many response headers each route may set").bare(),
    Variable::new("MAX_STAGED_BYTES", Text("8388608"), "1048576", "about how much each session may stage, in bytes").bare(),
    Variable::new("MAX_REGISTRY_CONNECTIONS", Text("20000"), "20000", "how many connections to the registry there may be").bare(),
    Variable::new("MAX_CONNECTIONS_PER_ADDRESS", Text("1000"), "1000", "how many connections to the registry an address may have; loopback may have any number").bare(),
    Variable::new("PROXY_THREADS", Derived("one a processor"), "2", "how many threads serve requests").bare(),
    Variable::new("STATE_FILE", Unset, "/state/registry.redb", "where applied state survives a restart; with ? behind it the server also starts without it, with a warning").bare(),
    Variable::new("LOG_LEVEL", Text("info"), "debug", "error, warn, info, debug or trace").bare(),
    Variable::new("LOG_LEVEL_LIBRARIES", Text("error"), "warn", "the same for the libraries; at most LOG_LEVEL").bare(),
    Variable::new("LOG_FORMAT", Text("text"), "json", "text for people, json for collectors").bare(),
    Variable::new("HTTPS_LISTEN", Unset, "0.0.0.0:443", "where the proxy takes TLS; needs CERT_DIR").bare(),
    Variable::new("CERT_DIR", Unset, "/certs", "where the certificates are: NAME.crt with NAME.key, or NAME/fullchain.pem with NAME/privkey.pem").bare(),
    Variable::new("ADMIN_LISTEN", Text("127.0.0.1:8081"), "127.0.0.1:8081", "where metrics and status are served; off for nowhere").bare(),
    Variable::new("ADMIN_HOSTS", Unset, "proxy,metrics.example.com", "names by which metrics and status may be asked for, besides addresses and localhost").bare(),
    Variable::new("ETCD_ENDPOINTS", Unset, "http://etcd:2379", "the etcd in which several servers are one registry; several endpoints separated by commas").bare(),
    Variable::new("ETCD_BASE_PATH", Text("/registry"), "/registry", "the path below which their keys lie; servers with another one are another registry").bare(),
    Variable::new("ETCD_USERNAME", Unset, "registry", "etcd's user; needs ETCD_PASSWORD").bare(),
    Variable::new("ETCD_PASSWORD", Unset, "correct-horse-battery-staple", "the user's password").bare(),
    Variable::new("ETCD_TIMEOUT", Text("3s"), "3s", "how long etcd may take to answer").bare(),
    Variable::new("ETCD_CA", Derived("the system's authorities"), "-----BEGIN CERTIFICATE-----", "authorities that etcd's certificate must come from, in PEM; endpoints without a scheme are then https").bare(),
    Variable::new("ETCD_CERT", Unset, "-----BEGIN CERTIFICATE-----", "our certificate for an etcd that asks for one, in PEM; needs ETCD_KEY").bare(),
    Variable::new("ETCD_KEY", Unset, "-----BEGIN PRIVATE KEY-----", "its key, in PEM").bare(),
    Variable::new("CLUSTER_SECRET", Unset, "correct-horse-battery-staple", "the secret by which servers of one registry know each other, at least 16 bytes; required with ETCD_ENDPOINTS").bare(),
    Variable::new("CLUSTER_SECRET_PREVIOUS", Unset, "tall-giraffe-window-lamp", "the former secret, which is taken too while a new one is rolled out").bare(),
    Variable::new("CLUSTER_LISTEN", Text("0.0.0.0:82"), "0.0.0.0:82", "where the other servers connect").bare(),
    Variable::new("CLUSTER_ADVERTISE", Derived("our address towards etcd, with the port of CLUSTER_LISTEN"), "10.2.2.5:82", "under which address they do").bare(),
    Variable::new("CLUSTER_TTL", Text("5s"), "5s", "how long the others wait for a leader that does not answer; at least 2s").bare(),
    Variable::new("HOLD", Text("30s"), "30s", "how long requests wait for a service without instances").bare(),
    Variable::new("START_HOLD", Text("10s"), "10s", "how long after a start without state requests wait that nobody claims; 0: not at all").bare(),
    Variable::new("REGISTRY_TOKEN", Unset, "correct-horse-battery-staple", "the secret that clients must give").bare(),
    Variable::new("REGISTRY_POLICY", Unset, "/etc/registry-policy.json", "the file that says which service may claim which domains").bare(),
    Variable::new("ACCESS_LOG", Unset, "json", "one line a request on the standard output: json or combined").bare(),
];
