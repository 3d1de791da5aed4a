//! Every command of the guides runs, and does what its page says.
//!
//! The blocks of a page are one shell script, which runs beside a server and a sidecar that this test starts. A block
//! with the info string
//!
//! - `sh` runs here, `sh docker` runs in `scripts/test-guides`, and `sh swarm` needs a swarm, so that nobody runs it;
//! - `text output` is what the block before it prints;
//! - with a file's name as its second word is that file.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::compose::{is_for_the_sidecar, services};
use super::page::{Block, Page, pages};
use super::programs::{Program, Server, caddy, free_address};

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");

/// What runs while a page's commands do, and the directory that they run in.
struct World {
    directory: TempDir,
    /// Of the sidecar, and where the server is.
    environment: Vec<(&'static str, String)>,
    _programs: Vec<Program>,
    _server: Server,
}

impl World {
    fn start() -> World {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let admin = free_address();
        let token = "correct-horse-battery-staple";
        let server = Server::start(SERVER, &[("ADMIN_LISTEN", &admin.to_string()), ("ADMIN_TOKEN", token)]);
        let application = free_address();
        let routes = r#"[{"domains": "app.example.com", "path": "/admin"}]"#;
        let page = free_address().port().to_string();
        let mut environment = server.sidecar_env(
            application.port(),
            &[
                ("SERVICE_NAME", "app"),
                ("INSTANCE_NAME", "app-1"),
                ("DOMAINS", "app.example.com"),
                ("SIDECAR_ROUTES", routes),
                ("MAINTENANCE_PORT", &page),
                ("SIDECAR_CONTROL_SOCKET", &path("control.sock")),
            ],
        );
        let application = caddy(application, "hello");
        let sidecar = Program::start("sidecar", SIDECAR, &[], &environment);
        sidecar.wait_for_log("live:");
        environment.push(("ADMIN_LISTEN", admin.to_string()));
        environment.push(("ADMIN_TOKEN", token.to_owned()));
        environment.push(("PROXY", server.http.to_string()));
        World { directory, environment, _programs: vec![sidecar, application], _server: server }
    }

    /// A file that a server has written which runs no more.
    fn make_state_file(&self) {
        let file = self.directory.path().join("state/registry.redb");
        fs::create_dir(file.parent().unwrap()).unwrap();
        let mut server = Server::start(SERVER, &[("STATE_FILE", file.to_str().unwrap())]);
        server.program.signal("TERM");
        assert!(server.program.wait().success());
    }

    /// Runs blocks of shell commands one after the other in one shell, which ends with the first that fails. Returns
    /// what each has printed.
    fn run(&self, page: &Page, blocks: &[Block]) -> Vec<String> {
        let mut script = String::from(
            "set -euo pipefail\n\
             curl() { command curl --connect-to \"localhost:80:$PROXY\" --connect-to \"localhost:8081:$ADMIN_LISTEN\" \"$@\"; }\n",
        );
        for (index, block) in blocks.iter().enumerate() {
            writeln!(script, "echo 'line {}:' >&2\n{{\n{}}} >{index}.out", block.line, block.text).unwrap();
        }
        let folder = |program: &str| Path::new(program).parent().unwrap().to_str().unwrap().to_owned();
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", [&folder(SIDECAR), &folder(SERVER), "/usr/local/bin:/usr/bin:/bin"].join(":"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let printed = |index| fs::read_to_string(self.directory.path().join(format!("{index}.out")));
        let printed: Vec<String> = (0..blocks.len()).map_while(|index| printed(index).ok()).collect();
        assert!(output.status.success(), "{}: {said}\n{}", page.path.display(), printed.join("\n"));
        printed
    }
}

fn guides() -> Vec<Page> {
    let mut guides = pages();
    guides.retain(|page| page.path.starts_with("docs/guides"));
    guides
}

/// The words of a block's info string.
fn is(block: &Block, words: &[&str]) -> bool {
    block.info == words
}

/// The commands of a page; what it says that they print, and the files that it names, are carried out on the way.
fn run_the_commands_of(page: &Page) -> usize {
    let blocks = page.blocks();
    let wanted: Vec<Option<String>> = blocks
        .iter()
        .enumerate()
        .filter(|(_, block)| is(block, &["sh"]))
        .map(|(at, _)| {
            blocks.get(at + 1).filter(|next| is(next, &["text", "output"])).map(|next| next.text.clone())
        })
        .collect();
    if wanted.is_empty() {
        return 0;
    }
    let world = World::start();
    if page.path.ends_with("backup.md") {
        world.make_state_file();
    }
    for block in &blocks {
        if let Some(name) = block.info.get(1).filter(|name| name.contains('.')) {
            fs::write(world.directory.path().join(name), &block.text).unwrap();
        }
    }
    let commands: Vec<Block> = blocks.into_iter().filter(|block| is(block, &["sh"])).collect();
    let printed = world.run(page, &commands);
    for ((block, printed), wanted) in commands.iter().zip(printed).zip(wanted) {
        let place = format!("{}:{}", page.path.display(), block.line);
        wanted.into_iter().for_each(|wanted| assert_eq!(printed, wanted, "{place}"));
    }
    commands.len()
}

#[test]
fn every_command_of_a_guide_runs_and_prints_what_the_guide_says() {
    let blocks: usize = guides().iter().map(run_the_commands_of).sum();
    assert!(blocks >= 10, "only {blocks} blocks were run");
}

#[test]
fn no_guide_has_commands_in_a_block_that_nobody_runs() {
    for page in guides() {
        let commands = ["docker ", "registry-", "curl ", "cargo "];
        for (index, line) in page.text.lines().enumerate() {
            let is_command = commands.iter().any(|command| line.trim_start().starts_with(command));
            let is_code = line.starts_with("    ");
            assert!(!(is_code && is_command), "{}:{}: use a block of sh", page.path.display(), index + 1);
        }
        for block in page.blocks() {
            let is_shell = block.info.first().is_some_and(|word| word == "sh");
            let known = [&["sh"][..], &["sh", "docker"], &["sh", "swarm"]];
            assert!(
                !is_shell || known.iter().any(|words| is(&block, words)),
                "{}:{}: who runs {:?}?",
                page.path.display(),
                block.line,
                block.info
            );
        }
    }
}

/// The environment of each example, as a container would get it, without a warning.
#[test]
fn every_compose_file_on_a_page_is_what_the_sidecar_understands() {
    let mut checked = 0;
    for page in pages() {
        for block in page.blocks() {
            if block.info.first().is_none_or(|word| word != "yaml") || !block.text.contains("services:") {
                continue;
            }
            let examples = services(&block.text, &PathBuf::new());
            for (service, environment) in examples.into_iter().filter(|(_, e)| is_for_the_sidecar(e)) {
                let needs_etcd = environment.iter().any(|(name, _)| name.starts_with("SIDECAR_ETCD_"));
                let output =
                    Command::new(SIDECAR).arg("check").env_clear().envs(environment).output().unwrap();
                let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                let is_good = if needs_etcd && !cfg!(feature = "etcd") {
                    // The page says so: a build without etcd refuses it, and says which build has it.
                    output.status.code() == Some(64) && said.contains("--features etcd")
                } else {
                    output.status.success() && !said.contains("warning")
                };
                assert!(is_good, "{}:{}: {service}: {said}", page.path.display(), block.line);
                checked += 1;
            }
        }
    }
    assert!(checked >= 2, "only {checked} services were looked at");
}

/// Names and figures aside.
#[test]
fn the_log_in_the_readme_is_what_a_sidecar_says() {
    let readme = Page::read(Path::new("README.md"));
    let shown =
        readme.blocks().into_iter().find(|block| block.text.starts_with("INFO registry-sidecar")).unwrap();
    let server = Server::start(SERVER, &[]);
    let application = free_address();
    let more =
        [("DOMAINS", "app.example.com"), ("BACKEND_HOST", "localhost"), ("REGISTRY_HOST", "localhost")];
    let environment = server.sidecar_env(application.port(), &more);
    let _application = caddy(application, "hello");
    let sidecar = Program::start("sidecar", SIDECAR, &[], &environment);
    sidecar.wait_for_log("live:");
    let log = sidecar.log();
    let mut said = log.iter();
    for line in shown.text.lines() {
        // On loopback the choice of an address has other reasons than between containers.
        if line.starts_with("INFO advertising ") {
            continue;
        }
        let found = said.any(|said| is_like(said, line));
        assert!(found, "the sidecar does not say {line:?} at this place:\n{}", log.join("\n"));
    }
}

/// Whether a line of the log, behind its time, has the words of an example. A word with a figure, and the name of a
/// container, stand for any other.
fn is_like(said: &str, example: &str) -> bool {
    let is_free = |word: &str| {
        word.contains(|c: char| c.is_ascii_digit())
            || ["hello-app", "proxy"].contains(&word.trim_end_matches([',', ':']))
    };
    let said: Vec<&str> = said.split_whitespace().skip(1).collect();
    let example: Vec<&str> = example.split_whitespace().collect();
    said.len() == example.len() && said.iter().zip(&example).all(|(said, word)| said == word || is_free(word))
}
