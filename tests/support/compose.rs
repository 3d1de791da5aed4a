//! The environment of each service in a Compose file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use registry_sidecar::sidecar::config::PREFIX;

pub(crate) type Environment = BTreeMap<String, String>;

/// Whether a sidecar reads this environment.
pub(crate) fn is_for_the_sidecar(environment: &Environment) -> bool {
    environment.keys().any(|name| name.starts_with(PREFIX) || name == "REGISTRY_HOST")
}

/// Each service with its environment, as Compose would give it. It reads the YAML that these stacks are written
/// in, no other.
pub(crate) fn services(text: &str, folder: &Path) -> BTreeMap<String, Environment> {
    let mut services: BTreeMap<String, Environment> = BTreeMap::new();
    let (mut section, mut service, mut key) = ("", String::new(), "");
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let (depth, line) = (line.len() - line.trim_start().len(), line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        assert!(!line.contains('\t'), "a tab is no YAML: {line}");
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        match depth {
            0 => section = name,
            _ if section != "services" => {}
            2 => service = name.to_owned(),
            4 => {
                key = name;
                services.entry(service.clone()).or_default();
                if name == "env_file" {
                    let file = fs::read_to_string(folder.join(value.trim())).unwrap();
                    let lines = file.lines().filter(|line| !line.starts_with('#'));
                    services.entry(service.clone()).or_default().extend(
                        lines
                            .filter_map(|line| line.split_once('='))
                            .map(|(a, b)| (a.to_owned(), b.to_owned())),
                    );
                }
            }
            6 if key == "environment" => {
                let value = match value.trim() {
                    "|" => block(&mut lines, depth),
                    value => scalar(value),
                };
                services.entry(service.clone()).or_default().insert(name.to_owned(), given(&value));
            }
            _ => {}
        }
    }
    services
}

/// The lines of a block scalar, which are indented more than its key.
fn block<'a>(lines: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>, depth: usize) -> String {
    let mut block = String::new();
    while let Some(line) =
        lines.next_if(|line| line.trim().is_empty() || line.len() - line.trim_start().len() > depth)
    {
        block.push_str(line.trim());
        block.push('\n');
    }
    block
}

/// Without quotes, or without the comment behind it.
fn scalar(value: &str) -> String {
    match value.strip_prefix('"') {
        Some(rest) => rest.split('"').next().unwrap_or_default().to_owned(),
        None => value.split(" #").next().unwrap_or_default().trim().to_owned(),
    }
}

/// As the container gets it: what swarm and Compose replace is replaced.
fn given(value: &str) -> String {
    let value = value.replace("{{.Service.Name}}.{{.Task.Slot}}", "stack_service.1");
    assert!(!value.replace("$$", "").contains('$'), "Compose would replace something in {value}");
    value.replace("$$", "$")
}
