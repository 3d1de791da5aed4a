//! The environment of a wrapped command: what the variables mean, what contradicts itself, and that secrets go
//! to the command and nowhere else (SEMANTICS section 10).
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use registry_client::protocol::GoDuration;
use registry_sidecar::environment::{ConfigErrors, Context};
use registry_sidecar::sidecar::config::{
    COMMAND_VARIABLES, CommandConfig, CommandLine, Config, Off, Restart, VARIABLES,
};

const PASSWD: (&str, &str) =
    ("/etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n");
const ROOT: (&str, &str) =
    ("/proc/self/status", "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\n");
const BARE_ROOT: (&str, &str) =
    ("/proc/self/status", "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nCapEff:\t0000000000000000\n");

fn read_with(
    vars: &[(&str, &str)],
    files: &[(&str, &str)],
    arguments: Option<&[&str]>,
) -> Result<Config, ConfigErrors> {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    let read_file = |path: &Path| match files.get(path.to_str().unwrap()) {
        Some(content) => Ok(content.as_bytes().to_vec()),
        None => Err("there is no such file".to_owned()),
    };
    let vars = vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let arguments: Option<Vec<OsString>> = arguments.map(|words| words.iter().map(OsString::from).collect());
    Config::with_arguments(vars, Context { host_name: "web-1", read_file: &read_file }, arguments.as_deref())
}

const RUN: Option<&[&str]> = Some(&["app", "--serve"]);

fn command(vars: &[(&str, &str)], files: &[(&str, &str)]) -> CommandConfig {
    read_with(vars, files, RUN).unwrap().command.unwrap()
}

fn refused(vars: &[(&str, &str)], files: &[(&str, &str)]) -> String {
    read_with(vars, files, RUN).unwrap_err().to_string()
}

/// What the command gets to see under `name`.
fn seen(command: &CommandConfig, name: &str) -> Option<String> {
    let mut all = command.environment.reveal();
    all.find(|(key, _)| *key == name).map(|(_, value)| value.to_str().unwrap().to_owned())
}

#[test]
fn a_command_alone_is_enough_and_is_not_registered() {
    let config = read_with(&[], &[], RUN).unwrap();
    assert_eq!((config.registration, config.off), (None, Some(Off::NoRoutes)));
    let command = config.command.unwrap();
    assert_eq!(command.line, CommandLine::Program("app".into(), vec!["--serve".into()]));
    assert_eq!((command.restart, command.group, command.grace), (Restart::No, false, None));
    // One image, several roles: the name may be there for the role that is registered.
    assert_eq!(read_with(&[("SERVICE_NAME", "shop")], &[], RUN).unwrap().off, Some(Off::NoRoutes));
    assert!(read_with(&[], &[], None).is_err(), "beside an application there is nothing else to do");
}

#[test]
fn with_a_route_it_is_registered() {
    let vars = [("SERVICE_NAME", "shop"), ("DOMAINS", "shop.example.com")];
    let config = read_with(&vars, &[], RUN).unwrap();
    assert!(config.registration.is_some() && config.off.is_none());
    // A route without a name is a mistake, as ever.
    assert!(refused(&[("DOMAINS", "shop.example.com")], &[]).contains("SERVICE_NAME"));
}

#[test]
fn a_shell_line_is_signalled_as_a_group() {
    for arguments in [None, Some(&[] as &[&str])] {
        let vars = [("ENTRY_COMMAND", "npm ci && npm start"), ("APP_DIR", "/app")];
        let command = read_with(&vars, &[], arguments).unwrap().command.unwrap();
        assert_eq!(command.line, CommandLine::Shell("npm ci && npm start".to_owned()));
        assert_eq!(command.directory.as_deref(), Some(Path::new("/app")));
        assert!(command.group);
    }
}

#[test]
fn two_dashes_with_nothing_after_them_say_exactly_that() {
    let report = read_with(&[], &[], Some(&[])).unwrap_err().to_string();
    assert!(report.starts_with("registry-sidecar --: nothing stands after it"), "{report}");
    assert!(report.contains("ENTRYPOINT") && report.contains("CMD"), "{report}");
}

#[test]
fn what_contradicts_itself_is_one_report() {
    let report = refused(
        &[
            ("ENTRY_COMMAND", "npm start"),
            ("APP_DIR", "app"),
            ("SIDECAR_RUN_EVERY", "1m"),
            ("SIDECAR_RESTART", "always"),
        ],
        &[],
    );
    assert!(report.contains("ENTRY_COMMAND") && report.contains("after --"), "{report}");
    let report = refused(
        &[
            ("APP_DIR", "app"),
            ("SIDECAR_RUN_EVERY", "1m"),
            ("SIDECAR_RESTART", "always"),
            ("SIDECAR_STOP_SIGNAL", "KILL"),
            ("SIDECAR_SIGNAL_REWRITE", "15:3,TERM:HUP"),
            ("SIDECAR_PRE_START_FAILURE", "ignore"),
            ("SIDECAR_WAIT_FOR", "postgres:5432"),
            ("SIDECAR_STOP_GRACE_PERIOD", "0s"),
        ],
        &[],
    );
    for expected in
        ["APP_DIR", "RESTART", "STOP_SIGNAL", "SIGNAL_REWRITE", "PRE_START_FAILURE", "WAIT_FOR", "STOP_GRACE"]
    {
        assert!(report.contains(expected), "{expected} is missing in:\n{report}");
    }
    let scheduled = [("SERVICE_NAME", "cron"), ("DOMAINS", "a.example.com"), ("SIDECAR_RUN_EVERY", "1m")];
    assert!(refused(&scheduled, &[]).contains("RUN_EVERY"));
    let off = [&scheduled[..], &[("ENABLE_REGISTRY", "false")]].concat();
    let minute = GoDuration::from_secs(60);
    assert_eq!(command(&off, &[]).run_every, Some(minute));
}

#[test]
fn updates_need_a_check_and_a_command_and_no_schedule() {
    let check = ("SIDECAR_UPDATE_CHECK", "test -e /new");
    let lines = ("SIDECAR_UPDATE_COMMAND", "# Unpacking\nunzip -o /new\nnpm ci");
    let update = command(&[check, lines, ("UPDATE_CHECK_INTERVAL", "10m")], &[]).update.unwrap();
    let names: Vec<_> = update.steps.iter().map(|step| step.name.as_deref().unwrap()).collect();
    assert_eq!((names, update.every), (vec!["Unpacking", "npm"], GoDuration::from_secs(600)));
    assert!(refused(&[check], &[]).contains("UPDATE_COMMAND does not say"));
    assert!(refused(&[lines], &[]).contains("UPDATE_CHECK does not say"));
    assert!(refused(&[check, lines, ("SIDECAR_RUN_EVERY", "1m")], &[]).contains("UPDATE_CHECK"));
    // Images set this one for themselves, in every role.
    assert_eq!(read_with(&[("UPDATE_CHECK_INTERVAL", "10m")], &[], RUN).unwrap().warnings, [""; 0]);
}

#[test]
fn the_page_and_the_application_do_not_share_a_port() {
    let vars = [("SERVICE_NAME", "shop"), ("DOMAINS", "a.example.com"), ("PORT", "3000")];
    let same = [&vars[..], &[("MAINTENANCE_PORT", "3000")]].concat();
    assert!(refused(&same, &[]).contains("a port of its own"));
    let other = [&vars[..], &[("MAINTENANCE_PORT", "3001")]].concat();
    assert!(read_with(&other, &[], RUN).is_ok());
}

#[test]
fn a_drain_that_does_not_fit_into_the_grace_period_is_pointed_out() {
    let vars = [("SIDECAR_STOP_GRACE_PERIOD", "10s"), ("SIDECAR_DRAIN_TIMEOUT", "30s")];
    let warnings = read_with(&vars, &[], RUN).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("does not fit"), "{warnings:?}");
    assert_eq!(read_with(&vars[..1], &[], RUN).unwrap().warnings, [""; 0]);
}

#[test]
fn what_says_more_about_something_that_nobody_asked_for_is_pointed_out() {
    let vars = [("SIDECAR_PRE_START_FAILURE", "warn"), ("SIDECAR_RESTART_DELAY", "1s")];
    let warnings = read_with(&vars, &[], RUN).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "SIDECAR_PRE_START_FAILURE has no effect: PRE_START is not set",
            "SIDECAR_RESTART_DELAY has no effect: RESTART is not set",
        ]
    );
}

#[test]
fn every_variable_of_a_command_has_a_value_that_is_refused_and_an_example_that_is_not() {
    let refusals: &[(&str, &str)] = &[
        ("APP_DIR", "app"),
        ("RUN_AS", "somebody"),
        ("WAIT_FOR", "udp://dns:53"),
        ("WAIT_FOR_TIMEOUT", "0"),
        ("PRE_START_FAILURE", "ignore"),
        ("PRE_START_TIMEOUT", "-1s"),
        ("RESTART", "sometimes"),
        ("RESTART_DELAY", "soon"),
        ("RUN_EVERY", "0"),
        ("UPDATE_CHECK_INTERVAL", "-1s"),
        ("UPDATE_TIMEOUT", "-1s"),
        ("SECRETS", "A-B"),
        ("DRAIN_PORTS", "9000,http"),
        ("STOP_SIGNAL", "KILL"),
        ("STOP_GRACE_PERIOD", "0s"),
        ("SIGNAL_GROUP", "perhaps"),
        ("SIGNAL_REWRITE", "15"),
    ];
    let files = [("/run/secrets/DB_PASSWORD", "x")];
    for name in COMMAND_VARIABLES {
        let spelled = format!("SIDECAR_{name}");
        let known = VARIABLES.iter().find(|known| known.name == *name).unwrap();
        assert!(known.implemented, "{name}");
        // These two are of no use without each other.
        let with = match *name {
            "UPDATE_CHECK" => ("SIDECAR_UPDATE_COMMAND", "true"),
            "UPDATE_COMMAND" => ("SIDECAR_UPDATE_CHECK", "true"),
            _ => ("UNRELATED", "x"),
        };
        command(&[(&spelled, known.example), with], &files);
        // Any text may be a shell line.
        if !["PRE_START", "UPDATE_CHECK", "UPDATE_COMMAND"].contains(name) {
            let (_, value) = refusals.iter().find(|(refused, _)| refused == name).expect(name);
            let errors = read_with(&[(&spelled, value)], &files, RUN).unwrap_err();
            let [problem] = errors.problems() else { panic!("{name}: {errors}") };
            assert_eq!(problem.variable, spelled);
        }
    }
}

#[test]
fn what_needs_a_command_is_pointed_out_where_there_is_none() {
    let vars = [("SERVICE_NAME", "shop"), ("DOMAINS", "a.example.com"), ("SIDECAR_RESTART", "always")];
    let config = read_with(&vars, &[], None).unwrap();
    assert_eq!(config.warnings, ["SIDECAR_RESTART has no effect: there is no command to run"]);
}

#[test]
fn secrets_come_from_files_as_they_are_but_for_line_ends_and_a_mark_and_name_file_is_gone() {
    let command = command(
        &[
            ("SIDECAR_SECRETS", "DB_PASSWORD, API_KEY MAIL_TOKEN GIVEN"),
            ("DB_PASSWORD_FILE", "/secrets/db"),
            ("DB_PASSWORD", ""),
            ("GIVEN", "as it is"),
            ("UNRELATED_FILE", "/x"),
        ],
        &[
            ("/secrets/db", "\u{feff}  correct horse \r\n\n"),
            ("/run/secrets/API_KEY", "key\n"),
            ("/run/secrets/mail_token", "token"),
        ],
    );
    assert_eq!(seen(&command, "DB_PASSWORD").unwrap(), "  correct horse ");
    assert_eq!(seen(&command, "DB_PASSWORD_FILE"), None);
    assert_eq!(seen(&command, "API_KEY").unwrap(), "key");
    assert_eq!(seen(&command, "MAIL_TOKEN").unwrap(), "token");
    assert_eq!(seen(&command, "GIVEN").unwrap(), "as it is");
    assert_eq!(seen(&command, "UNRELATED_FILE").unwrap(), "/x");
}

#[test]
fn what_is_meant_for_us_is_not_for_the_command() {
    let command = command(&[("SIDECAR_SERVICE_TOKEN", "s3cret"), ("SIDECAR_X", "x"), ("PATH", "/bin")], &[]);
    let names: Vec<_> = command.environment.reveal().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, ["PATH"]);
}

#[test]
fn values_are_composed_of_secrets_and_variables() {
    let command = command(
        &[
            ("SIDECAR_SECRETS", "DB_PASSWORD PREFIX?"),
            ("DB_HOST", "mysql"),
            ("SIDECAR_ENV_DATABASE_URL", "mysql://u:%{DB_PASSWORD:url}@%{DB_HOST}/%{PREFIX}x"),
        ],
        &[("/run/secrets/db_password", "a/b c")],
    );
    assert_eq!(seen(&command, "DATABASE_URL").unwrap(), "mysql://u:a%2Fb%20c@mysql/x");
}

#[test]
fn a_missing_secret_stops_the_start_and_an_optional_one_is_a_warning() {
    let report = refused(&[("SIDECAR_SECRETS", "DB_PASSWORD")], &[]);
    for expected in ["DB_PASSWORD", "/run/secrets/DB_PASSWORD", "/run/secrets/db_password"] {
        assert!(report.contains(expected), "{report}");
    }
    let config = read_with(&[("SIDECAR_SECRETS", "DB_PASSWORD?")], &[], RUN).unwrap();
    assert!(config.warnings[0].contains("DB_PASSWORD"), "{:?}", config.warnings);
    let empty = [("SIDECAR_SECRETS", "A"), ("A_FILE", "/a")];
    assert!(refused(&empty, &[("/a", " \n")]).contains("empty"));
    let both = [("SIDECAR_SECRETS", "A"), ("A_FILE", "/a"), ("A", "x")];
    assert!(refused(&both, &[("/a", "y")]).contains("keep one of the two"));
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    let files = [("/run/secrets/a", "correct horse")];
    let vars =
        [("SIDECAR_SECRETS", "A"), ("SIDECAR_ENV_URL", "x://%{A}"), ("SIDECAR_ENV_BAD", "battery %{B}")];
    let report = refused(&vars, &files);
    assert!(report.contains("SIDECAR_ENV_BAD") && report.contains("%{B}"), "{report}");
    assert!(!report.contains("horse") && !report.contains("battery"), "{report}");
    let config = read_with(&vars[..2], &files, RUN).unwrap();
    assert!(!format!("{config:?}").contains("horse"));
}

#[test]
fn another_user_is_looked_up_and_missing_capabilities_are_named_at_the_start() {
    let files = [PASSWD, ROOT];
    let command = command(&[("SIDECAR_RUN_AS", "app"), ("HOME", "/root")], &files);
    let run_as = command.run_as.as_ref().unwrap();
    assert_eq!((run_as.uid, run_as.gid), (1000, 1000));
    assert_eq!(seen(&command, "HOME").unwrap(), "/home/app");
    let report = refused(&[("SIDECAR_RUN_AS", "app")], &[PASSWD, BARE_ROOT]);
    assert!(report.contains("SETUID, SETGID, KILL"), "{report}");
    assert!(refused(&[("SIDECAR_RUN_AS", "nobody")], &files).contains("/etc/passwd"));
}

#[test]
fn steps_are_lines() {
    let command = command(&[("SIDECAR_PRE_START", "npm ci\n\n# comment\n  chown -R app /data \n")], &[]);
    let lines: Vec<_> = command.steps.iter().map(|step| step.line.as_str()).collect();
    assert_eq!(lines, ["npm ci", "chown -R app /data"]);
    assert_eq!(command.step_timeout, Some(GoDuration::from_secs(900)));
}

#[test]
fn an_interval_of_zero_turns_the_checks_for_updates_off() {
    let both = [("SIDECAR_UPDATE_CHECK", "true"), ("SIDECAR_UPDATE_COMMAND", "true")];
    for off in ["0", "0s"] {
        let env = [&both[..], &[("UPDATE_CHECK_INTERVAL", off)]].concat();
        assert_eq!(command(&env, &[]).update, None, "{off}");
    }
    assert!(command(&both, &[]).update.is_some());
}
