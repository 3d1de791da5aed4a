//! Connections, byte by byte: each direction is a queue of pieces with times, cut at any byte.

use std::net::Ipv4Addr;
use std::time::Duration;

use registry_sidecar::server::registry::ConnId;

use super::cast::ProcId;
use super::faults::Kind;

/// Never given twice.
pub(crate) type LinkId = u64;

/// From the client to the registry, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

/// What travels.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// Nothing follows.
    Fin,
    /// The connection is broken.
    Reset,
}

/// A TCP connection between a sidecar and the registry.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) proc: ProcId,
    pub(crate) conn: ConnId,
    /// The client's address.
    pub(crate) from: Ipv4Addr,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
    /// Each end, as long as it has not let go.
    pub(crate) client_open: bool,
    pub(crate) server_open: bool,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    /// How many bytes were ever written.
    written: usize,
    /// Nothing arrives before what was sent earlier.
    last: Duration,
    /// What is written gets lost.
    pub(crate) dead: bool,
    trap: Option<Trap>,
}

/// Something that goes wrong behind a certain byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trap {
    pub(crate) after: usize,
    pub(crate) kind: Kind,
    /// How long, where that matters.
    pub(crate) time: Duration,
}

/// How the network is just now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) now: Duration,
    /// From end to end.
    pub(crate) latency: Duration,
    /// Nothing passes before.
    pub(crate) held_until: Duration,
}

impl Link {
    pub(crate) fn new(proc: ProcId, conn: ConnId, from: Ipv4Addr) -> Self {
        let (up, down) = (Pipe::default(), Pipe::default());
        Link { proc, conn, from, up, down, client_open: true, server_open: true }
    }

    pub(crate) fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    /// Nothing passes any more, and nobody is told.
    pub(crate) fn go_dead(&mut self) {
        (self.up.dead, self.down.dead) = (true, true);
    }

    /// Whether one end may wait for the other for ever.
    pub(crate) fn is_half_open(&self) -> bool {
        self.up.dead || self.down.dead || !self.client_open
    }
}

impl Pipe {
    /// Sets a trap so many bytes from here.
    pub(crate) fn set_trap(&mut self, trap: Trap) {
        self.trap = Some(Trap { after: self.written + trap.after, ..trap });
    }

    /// When a piece that is sent now arrives; `None`: never.
    pub(crate) fn arrival(&mut self, weather: Weather) -> Option<Duration> {
        let earliest = (weather.now + weather.latency).max(weather.held_until + weather.latency);
        self.last = self.last.max(earliest);
        (!self.dead).then_some(self.last)
    }

    /// Writes up to the next trap. Returns how many bytes were taken, and the trap if it sprang.
    pub(crate) fn take(&mut self, offered: usize) -> (usize, Option<Trap>) {
        let until = self.trap.map_or(usize::MAX, |trap| trap.after - self.written);
        if offered <= until {
            self.written += offered;
            return (offered, None);
        }
        self.written += until;
        (until, self.trap.take())
    }

    /// Whatever is sent from now on is late.
    pub(crate) fn delay(&mut self, until: Duration) {
        self.last = self.last.max(until);
    }
}
