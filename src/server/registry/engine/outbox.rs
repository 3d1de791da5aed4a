//! Effects on their way out, in the order in which they came about.

use crate::server::registry::api::{Effect, Happening};
use crate::server::registry::model::ConnId;
use registry_client::protocol::ServerLine;

use super::Engine;

impl Engine {
    pub(super) fn send(&mut self, conn: ConnId, line: impl Into<ServerLine>) {
        self.push(Effect::Send(conn, line.into()));
    }

    pub(crate) fn log(&mut self, happening: Happening) {
        self.push(Effect::Happened(happening));
    }

    /// Queues an effect behind everything that has led to it. The table is published before anybody is told.
    pub(crate) fn push(&mut self, effect: Effect) {
        self.flush_pools(matches!(effect, Effect::Send(..) | Effect::Event(..) | Effect::Close(_)));
        self.effects.push(effect);
    }

    /// Queues what the members' changes have led to, and the table if it is to be published now.
    pub(super) fn flush_pools(&mut self, publish: bool) {
        let known = self.effects.len();
        self.effects.extend(self.pools.take_effects());
        for effect in &self.effects[known..] {
            if let Effect::Happened(happening) = effect {
                self.subscriptions.note_health(&self.sessions, happening);
            }
        }
        if publish && let Some(table) = self.pools.take_table() {
            self.effects.push(Effect::Publish(table));
            if self.pools.take_departure() {
                self.effects.push(Effect::Departure);
            }
        }
    }
}
