//! Secrets are for the command: not for our own environment, our log, or `check`.

use std::process::Command;

use crate::{PATH, SIDECAR, code, run, text, wrap_script};

#[test]
fn a_secret_reaches_the_command_and_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("db");
    std::fs::write(&file, "correct horse\n").unwrap();
    let env = [
        ("SIDECAR_SECRETS", "DB_PASSWORD"),
        ("DB_PASSWORD_FILE", file.to_str().unwrap()),
        ("SIDECAR_ENV_URL", "x://u:%{DB_PASSWORD:url}@db"),
        ("SIDECAR_LOG_LEVEL", "trace"),
    ];
    let script = "[ \"$DB_PASSWORD\" = 'correct horse' ] && [ \"$URL\" = x://u:correct%20horse@db ] || exit 1
                  [ -z \"$DB_PASSWORD_FILE$SIDECAR_SECRETS\" ] && echo right; exec sleep 60";
    let sidecar = wrap_script(&env, script);
    sidecar.wait_for_log("right");
    let ours = std::fs::read(format!("/proc/{}/environ", sidecar.id())).unwrap();
    for place in [text(&ours), sidecar.log().join("\n")] {
        assert!(!place.contains("horse"), "{place}");
    }

    let mut check = Command::new(SIDECAR);
    check.env_clear().env("PATH", PATH).envs(env).args(["check", "--", "sh", "-c", "true"]);
    let output = check.output().unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(code(&output) == 0 && !said.contains("horse"), "{said}");
}

#[test]
fn a_secret_that_is_missing_stops_the_start_with_one_report() {
    let env = [("SIDECAR_SECRETS", "DB_PASSWORD, MAIL"), ("DB_PASSWORD_FILE", "/no/such/file")];
    let output = run(&env, &["echo", "started"]);
    let report = text(&output.stderr);
    assert_eq!((code(&output), text(&output.stdout).as_str()), (64, ""));
    assert!(report.contains("DB_PASSWORD") && report.contains("/run/secrets/mail"), "{report}");
}
