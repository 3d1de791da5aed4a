//! Every variable the sidecar knows, in one table.

#[cfg(test)]
use crate::environment::FILE_SUFFIX;
use crate::environment::{Fallback, Table, Variable};

/// The prefix under which every variable exists and wins (SEMANTICS section 10).
pub const PREFIX: &str = "SIDECAR_";

/// The sidecar's variables with their prefix.
pub const TABLE: Table = Table { prefix: PREFIX, variables: VARIABLES };

use Fallback::{Derived, Required, Text, Unset};

/// The table, in the order in which people need the variables.
#[rustfmt::skip] // One row a line, however long: it is read as a table.
pub const VARIABLES: &[Variable] = &[
    Variable::new("REGISTRY_HOST", Text("proxy"), "proxy", "the registry's name or address; several as host[:port], separated by commas").bare(),
    Variable::new("REGISTRY_PORT", Text("81"), "81", "the registry's port").bare().linked(),
    Variable::new("REGISTRY_TOKEN", Unset, "correct-horse-battery-staple", "the secret that the registry asks of everybody").bare(),
    Variable::new("SERVICE_TOKEN", Unset, "correct-horse-battery-staple", "the secret that the instances of this service share"),
    Variable::new("REGISTRY_EACH_ADDRESS", Text("false"), "true", "register with every address that the name has, and follow changes"),
    Variable::new("ENABLE_REGISTRY", Text("true"), "true", "false: do not register").bare(),
    Variable::new("SERVICE_NAME", Required, "my-service", "the name under which all instances form one pool").bare(),
    Variable::new("INSTANCE_NAME", Derived("host name"), "my-service-1", "what tells this instance from the others; stable across its restarts").bare(),
    Variable::new("METADATA", Text("{}"), r#"{"version":"1.0.0"}"#, "JSON object that the registry shows with the session"),
    Variable::new("DOMAINS", Required, "app.example.com,www.example.com", "host names of the route, separated by commas or spaces; *.example.com allowed").bare(),
    Variable::new("ROUTE_PATH", Text("/"), "/api", "path prefix of the route").bare(),
    Variable::new("PORT", Text("80"), "8080", "the application's port").bare(),
    Variable::new("APP_PORT", Derived("PORT"), "8080", "the same; wins over PORT").bare(),
    Variable::new("PRIORITY", Text("10"), "10", "higher wins over a longer path"),
    Variable::new("ROUTES", Unset, r#"[{"domains":"app.example.com","path":"/api","port":8080}]"#, "JSON array of routes for more than one; what a route leaves out, the other variables say"),
    Variable::new("BACKEND_SCHEME", Text("http"), "http", "how the proxy talks to the application: http, https or h2c"),
    Variable::new("BACKEND_HOST", Unset, "hello-app", "advertise this host's address instead of our own").bare(),
    Variable::new("BACKEND_EACH_ADDRESS", Text("false"), "true", "each address of BACKEND_HOST is a replica, with a route of its own that is followed as it comes and goes; at most 64"),
    Variable::new("WEB_NET_CIDR", Text("10.2.2.0/24"), "10.2.2.0/24", "the network that is shared with the proxy"),
    Variable::new("HEALTH_PATH", Text("/"), "/health", "what the proxy asks the application for").bare(),
    Variable::new("HEALTH_INTERVAL", Text("30s"), "30s", "how often; 0 turns the check off"),
    Variable::new("HEALTH_TIMEOUT", Text("5s"), "5s", "how long one check may take"),
    Variable::new("HEALTH_HOST", Derived("the first of DOMAINS, or www below a wildcard"), "app.example.com", "the Host that it sends"),
    Variable::new("HEALTH_STATUS", Derived("below 500 for the path /, else 2xx and 3xx"), "200-399,404", "the statuses with which it passes"),
    Variable::new("HEALTH_RISE", Derived("1"), "2", "how many in a row must pass to bring an instance back"),
    Variable::new("HEALTH_FALL", Derived("3"), "5", "how many in a row must fail to take an instance out"),
    Variable::new("COMPRESSION", Text("true"), "true", "whether the proxy compresses responses"),
    Variable::new("ENABLE_WEBSOCKET", Text("true"), "true", "whether upgrades are passed on").bare(),
    Variable::new("PRESERVE_HOST", Text("true"), "true", "whether the application sees the client's Host").bare(),
    Variable::new("BACKEND_HTTP2", Text("false"), "false", "HTTP/2 to the application").bare(),
    Variable::new("BACKEND_TIMEOUT", Unset, "60s", "how long the application may take to answer; unset: the proxy's own limit"),
    Variable::new("RESPONSE_HEADERS", Unset, r#"{"X-Frame-Options":"SAMEORIGIN"}"#, "JSON object of headers that the proxy sets on responses"),
    Variable::new("RATE_LIMIT", Unset, "100/1m", "requests/window, for each client address"),
    Variable::new("CIRCUIT_BREAKER", Unset, "5/30s/3", "failures/time open/trials"),
    Variable::new("STRIP_PREFIX", Text("false"), "true", "whether the proxy takes ROUTE_PATH off before the application sees it"),
    Variable::new("STICKY", Text("false"), "true", "whether a cookie keeps a client at its instance"),
    Variable::new("REDIRECT_DOMAINS", Unset, "www.example.com", "host names that answer with a redirect to the first of DOMAINS"),
    Variable::new("ALLOW_FROM", Unset, "10.0.0.0/8,2001:db8::/32", "the client addresses that may use the application; others get 403"),
    Variable::new("BASIC_AUTH", Unset, "alice:$2y$05$UVcTx/RVmOCf4kSBDI3CBe0xhVl2kDXl.NeOn4xCmCl.nCgmG3g6C", "who may use the application with a password: the lines of htpasswd -B; best in a file that BASIC_AUTH_FILE names"),
    Variable::new("FORWARD_AUTH", Unset, "http://authelia:9091/api/authz/forward-auth", "a URL that is asked whether a request may pass; behind a blank, the headers of its answer that the application gets"),
    Variable::new("BODY_LIMIT", Text("0"), "10m", "how many bytes a request's body may have, with the units k, m and g; 0: any number"),
    Variable::new("WEIGHT", Text("100"), "5", "this instance's share beside the others, 0 to 1000; 0: only clients that are there already"),
    Variable::new("ENABLE_SOCKETIO_ROUTE", Text("false"), "true", "a second route for websockets on SOCKETIO_PATH").bare(),
    Variable::new("SOCKETIO_PATH", Text("/socket.io/"), "/socket.io/", "its path").bare(),
    Variable::new("WAIT_FOR_PORT", Text("true"), "true", "register only when the application accepts connections").bare(),
    Variable::new("PORT_WAIT_TIMEOUT", Text("30s"), "30s", "waiting longer than this is warned about").bare(),
    Variable::new("READY_CHECK", Derived("tcp:// BACKEND_HOST or our own addresses, port of each route"), "fastcgi://127.0.0.1:9000/ping", "what must answer, at the start and from then on: tcp://host:port, http:// or https://host:port/path, fastcgi://host:port/ping, unix:/path, file:/path; several separated by spaces; last, exec: and a shell line"),
    Variable::new("READY_INTERVAL", Text("5s"), "5s", "the longest pause between two tries, and every pause once the application is ready"),
    Variable::new("READY_TIMEOUT", Text("2s"), "2s", "how long one try may take, once its name is resolved"),
    Variable::new("READY_RISE", Text("1"), "1", "how many tries in a row must pass"),
    Variable::new("READY_FALL", Text("3"), "3", "how many in a row must fail to take the routes out"),
    Variable::new("KEEPALIVE_INTERVAL", Text("30s"), "30s", "how often the registry is pinged"),
    Variable::new("REQUEST_TIMEOUT", Text("10s"), "10s", "how long the registry may take to answer"),
    Variable::new("RECONNECT_MIN", Text("100ms"), "100ms", "first pause before a new attempt to connect"),
    Variable::new("RECONNECT_MAX", Text("10s"), "10s", "longest pause"),
    Variable::new("LOG_LEVEL", Text("info"), "debug", "error, warn, info, debug or trace"),
    Variable::new("LOG_LEVEL_LIBRARIES", Text("error"), "warn", "the same for the libraries; at most LOG_LEVEL"),
    Variable::new("LOG_FORMAT", Text("text"), "json", "text for people, json for collectors"),
    Variable::new("MAINTENANCE_PORT", Text("0"), "3001", "port of the maintenance page; 0: none").bare(),
    Variable::new("MAINTENANCE_PAGE", Derived("built in"), "/srv/maintenance", "an HTML file or a directory"),
    Variable::new("MAINTENANCE_PAGE_URL", Derived("our address and MAINTENANCE_PORT"), "http://10.2.2.7:3001/", "the page's URL as the proxy is told").bare(),
    Variable::new("MAINTENANCE_STATE", Unset, "/state/maintenance.json", "file in which maintenance survives a restart of the sidecar"),
    Variable::new("ENTRY_COMMAND", Unset, "node server.js", "the wrapped command as a shell line, instead of one after --").bare().shell(),
    Variable::new("APP_DIR", Unset, "/app", "the directory of the command and of the steps").bare(),
    Variable::new("RUN_AS", Unset, "1000:1000", "the command's user, user[:group] by number or name; needs the capabilities SETUID, SETGID and KILL"),
    Variable::new("WAIT_FOR", Unset, "tcp://postgres:5432", "what must accept connections before the first step; several separated by spaces"),
    Variable::new("WAIT_FOR_TIMEOUT", Text("60s"), "60s", "how long that is waited for; then we exit with 69"),
    Variable::new("PRE_START", Unset, "npm run migrate", "shell lines to run before the command, one a line; a comment above a line is its name for people").shell(),
    Variable::new("PRE_START_FAILURE", Text("fatal"), "warn", "what follows when one of them fails: fatal or warn"),
    Variable::new("PRE_START_TIMEOUT", Text("15m"), "1h", "how long one of them may take; 0: no limit"),
    Variable::new("RESTART", Text("no"), "on-failure", "whether the command is started again when it ends: no, on-failure or always"),
    Variable::new("RESTART_DELAY", Text("5s"), "5s", "pause before a restart; doubles up to 5m while the command does not live for a minute"),
    Variable::new("RUN_EVERY", Unset, "1h", "run the command at once and then so often, never twice at a time"),
    Variable::new("UPDATE_CHECK", Unset, "test -e /data/update.zip", "a shell line that ends with 0 where there is an update; needs UPDATE_COMMAND").shell(),
    Variable::new("UPDATE_CHECK_INTERVAL", Text("300s"), "300s", "how often that is asked while the command runs; 0: never").bare(),
    Variable::new("UPDATE_COMMAND", Unset, "unzip -o /data/update.zip", "shell lines that update in place, one a line, while the command is stopped and people get the maintenance page").shell(),
    Variable::new("UPDATE_TIMEOUT", Text("15m"), "1h", "how long UPDATE_CHECK and each line of UPDATE_COMMAND may take; 0: no limit"),
    Variable::new("SECRETS", Unset, "DB_PASSWORD", "names of secrets for the command's environment, from NAME_FILE or /run/secrets; NAME? may be missing"),
    Variable::new("ENV_*", Unset, "postgres://app:%{DB_PASSWORD:url}@db/app", "SIDECAR_ENV_X composes X for the command of %{NAME} and %{NAME:url}").shell(),
    Variable::new("STOP_SIGNAL", Derived("QUIT for php-fpm and nginx, WINCH for apache2 and httpd, else TERM"), "SIGQUIT", "how the command is asked to stop"),
    Variable::new("STOP_GRACE_PERIOD", Unset, "30s", "what the engine allows; a second before its end the command is killed; unset: never"),
    Variable::new("DRAIN_TIMEOUT", Text("5s"), "5s", "how long requests in flight may take at the end"),
    Variable::new("DRAIN_PORTS", Derived("those of READY_CHECK, for a command without a route"), "9000", "ports of the command whose connections may end, within DRAIN_TIMEOUT, before it is stopped; separated by commas"),
    Variable::new("SIGNAL_GROUP", Text("false"), "true", "signal the whole process group of the command; always so for shell lines"),
    Variable::new("SIGNAL_REWRITE", Unset, "15:3", "the command gets the second signal where it would get the first, or none if it is 0; several separated by commas"),
    Variable::new("CONTROL_SOCKET", Derived("/run/registry-sidecar.sock, else abstract"), "/run/registry-sidecar.sock", "where the running daemon is talked to"),
    Variable::new("WHEN_STRANDED", Text("exit"), "stay", "beside an application whose container has stopped and left us nothing but lo: exit (with 75, after 15s) or stay (unhealthy)"),
    Variable::new("METRICS_LISTEN", Unset, "127.0.0.1:9090", "where metrics are served, for Prometheus: an address with a port"),
    Variable::new("ETCD_ENDPOINTS", Unset, "http://etcd:2379", "also register a node in etcd, beside the routes or without them; several endpoints separated by commas"),
    Variable::new("ETCD_BASE_PATH", Text("/services"), "/services", "the path below which its key lies: BASE/SERVICE_NAME/INSTANCE_NAME"),
    Variable::new("ETCD_USERNAME", Unset, "sidecar", "etcd's user; needs ETCD_PASSWORD"),
    Variable::new("ETCD_PASSWORD", Unset, "correct-horse-battery-staple", "the user's password"),
    Variable::new("ETCD_TTL", Text("30s"), "30s", "how long the node outlives a sidecar that was killed; renewed at a third of it"),
    Variable::new("ETCD_TIMEOUT", Text("10s"), "10s", "how long etcd may take to answer"),
    Variable::new("ETCD_CA", Derived("the system's authorities"), "-----BEGIN CERTIFICATE-----", "authorities that etcd's certificate must come from, in PEM; endpoints without a scheme are then https"),
    Variable::new("ETCD_CERT", Unset, "-----BEGIN CERTIFICATE-----", "our certificate for an etcd that asks for one, in PEM; needs ETCD_KEY"),
    Variable::new("ETCD_KEY", Unset, "-----BEGIN PRIVATE KEY-----", "its key, in PEM"),
    Variable::new("ETCD_LAYOUT", Text("services"), "groups", "which keys the command nodes reads: services is BASE/SERVICE/NODE, groups is BASE/GROUP/nodes/ID_TYPE"),
    Variable::new("ETCD_IF_TAKEN", Text("wait"), "refuse", "where another living node has the name: wait for its end, or refuse to register"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_stands_once_and_none_looks_like_the_file_variant_of_another() {
        for (index, known) in VARIABLES.iter().enumerate() {
            assert!(VARIABLES.iter().skip(index + 1).all(|other| other.name != known.name), "{}", known.name);
            assert!(!known.name.ends_with(FILE_SUFFIX), "{}", known.name);
            assert!(!known.name.starts_with(PREFIX), "{}", known.name);
        }
    }
}
