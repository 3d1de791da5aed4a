//! `registry-sidecar check`, the dry run: reports the configuration as understood, the address that would be
//! advertised and why, and the exact lines that would be sent. It changes nothing anywhere.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use registry_client::{Dialect, SystemResolver, dry_run};

use super::address::Lookup;
use super::config::{CommandConfig, CommandLine, Config, Endpoint, Off, RegistrationConfig};
use super::registries::intent;

/// The report. It resolves BACKEND_HOST and lists the interfaces, and sends nothing to a registry.
pub async fn check(config: &Config) -> String {
    let mut report = String::new();
    // Writing to a String cannot fail.
    let _ = config.warnings.iter().try_for_each(|line| writeln!(report, "warning: {line}"));
    config.command.iter().for_each(|command| describe_command(&mut report, command));
    let Some(registration) = &config.registration else {
        let _ = writeln!(report, "{}", config.off.unwrap_or(Off::Disabled));
        describe_node_alone(&mut report, config).await;
        return report;
    };
    describe(&mut report, config, registration);
    let lookup = Lookup {
        config: &config.address,
        registries: &registration.registry.endpoints,
        wrapped: config.command.is_some(),
        resolver: &SystemResolver,
    };
    let advertised = match lookup.once().await {
        Ok(choice) => {
            let _ = writeln!(report, "address      {choice}");
            choice.ip
        }
        Err(trouble) => {
            let _ = writeln!(report, "address      none yet: {trouble}");
            let _ = writeln!(report, "             (0.0.0.0 stands for it below)");
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        }
    };
    describe_node(&mut report, config, advertised);
    let mut intent = intent(registration, advertised);
    intent.maintenance_port = config.maintenance.port;
    for (registry, dialect) in [("registry-server", Dialect::ours()), ("go-proxy", Dialect::Reference)] {
        let _ = writeln!(report, "\nto a {registry} it would send:");
        let _ = dry_run(&intent, &dialect).iter().try_for_each(|line| writeln!(report, "    {line}"));
    }
    report
}

/// The node in etcd where nothing else is registered.
async fn describe_node_alone(report: &mut String, config: &Config) {
    if config.etcd.is_none() {
        return;
    }
    let lookup = Lookup {
        config: &config.address,
        registries: &[],
        wrapped: config.command.is_some(),
        resolver: &SystemResolver,
    };
    let advertised = match lookup.once().await {
        Ok(choice) => {
            let _ = writeln!(report, "address      {choice}");
            choice.ip
        }
        Err(trouble) => {
            let _ = writeln!(report, "address      none yet: {trouble}");
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        }
    };
    describe_node(report, config, advertised);
}

/// Where the node in etcd would be, and what it would say.
#[cfg(feature = "etcd")]
fn describe_node(report: &mut String, config: &Config, advertised: IpAddr) {
    let Some(etcd) = &config.etcd else { return };
    let node = super::nodes::node(&etcd.node, advertised);
    let base = &etcd.registry.base_path;
    let _ = writeln!(report, "etcd         {}, TTL {:?}", etcd.registry.endpoints.join(", "), etcd.ttl);
    let _ = writeln!(report, "node         {} of {} below {base}", node.name, etcd.node.service);
    let _ = node.info.iter().try_for_each(|(key, value)| writeln!(report, "             {key}={value}"));
}

#[cfg(not(feature = "etcd"))]
fn describe_node(_report: &mut String, _config: &Config, _advertised: IpAddr) {}

/// Describes the command, without the values of its environment.
fn describe_command(report: &mut String, command: &CommandConfig) {
    let _ = match &command.line {
        CommandLine::Shell(line) => writeln!(report, "command      sh -c {line:?}"),
        CommandLine::Program(program, arguments) => {
            writeln!(report, "command      {program:?} {arguments:?}")
        }
    };
    let _ = command.steps.iter().try_for_each(|step| writeln!(report, "step         {}", step.line));
    if let Some(every) = command.run_every {
        let _ = writeln!(report, "runs every   {every}");
    }
    if let Some(update) = &command.update {
        let _ = writeln!(report, "update       every {} asked by: {}", update.every, update.check);
        let lines = &mut update.steps.iter();
        let _ = lines.try_for_each(|step| writeln!(report, "update step  {}", step.line));
    }
    if runs_php_fpm(command) {
        let _ = writeln!(
            report,
            "note         php-fpm breaks off its requests at a stop unless process_control_timeout is set (10s)"
        );
    }
    if let Some(user) = &command.run_as {
        let _ = writeln!(report, "runs as      {}:{}, HOME {}", user.uid, user.gid, user.home);
    }
}

/// Whether the command looks like PHP-FPM, which has a setting of its own for the stop.
fn runs_php_fpm(command: &CommandConfig) -> bool {
    let words = match &command.line {
        CommandLine::Shell(line) => line.clone(),
        CommandLine::Program(program, arguments) => {
            let words = [program].into_iter().chain(arguments).map(|word| word.to_string_lossy());
            words.collect::<Vec<_>>().join(" ")
        }
    };
    words
        .split_whitespace()
        .any(|word| word.rsplit('/').next().is_some_and(|name| name.starts_with("php-fpm")))
}

fn describe(report: &mut String, config: &Config, registration: &RegistrationConfig) {
    let registries: Vec<String> = registration.registry.endpoints.iter().map(Endpoint::to_string).collect();
    let each = if registration.registry.each_address { ", each address of it" } else { "" };
    let _ = writeln!(report, "registry     {}{each}", registries.join(", "));
    let _ = writeln!(report, "service      {}", registration.service);
    let _ = writeln!(report, "instance     {}", registration.instance);
    for route in &registration.routes {
        let place = route.host.as_ref().map_or_else(|| "our address".to_owned(), ToString::to_string);
        let _ = writeln!(
            report,
            "route        {} {} -> {}://{place}:{} (priority {}, from {})",
            route.domains, route.path, route.scheme, route.port, route.priority, route.origin
        );
        let _ = match &route.health {
            Some(check) => writeln!(
                report,
                "             asked for {} every {}, within {}",
                check.path, check.interval, check.timeout
            ),
            None => writeln!(report, "             not checked by the proxy"),
        };
    }
    let checks: Vec<String> = config.readiness.checks.iter().map(ToString::to_string).collect();
    let _ = match config.readiness.wait {
        true => writeln!(report, "waits for    {}", checks.join(", ")),
        false => writeln!(report, "waits for    nothing (WAIT_FOR_PORT=false)"),
    };
    let _ = config
        .metrics_listen
        .iter()
        .try_for_each(|address| writeln!(report, "metrics      http://{address}/metrics"));
}
