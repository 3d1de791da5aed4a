//! `registry-sidecar nodes SERVICE [--follow] [--json]`: the nodes of a service as they are in etcd.

use std::fmt::Write as _;
use std::io::{self, Write};

use registry_nodes::{Config, Info, Registry, Snapshot};
use serde_json::json;

/// etcd is not reached: the convention of sysexits for a service that is not there.
const UNAVAILABLE: u8 = 69;

/// The command, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodesCommand {
    service: String,
    follow: bool,
    as_json: bool,
}

impl NodesCommand {
    /// From the words after `nodes`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(words: &[String]) -> Result<NodesCommand, String> {
        let mut command = NodesCommand { service: String::new(), follow: false, as_json: false };
        for word in words {
            match word.as_str() {
                "--follow" => command.follow = true,
                "--json" => command.as_json = true,
                flag if flag.starts_with('-') => return Err(format!("{flag} is not understood here")),
                service if command.service.is_empty() => command.service = service.to_owned(),
                _ => return Err("nodes takes one service".to_owned()),
            }
        }
        match command.service.is_empty() {
            true => Err("nodes takes the name of a service".to_owned()),
            false => Ok(command),
        }
    }

    /// Writes the nodes to `out`, and what is wrong to `complaints`; with `--follow` again after each change, for ever.
    /// The exit code: 0, or 69 where etcd is not reached.
    ///
    /// # Errors
    /// Where nothing can be written.
    pub async fn run(
        self,
        config: Config,
        out: &mut impl Write,
        complaints: &mut impl Write,
    ) -> io::Result<u8> {
        let registry = match Registry::new(config) {
            Ok(registry) => registry,
            Err(problem) => return refuse(complaints, &problem),
        };
        match self.follow {
            false => match registry.snapshot(&self.service).await {
                Ok(snapshot) => self.show(&snapshot, out).map(|()| 0),
                Err(problem) => refuse(complaints, &problem),
            },
            true => self.watch(&registry, out, complaints).await,
        }
    }

    async fn watch(
        &self,
        registry: &Registry,
        out: &mut impl Write,
        complaints: &mut impl Write,
    ) -> io::Result<u8> {
        let mut watch = match registry.watch(&self.service) {
            Ok(watch) => watch,
            Err(problem) => return refuse(complaints, &problem),
        };
        let (mut shown, mut told) = (None, None);
        loop {
            let view = watch.next().await;
            if let Some(snapshot) =
                view.snapshot.as_ref().filter(|snapshot| Some(*snapshot) != shown.as_ref())
            {
                self.show(snapshot, out)?;
                shown = Some(snapshot.clone());
            }
            if let Some(trouble) = view.trouble.as_ref().filter(|trouble| Some(*trouble) != told.as_ref()) {
                writeln!(complaints, "registry-sidecar: {trouble}; still trying")?;
            }
            told = view.trouble.clone();
        }
    }

    fn show(&self, snapshot: &Snapshot, out: &mut impl Write) -> io::Result<()> {
        let text = if self.as_json { as_json(&self.service, snapshot) } else { self.as_text(snapshot) };
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// One line for each node; with `--follow` each list has a line above it.
    fn as_text(&self, snapshot: &Snapshot) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        if self.follow {
            let _ = writeln!(
                text,
                "# {}: {} nodes, revision {}",
                self.service,
                snapshot.nodes.len(),
                snapshot.revision
            );
        }
        for (name, info) in &snapshot.nodes {
            let _ = writeln!(text, "{name}{}", pairs(info));
        }
        for (name, why) in &snapshot.unreadable {
            let _ = writeln!(text, "{name} cannot be read: {why}");
        }
        text
    }
}

fn pairs(info: &Info) -> String {
    info.iter().map(|(key, value)| format!(" {key}={value}")).collect()
}

/// One line of JSON.
fn as_json(service: &str, snapshot: &Snapshot) -> String {
    let nodes: Vec<_> = snapshot.nodes().map(|node| json!({"name": node.name, "info": node.info})).collect();
    let document = json!({
        "service": service,
        "revision": snapshot.revision,
        "nodes": nodes,
        "unreadable": snapshot.unreadable,
    });
    format!("{document}\n")
}

fn refuse(complaints: &mut impl Write, problem: &impl std::fmt::Display) -> io::Result<u8> {
    writeln!(complaints, "registry-sidecar: {problem}")?;
    Ok(UNAVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_a_service_and_flags_in_any_order() {
        let parse = |words: &[&str]| {
            NodesCommand::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        let command = parse(&["--json", "web", "--follow"]).unwrap();
        assert_eq!(command, NodesCommand { service: "web".to_owned(), follow: true, as_json: true });
        for wrong in [&[][..], &["--json"], &["a", "b"], &["a", "--all"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
