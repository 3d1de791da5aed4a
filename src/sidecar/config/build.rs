//! Builds the typed configuration, and checks the rules between variables.
//!
//! Each function reads all of its variables before it returns the first error, so that the report is complete.

use crate::environment::{ConfigErrors, Reader, Reported, Source};
use registry_client::protocol::{GoDuration, Host, InstanceName, ServiceName};

use super::command::{self, Origin};
use super::etcd;
use super::raw::Raw;
use super::secrets::Environment;
use super::{
    AddressConfig, Config, ControlSocket, LogConfig, MaintenanceConfig, NodeConfig, Off, ReadinessConfig,
    ReadyCheck, RegistrationConfig, RegistryConfig, RouteConfig, is_verified, routes, values,
};

/// The configuration, or everything that is wrong with it.
pub(super) fn build(source: Source, origin: Origin<'_>) -> Result<Config, ConfigErrors> {
    let (mut raw, mut reader): (Raw, Reader) = Reader::new(source);
    let is_wrapper = origin.arguments.is_some() || raw.entry_command.is_some();
    let command = command::command(&mut raw, &mut reader, origin);
    let config = parts(&mut raw, &mut reader, origin, is_wrapper);
    let config = match (config, command) {
        (Ok(config), Ok(command)) => consistent(Config { command, ..config }, &mut reader),
        _ => Err(Reported),
    };
    let (config, warnings) = reader.finish(config)?;
    Ok(Config { warnings, ..config })
}

/// Checks the rules between the command, the routes and the page.
fn consistent(config: Config, reader: &mut Reader) -> Result<Config, Reported> {
    let is_scheduled = config.command.as_ref().is_some_and(|command| command.run_every.is_some());
    if is_scheduled && config.registration.is_some() {
        let reason = "a command that runs now and then cannot answer for a route: leave out DOMAINS and ROUTES, \
                      or set ENABLE_REGISTRY=false";
        return Err(reader.refuse("RUN_EVERY", reason.to_owned()));
    }
    let own_ports = config.registration.iter().flat_map(RegistrationConfig::own_ports);
    if config.command.is_some() && own_ports.into_iter().any(|port| config.maintenance.port == Some(port)) {
        let reason = "the application itself listens there: give the maintenance page a port of its own";
        return Err(reader.refuse("MAINTENANCE_PORT", reason.to_owned()));
    }
    let metrics = config.metrics_listen.map(|address| address.port());
    if metrics.is_some() && metrics == config.maintenance.port {
        let reason = "the maintenance page listens on that port: give the metrics one of their own";
        return Err(reader.refuse("METRICS_LISTEN", reason.to_owned()));
    }
    let grace = config.command.as_ref().and_then(|command| command.grace);
    if let Some(grace) = grace.filter(|grace| *grace <= config.drain_timeout) {
        let drain = config.drain_timeout;
        reader.warn(format!(
            "DRAIN_TIMEOUT, {drain}, does not fit into STOP_GRACE_PERIOD, {grace}: requests in flight get half of that"
        ));
    }
    warn_without_effect(&config, reader);
    Ok(config)
}

/// Warns about variables that have no effect beside others.
fn warn_without_effect(config: &Config, reader: &mut Reader) {
    etcd::warn_without_endpoints(config.etcd.as_ref(), reader);
    let registry = config.registration.as_ref().map(|registration| &registration.registry);
    let has_name = |registry: &RegistryConfig| {
        registry.endpoints.iter().any(|endpoint| matches!(endpoint.host, Host::Name(_)))
    };
    let only_addresses = registry.is_some_and(|registry| registry.each_address && !has_name(registry));
    let unasked = !config.readiness.wait && config.registration.is_some();
    let is_wrapper = config.command.is_some();
    let page = config.maintenance.page.is_some() && config.maintenance.port.is_none();
    for (name, has_no_effect, why) in [
        ("REGISTRY_EACH_ADDRESS", only_addresses, "REGISTRY_HOST holds no name"),
        ("READY_CHECK", unasked, "WAIT_FOR_PORT=false asks nobody"),
        ("WHEN_STRANDED", is_wrapper, "a command is never stranded without its network"),
        ("MAINTENANCE_PAGE", page, "no page is served, because MAINTENANCE_PORT is not set"),
    ] {
        if has_no_effect && reader.is_prefixed(name) {
            let spelled = reader.spelled(name);
            reader.warn(format!("{spelled} has no effect: {why}"));
        }
    }
}

fn parts(
    raw: &mut Raw,
    reader: &mut Reader,
    origin: Origin<'_>,
    is_wrapper: bool,
) -> Result<Config, Reported> {
    let enabled = reader.value("ENABLE_REGISTRY", raw.enable_registry.take(), values::flag);
    let off = match enabled {
        Ok(false) => Some(Off::Disabled),
        _ if is_wrapper && raw.domains.is_none() && raw.routes.is_none() => Some(Off::NoRoutes),
        // If the switch itself is wrong, check the rest as if it were on.
        _ => None,
    };
    let required = off.is_none();
    let is_named = required || raw.etcd_endpoints.is_some();
    let registry = registry(raw, reader);
    let (service, instance) = names(raw, reader, origin.context.host_name, is_named);
    let metadata = reader.value("METADATA", raw.metadata.take(), values::metadata);
    let address = address(raw, reader, is_wrapper);
    let wants_compression = raw.compression.is_some();
    let routes = routes::routes(raw, reader, required);
    let known_routes: &[RouteConfig] = match &routes {
        Ok(routes) => &routes.list,
        Err(Reported) => &[],
    };
    let fallback_port = routes.as_ref().map_or(1, |routes| routes.port);
    let backend_host = address.as_ref().ok().and_then(|address| address.backend_host.clone());
    let checks = || derived_checks(known_routes, fallback_port, backend_host);
    let readiness = readiness(raw, reader, checks, origin);
    let maintenance = maintenance(raw, reader);
    let drain_timeout = reader.value("DRAIN_TIMEOUT", raw.drain_timeout.take(), values::wire);
    let control_socket = reader.optional("CONTROL_SOCKET", raw.control_socket.take(), values::path);
    let when_stranded = reader.value("WHEN_STRANDED", raw.when_stranded.take(), values::when_stranded);
    let metrics_listen = reader.optional("METRICS_LISTEN", raw.metrics_listen.take(), values::listen_address);
    let log = log(raw, reader);
    let node = match (&service, &instance, &metadata, &routes) {
        (Ok(Some(service)), Ok(Some(instance)), Ok(metadata), Ok(routes)) => Some(NodeConfig {
            service: service.clone(),
            instance: instance.clone(),
            metadata: metadata.clone(),
            route: routes.list.first().cloned(),
            port: routes.port,
        }),
        _ => None,
    };
    let etcd = etcd::etcd(raw, reader, node);
    let (routes, registry, metadata) = (routes?.list, registry?, metadata?);
    enabled?;
    let registration = match (required, service?, instance?) {
        (true, Some(service), Some(instance)) => {
            Some(RegistrationConfig { registry, service, instance, metadata, routes, wants_compression })
        }
        _ => None,
    };
    Ok(Config {
        registration,
        off,
        etcd: etcd?,
        command: None,
        address: address?,
        readiness: readiness?,
        maintenance: maintenance?,
        drain_timeout: drain_timeout?,
        control_socket: ControlSocket { path: control_socket?, owner: None },
        when_stranded: when_stranded?,
        metrics_listen: metrics_listen?,
        log: log?,
        arguments: None,
        warnings: Vec::new(),
    })
}

fn registry(raw: &mut Raw, reader: &mut Reader) -> Result<RegistryConfig, Reported> {
    let port = reader.value("REGISTRY_PORT", raw.registry_port.take(), values::linked_port);
    let default_port = *port.as_ref().unwrap_or(&1);
    let endpoints =
        reader.value("REGISTRY_HOST", raw.registry_host.take(), |text| values::endpoints(text, default_port));
    let each_address = reader.value("REGISTRY_EACH_ADDRESS", raw.registry_each_address.take(), values::flag);
    let token = reader.optional("REGISTRY_TOKEN", raw.registry_token.take(), values::token);
    let service_token = reader.optional("SERVICE_TOKEN", raw.service_token.take(), values::token);
    let keepalive = reader.value("KEEPALIVE_INTERVAL", raw.keepalive_interval.take(), values::positive);
    let request_timeout = reader.value("REQUEST_TIMEOUT", raw.request_timeout.take(), values::positive);
    let reconnect = reconnect(raw, reader);
    port?;
    let (reconnect_min, reconnect_max) = reconnect?;
    Ok(RegistryConfig {
        endpoints: endpoints?,
        each_address: each_address?,
        token: token?,
        service_token: service_token?,
        keepalive: keepalive?,
        request_timeout: request_timeout?,
        reconnect_min,
        reconnect_max,
    })
}

fn reconnect(raw: &mut Raw, reader: &mut Reader) -> Result<(GoDuration, GoDuration), Reported> {
    let (min_set, max_set) = (raw.reconnect_min.is_some(), raw.reconnect_max.is_some());
    let min = reader.value("RECONNECT_MIN", raw.reconnect_min.take(), values::positive);
    let max = reader.value("RECONNECT_MAX", raw.reconnect_max.take(), values::positive);
    let (min, max) = (min?, max?);
    if min <= max {
        return Ok((min, max));
    }
    // Report the variable that was set; if both were, the first.
    let max_alone = max_set && !min_set;
    Err(match max_alone {
        true => reader.refuse("RECONNECT_MAX", format!("it is less than RECONNECT_MIN, {min}")),
        false => reader.refuse("RECONNECT_MIN", format!("it is more than RECONNECT_MAX, {max}")),
    })
}

/// SERVICE_NAME and INSTANCE_NAME, which may be missing unless they are `required`.
fn names(
    raw: &mut Raw,
    reader: &mut Reader,
    host_name: &str,
    required: bool,
) -> (Result<Option<ServiceName>, Reported>, Result<Option<InstanceName>, Reported>) {
    let service = match (required, raw.service_name.take()) {
        (false, None) => Ok(None),
        (_, text) => reader.value("SERVICE_NAME", text, values::wire).map(Some),
    };
    let known = service.as_ref().ok().and_then(Option::as_ref);
    let instance = instance(raw, reader, host_name, required, known);
    (service, instance)
}

/// INSTANCE_NAME, or the host name, with a warning where that is a container's id.
fn instance(
    raw: &mut Raw,
    reader: &mut Reader,
    host_name: &str,
    required: bool,
    service: Option<&ServiceName>,
) -> Result<Option<InstanceName>, Reported> {
    let given = reader.optional("INSTANCE_NAME", raw.instance_name.take(), values::wire)?;
    if given.is_some() || !required {
        return Ok(given);
    }
    let Ok(name) = host_name.parse::<InstanceName>() else {
        return Err(reader.missing(
            "INSTANCE_NAME",
            "it is not set, and this host has no name to use instead",
            &["INSTANCE_NAME"],
        ));
    };
    if is_container_id(host_name) {
        let service = service.map_or("my-service", |service| service.as_str());
        reader.warn(format!(
            "INSTANCE_NAME is not set and the host name {host_name} is a container's id, which is another one \
             after every update; add to the environment: INSTANCE_NAME: \"{service}-1\" \
             (in a swarm: INSTANCE_NAME: \"{{{{.Service.Name}}}}.{{{{.Task.Slot}}}}\")"
        ));
    }
    Ok(Some(name))
}

/// Whether the name looks like a container's id: engines use its first twelve digits as the host name.
fn is_container_id(host_name: &str) -> bool {
    host_name.len() == 12 && host_name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn address(raw: &mut Raw, reader: &mut Reader, is_wrapper: bool) -> Result<AddressConfig, Reported> {
    let backend_host = reader.optional("BACKEND_HOST", raw.backend_host.take(), values::host);
    let each_address = reader.value("BACKEND_EACH_ADDRESS", raw.backend_each_address.take(), values::flag);
    let web_net = reader.value("WEB_NET_CIDR", raw.web_net_cidr.take(), values::network);
    let (backend_host, mut each_address) = (backend_host?, each_address?);
    let is_name = matches!(backend_host, Some(Host::Name(_)));
    if each_address && (is_wrapper || !is_name) {
        let why = match is_wrapper {
            true => "the command has the address of this container",
            false => "BACKEND_HOST is no name",
        };
        let spelled = reader.spelled("BACKEND_EACH_ADDRESS");
        reader.warn(format!("{spelled} has no effect: {why}"));
        each_address = false;
    }
    Ok(AddressConfig { backend_host, each_address, web_net: web_net? })
}

/// READY_CHECK and its like; `derived` gives the checks where it is not set.
fn readiness(
    raw: &mut Raw,
    reader: &mut Reader,
    derived: impl FnOnce() -> Vec<ReadyCheck>,
    origin: Origin<'_>,
) -> Result<ReadinessConfig, Reported> {
    let wait = reader.value("WAIT_FOR_PORT", raw.wait_for_port.take(), values::flag);
    let overdue = reader.value("PORT_WAIT_TIMEOUT", raw.port_wait_timeout.take(), values::positive);
    let checks = reader.optional("READY_CHECK", raw.ready_check.take(), values::ready_checks);
    for check in checks.as_ref().ok().and_then(Option::as_ref).into_iter().flatten() {
        if matches!(check, ReadyCheck::Https(place, _) if !is_verified(&place.host)) {
            reader.warn(format!("the certificate behind {check} is not verified: only a name can be"));
        }
    }
    let interval = reader.value("READY_INTERVAL", raw.ready_interval.take(), values::positive);
    let timeout = reader.value("READY_TIMEOUT", raw.ready_timeout.take(), values::positive);
    let rise = reader.value("READY_RISE", raw.ready_rise.take(), values::count);
    let fall = reader.value("READY_FALL", raw.ready_fall.take(), values::count);
    let given = checks?;
    let whole = given.is_some();
    let checks = given.unwrap_or_else(derived);
    let runs_commands = checks.iter().any(|check| matches!(check, ReadyCheck::Exec(_)));
    Ok(ReadinessConfig {
        wait: wait?,
        checks,
        whole,
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
        overdue: overdue?,
        environment: match runs_commands {
            true => Environment::without_ours(origin.vars),
            false => Environment::default(),
        },
    })
}

/// One check for each distinct host and port of the routes.
fn derived_checks(routes: &[RouteConfig], fallback_port: u16, backend_host: Option<Host>) -> Vec<ReadyCheck> {
    let mut checks = Vec::new();
    for route in routes {
        let check = ReadyCheck::at(route.host.clone().or_else(|| backend_host.clone()), route.port);
        if !checks.contains(&check) {
            checks.push(check);
        }
    }
    if checks.is_empty() {
        checks.push(ReadyCheck::at(backend_host, fallback_port));
    }
    checks
}

fn maintenance(raw: &mut Raw, reader: &mut Reader) -> Result<MaintenanceConfig, Reported> {
    let port = reader.value("MAINTENANCE_PORT", raw.maintenance_port.take(), values::port_or_none);
    let page = reader.optional("MAINTENANCE_PAGE", raw.maintenance_page.take(), values::path);
    let url = reader.optional("MAINTENANCE_PAGE_URL", raw.maintenance_page_url.take(), values::wire);
    let state = reader.optional("MAINTENANCE_STATE", raw.maintenance_state.take(), values::path);
    Ok(MaintenanceConfig { port: port?, page: page?, url: url?, state: state? })
}

fn log(raw: &mut Raw, reader: &mut Reader) -> Result<LogConfig, Reported> {
    let level = reader.value("LOG_LEVEL", raw.log_level.take(), values::level);
    let libraries = reader.value("LOG_LEVEL_LIBRARIES", raw.log_level_libraries.take(), values::level);
    let format = reader.value("LOG_FORMAT", raw.log_format.take(), values::format);
    Ok(LogConfig { level: level?, libraries: libraries?, format: format? })
}
