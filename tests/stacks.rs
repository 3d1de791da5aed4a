//! The stacks that people copy: each is what the sidecar understands, without a warning. `registry-sidecar check`
//! says so, with the environment that the stack gives.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "support/compose.rs"]
mod compose;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use compose::{Environment, is_for_the_sidecar, services};

const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_environment_of_every_stack_is_understood_without_a_warning() {
    let mut checked = 0;
    for stack in stacks() {
        let text = fs::read_to_string(&stack).unwrap();
        for (service, mut environment) in services(&text, stack.parent().unwrap()) {
            if !is_for_the_sidecar(&environment) {
                continue;
            }
            let place = format!("{}: {service}", stack.display());
            let secrets = tempfile::tempdir().unwrap();
            give_secrets(&mut environment, secrets.path());
            let words = command(&text, &service, stack.parent().unwrap());
            let output = Command::new(SIDECAR)
                .arg("check")
                .args(
                    words
                        .iter()
                        .flat_map(|words| std::iter::once("--").chain(words.iter().map(String::as_str))),
                )
                .env_clear()
                .envs(&environment)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success(), "{place}: {said}");
            assert!(!said.contains("warning"), "{place}: {said}");
            checked += 1;
        }
    }
    assert!(checked >= 11, "only {checked} services were looked at");
}

#[test]
fn every_image_has_the_same_three_lines() {
    for dockerfile in files("Dockerfile") {
        let text = fs::read_to_string(&dockerfile).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let has = |line: &str| assert!(lines.contains(&line), "{}: no {line}", dockerfile.display());
        has("COPY --from=registry-sidecar /registry-sidecar /usr/local/bin/registry-sidecar");
        has(r#"ENTRYPOINT ["registry-sidecar", "--"]"#);
        // An ENTRYPOINT empties an inherited CMD: it is given, or ENTRY_COMMAND is.
        let stack = fs::read_to_string(dockerfile.with_file_name("docker-compose.swarm.yml"));
        let by_stack = stack.is_ok_and(|stack| stack.contains("ENTRY_COMMAND:"));
        let given = lines.last().unwrap().starts_with("CMD [") || by_stack;
        assert!(given, "{}", dockerfile.display());
    }
}

/// The stacks of the repository.
fn stacks() -> Vec<PathBuf> {
    let mut stacks = files("docker-compose.swarm.yml");
    stacks.extend(["docker-compose.yml", "docker-compose.swarm.yml"].map(|name| Path::new(ROOT).join(name)));
    stacks
}

/// The files of this name in the folders of `deploy`.
fn files(name: &str) -> Vec<PathBuf> {
    let folders = listed(&Path::new(ROOT).join("deploy"));
    folders.into_iter().map(|folder| folder.join(name)).filter(|file| file.exists()).collect()
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The secrets that the engine would mount, as files elsewhere.
fn give_secrets(environment: &mut Environment, folder: &Path) {
    let names = environment.get("SIDECAR_SECRETS").cloned().unwrap_or_default();
    for name in names.split_whitespace() {
        let file = folder.join(name.trim_end_matches('?'));
        fs::write(&file, "secret").unwrap();
        environment.insert(format!("{}_FILE", name.trim_end_matches('?')), file.to_str().unwrap().to_owned());
    }
}

/// What stands behind `--` in a service's container; `None`: it has no wrapped image.
fn command(stack: &str, service: &str, folder: &Path) -> Option<Vec<String>> {
    let own = stack.split(&format!("\n  {service}:\n")).nth(1)?;
    let own = own.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let line = own.filter_map(|line| line.strip_prefix("    command: ")).next().map(str::to_owned);
    // A service of the stacks at the root that runs an image of `deploy` says its command itself.
    let inherited = || {
        let dockerfile =
            fs::read_to_string(folder.join("Dockerfile")).ok().filter(|_| folder != Path::new(ROOT))?;
        let line = dockerfile.lines().find_map(|line| line.strip_prefix("CMD ")).map(str::to_owned);
        Some(line.unwrap_or_else(|| "[]".to_owned()))
    };
    line.or_else(inherited).map(|line| serde_json::from_str(&line).unwrap())
}
