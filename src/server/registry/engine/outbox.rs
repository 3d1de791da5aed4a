//! Effects on their way out, in the order in which they came about.

use registry_client::protocol::ServerLine;

use crate::server::registry::api::{Effect, LogEvent};
use crate::server::registry::model::ConnId;

use super::Engine;

impl Engine {
    /// Sends a line in its turn: behind the answers to the BACKEND_TESTs that came before what it answers.
    pub(super) fn send(&mut self, conn: ConnId, line: impl Into<ServerLine>) {
        if let Some(line) = self.connections.in_turn(conn, line.into()) {
            self.push(Effect::Send(conn, line));
        }
    }

    /// Writes what happened to a session to the log. A follower leaves that to the leader.
    pub(crate) fn log(&mut self, event: LogEvent) {
        if self.role.leads() {
            self.push(Effect::Log(event));
        }
    }

    /// Queues an effect behind everything that has led to it. The table is published before anybody is told.
    pub(crate) fn push(&mut self, effect: Effect) {
        self.flush_membership(matches!(effect, Effect::Send(..) | Effect::Event(..) | Effect::Close(_)));
        self.effects.push(effect);
    }

    /// Queues what the members' changes have led to, and the table if it is to be published now.
    pub(super) fn flush_membership(&mut self, publish: bool) {
        let known = self.effects.len();
        self.effects.extend(self.membership.take_effects());
        for effect in &self.effects[known..] {
            if let Effect::Log(event) = effect {
                self.subscriptions.note_health(&self.sessions, event);
            }
        }
        if publish && let Some(table) = self.membership.take_table() {
            self.effects.push(Effect::Publish(table));
            if self.membership.take_departure() {
                self.effects.push(Effect::Departure);
            }
        }
    }
}
