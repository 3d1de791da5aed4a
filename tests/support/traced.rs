//! The real server with its system calls written down.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use tempfile::TempDir;

use crate::programs::{Program, free_address, wait_until};

pub(crate) struct Traced {
    pub(crate) registry: SocketAddr,
    program: Program,
    folder: TempDir,
}

impl Traced {
    /// Starts `server` under strace with `arguments`, which say what is traced, and returns when it listens. `None`, and
    /// said so, where there is no strace.
    #[allow(clippy::print_stdout, reason = "whoever reads the result should know what it does not cover")]
    pub(crate) fn start(server: &str, arguments: &[&str], vars: &[(&str, &str)]) -> Option<Self> {
        if !Path::new("/usr/bin/strace").exists() {
            println!("NOT RUN: there is no strace here");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (registry, http) = (free_address(), free_address());
        let trace = folder.path().join("trace");
        // -D: the server is our child, so that it is what is killed.
        let all = [&["-D", "-f", "-o", trace.to_str().unwrap()], arguments, &[server]].concat();
        let addresses = [("REGISTRY_LISTEN", registry.to_string()), ("HTTP_LISTEN", http.to_string())];
        let vars = vars.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let env: Vec<_> = addresses.into_iter().chain(vars).collect();
        let program = Program::start("strace", "/usr/bin/strace", &all, &env);
        wait_until("the server listens", || TcpStream::connect(registry).is_ok());
        Some(Traced { registry, program, folder })
    }

    /// Kills the server. Returns what it did.
    pub(crate) fn end(mut self) -> String {
        self.program.kill();
        let read = || fs::read_to_string(self.folder.path().join("trace")).unwrap_or_default();
        wait_until("the trace is complete", || read().contains("killed by SIGKILL"));
        read()
    }
}
