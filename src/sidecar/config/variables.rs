//! Every variable the sidecar knows, in one table: what the parser reads, what the hints suggest, and what
//! `docs/CONFIGURATION.md` lists.

/// The prefix under which every variable exists and wins (SEMANTICS section 10).
pub const PREFIX: &str = "SIDECAR_";
/// The suffix of the variant that names a file with the value.
pub const FILE_SUFFIX: &str = "_FILE";

/// One variable of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Without the prefix. A name that ends in `*` stands for all that begin like it.
    pub name: &'static str,
    /// Whether it is read without the prefix as well.
    pub bare: bool,
    /// Whether this version acts on it.
    pub implemented: bool,
    /// What holds when it is not set.
    pub default: Fallback,
    /// A value that would be accepted; errors show it.
    pub example: &'static str,
    /// What it does, in one line.
    pub meaning: &'static str,
}

/// What holds when a variable is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This text, read like a value that was set.
    Text(&'static str),
    /// Something taken from elsewhere; the text says what.
    Derived(&'static str),
    /// Nothing: the feature is off or the default is the other end's.
    Unset,
    /// Nothing, and the sidecar does not start.
    Required,
}

impl Variable {
    /// Whether values are kept out of logs and errors. METADATA is one of them, because tokens end up there.
    pub fn is_secret(&self) -> bool {
        self.name == "METADATA" || self.name.ends_with("_TOKEN") || self.name.ends_with("_PASSWORD")
    }

    /// The name as people should write it: bare where that is allowed, else with the prefix.
    pub fn advertised(&self) -> String {
        if self.bare { self.name.to_owned() } else { format!("{PREFIX}{}", self.name) }
    }
}

/// The entry of `name`, given without the prefix and the suffix.
pub(super) fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|known| match known.name.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => known.name == name,
    })
}

const fn entry(
    name: &'static str,
    default: Fallback,
    example: &'static str,
    meaning: &'static str,
) -> Variable {
    Variable { name, bare: false, implemented: true, default, example, meaning }
}

impl Variable {
    const fn bare(self) -> Self {
        Variable { bare: true, ..self }
    }

    const fn later(self) -> Self {
        Variable { implemented: false, ..self }
    }
}

use Fallback::{Derived, Required, Text, Unset};

/// The table, in the order in which people need the variables.
#[rustfmt::skip] // One row a line, however long: it is read as a table.
pub const VARIABLES: &[Variable] = &[
    entry("REGISTRY_HOST", Text("proxy"), "proxy", "the registry's name or address; several as host[:port], separated by commas").bare(),
    entry("REGISTRY_PORT", Text("81"), "81", "the registry's port").bare(),
    entry("REGISTRY_TOKEN", Unset, "correct-horse-battery-staple", "the secret that the registry asks of everybody").bare(),
    entry("SERVICE_TOKEN", Unset, "correct-horse-battery-staple", "the secret that the instances of this service share"),
    entry("REGISTRY_EACH_ADDRESS", Text("false"), "true", "register with every address that the name has, and follow changes").later(),
    entry("ENABLE_REGISTRY", Text("true"), "true", "false: do not register").bare(),
    entry("SERVICE_NAME", Required, "my-service", "the name under which all instances form one pool").bare(),
    entry("INSTANCE_NAME", Derived("host name"), "my-service-1", "what tells this instance from the others; stable across its restarts").bare(),
    entry("METADATA", Text("{}"), r#"{"version":"1.0.0"}"#, "JSON object that the registry shows with the session"),
    entry("DOMAINS", Required, "app.example.com,www.example.com", "host names of the route, separated by commas or spaces; *.example.com allowed").bare(),
    entry("ROUTE_PATH", Text("/"), "/api", "path prefix of the route").bare(),
    entry("PORT", Text("80"), "8080", "the application's port").bare(),
    entry("APP_PORT", Derived("PORT"), "8080", "the same; wins over PORT").bare(),
    entry("PRIORITY", Text("10"), "10", "higher wins over a longer path"),
    entry("ROUTES", Unset, r#"[{"domains":"app.example.com","path":"/api","port":8080}]"#, "JSON array of routes for more than one; what a route leaves out, the other variables say"),
    entry("BACKEND_SCHEME", Text("http"), "http", "how the proxy talks to the application: http, https or h2c"),
    entry("BACKEND_HOST", Unset, "app", "advertise this host's address instead of our own").bare(),
    entry("WEB_NET_CIDR", Text("10.2.2.0/24"), "10.2.2.0/24", "the network that is shared with the proxy"),
    entry("HEALTH_PATH", Text("/"), "/health", "what the proxy asks the application for").bare(),
    entry("HEALTH_INTERVAL", Text("30s"), "30s", "how often; 0 turns the check off"),
    entry("HEALTH_TIMEOUT", Text("5s"), "5s", "how long one check may take"),
    entry("COMPRESSION", Text("true"), "true", "whether the proxy compresses responses"),
    entry("ENABLE_WEBSOCKET", Text("true"), "true", "whether upgrades are passed on").bare(),
    entry("PRESERVE_HOST", Text("true"), "true", "whether the application sees the client's Host").bare(),
    entry("BACKEND_HTTP2", Text("false"), "false", "HTTP/2 to the application").bare(),
    entry("BACKEND_TIMEOUT", Unset, "60s", "how long the application may take to answer; unset: the proxy's own limit"),
    entry("RESPONSE_HEADERS", Unset, r#"{"X-Frame-Options":"SAMEORIGIN"}"#, "JSON object of headers that the proxy sets on responses"),
    entry("RATE_LIMIT", Unset, "100/1m", "requests/window, for each client address"),
    entry("CIRCUIT_BREAKER", Unset, "5/30s/3", "failures/time open/trials"),
    entry("ENABLE_SOCKETIO_ROUTE", Text("false"), "true", "a second route for websockets on SOCKETIO_PATH").bare(),
    entry("SOCKETIO_PATH", Text("/socket.io/"), "/socket.io/", "its path").bare(),
    entry("WAIT_FOR_PORT", Text("true"), "true", "register only when the application accepts connections").bare(),
    entry("PORT_WAIT_TIMEOUT", Text("30s"), "30s", "waiting longer than this is warned about").bare(),
    entry("READY_CHECK", Derived("tcp:// BACKEND_HOST or 127.0.0.1, port of each route"), "tcp://127.0.0.1:8080", "what must accept connections; several separated by spaces"),
    entry("READY_INTERVAL", Text("5s"), "5s", "the longest pause between two tries"),
    entry("READY_TIMEOUT", Text("2s"), "2s", "how long one try may take"),
    entry("READY_RISE", Text("1"), "1", "how many tries in a row must pass"),
    entry("READY_FALL", Text("3"), "3", "how many in a row must fail to take the routes out").later(),
    entry("KEEPALIVE_INTERVAL", Text("30s"), "30s", "how often the registry is pinged"),
    entry("REQUEST_TIMEOUT", Text("10s"), "10s", "how long the registry may take to answer"),
    entry("RECONNECT_MIN", Text("100ms"), "100ms", "first pause before a new attempt to connect"),
    entry("RECONNECT_MAX", Text("10s"), "10s", "longest pause"),
    entry("LOG_LEVEL", Text("info"), "debug", "error, warn, info, debug or trace"),
    entry("LOG_FORMAT", Text("text"), "json", "text for people, json for collectors"),
    entry("MAINTENANCE_PORT", Text("0"), "3001", "port of the maintenance page; 0: none").bare().later(),
    entry("MAINTENANCE_PAGE", Derived("built in"), "/srv/maintenance", "an HTML file or a directory").later(),
    entry("MAINTENANCE_PAGE_URL", Derived("our address and MAINTENANCE_PORT"), "http://10.2.2.7:3001/", "the page's URL as the proxy is told").bare().later(),
    entry("ENTRY_COMMAND", Unset, "node server.js", "the wrapped command as a shell line").bare().later(),
    entry("APP_DIR", Unset, "/app", "its directory").bare().later(),
    entry("RUN_AS", Unset, "1000:1000", "its user").later(),
    entry("WAIT_FOR", Unset, "tcp://postgres:5432", "dependencies before the first step").later(),
    entry("WAIT_FOR_TIMEOUT", Text("60s"), "60s", "how long they are waited for").later(),
    entry("PRE_START", Unset, "npm run migrate", "shell lines to run before the command").later(),
    entry("PRE_START_FAILURE", Text("fatal"), "warn", "fatal or warn").later(),
    entry("RESTART", Text("no"), "on-failure", "no, on-failure or always").later(),
    entry("RESTART_DELAY", Text("5s"), "5s", "pause before a restart").later(),
    entry("RUN_EVERY", Unset, "1h", "run the command on a schedule").later(),
    entry("UPDATE_CHECK", Unset, "git fetch", "whether an update is there").later(),
    entry("UPDATE_CHECK_INTERVAL", Text("300s"), "300s", "how often that is asked").bare().later(),
    entry("UPDATE_COMMAND", Unset, "git pull", "how to update in place").later(),
    entry("SECRETS", Unset, "DB_PASSWORD", "secrets for the command's environment").later(),
    entry("ENV_*", Unset, "postgres://app:%{DB_PASSWORD:url}@db/app", "composed values for the command's environment").later(),
    entry("STOP_SIGNAL", Derived("the program"), "SIGQUIT", "how the command is asked to stop").later(),
    entry("STOP_GRACE_PERIOD", Unset, "30s", "after this it is killed").later(),
    entry("DRAIN_TIMEOUT", Text("5s"), "5s", "how long requests in flight may take at the end").later(),
    entry("SIGNAL_GROUP", Text("false"), "true", "signal the whole process group").later(),
    entry("SIGNAL_REWRITE", Unset, "15:3", "send another signal instead").later(),
    entry("CONTROL_SOCKET", Text("/run/registry-sidecar.sock"), "/run/registry-sidecar.sock", "where the running daemon is talked to").later(),
    entry("METRICS_LISTEN", Unset, "127.0.0.1:9090", "where metrics are served").later(),
    entry("ETCD_ENDPOINTS", Unset, "http://etcd:2379", "also register a node in etcd").later(),
    entry("ETCD_BASE_PATH", Text("/services"), "/services", "under which key").later(),
    entry("ETCD_USERNAME", Unset, "sidecar", "as whom").later(),
    entry("ETCD_PASSWORD", Unset, "correct-horse-battery-staple", "with which password").later(),
    entry("ETCD_TTL", Text("30s"), "30s", "life of the node without us").later(),
    entry("ETCD_TIMEOUT", Text("10s"), "10s", "how long etcd may take").later(),
];

/// How many single-character edits (insertion, deletion, replacement, swap of neighbours) lie between two
/// names, whatever their case.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_uppercase().into_bytes(), b.to_ascii_uppercase().into_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Of `names` the one nearest to `given`, if it is near enough to be a slip of the finger.
pub(super) fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Names longer than any of ours cannot be near; the table is quadratic in their length.
    const LONGEST: usize = 64;
    if given.len() > LONGEST {
        return None;
    }
    let allowed = (given.len() / 3).clamp(1, 3);
    names
        .into_iter()
        .map(|name| (distance(given, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger_are_near_and_other_words_are_not() {
        assert_eq!(distance("DOMAINS", "DOMIANS"), 1);
        assert_eq!(distance("DOMAINS", "domain"), 1);
        assert_eq!(distance("", "abc"), 3);
        let names = || VARIABLES.iter().map(|known| known.name);
        assert_eq!(nearest("DOMIANS", names()), Some("DOMAINS"));
        assert_eq!(nearest("prot", names()), Some("PORT"));
        assert_eq!(nearest("HEALTHPATH", names()), Some("HEALTH_PATH"));
        assert_eq!(nearest("COLOUR", names()), None);
        assert_eq!(nearest(&"X".repeat(10_000), names()), None);
    }

    #[test]
    fn each_name_stands_once_and_none_looks_like_the_file_variant_of_another() {
        for (index, known) in VARIABLES.iter().enumerate() {
            assert!(VARIABLES.iter().skip(index + 1).all(|other| other.name != known.name), "{}", known.name);
            assert!(!known.name.ends_with(FILE_SUFFIX), "{}", known.name);
            assert!(!known.name.starts_with(PREFIX), "{}", known.name);
        }
    }
}
