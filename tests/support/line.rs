//! A connection to a registry that runs as a program, a line at a time.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a failed assumption ends the test")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One connection to the registry.
pub struct Line(BufReader<TcpStream>);

impl Line {
    pub fn open(registry: SocketAddr) -> Option<Line> {
        let stream = TcpStream::connect(registry).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        Some(Line(BufReader::new(stream)))
    }

    /// The reply, unless the server is gone.
    pub fn ask(&mut self, line: &str) -> Option<String> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).ok()?;
        let mut reply = String::new();
        // A line that ends in the middle was not said.
        self.0.read_line(&mut reply).ok()?;
        reply.strip_suffix('\n').map(str::to_owned)
    }

    /// Sends a line, or several.
    pub fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    /// The next line without its end; `None` at EOF.
    pub fn read(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        line.strip_suffix('\n').map(str::to_owned)
    }
}
