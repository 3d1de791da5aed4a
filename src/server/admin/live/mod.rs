//! What people are shown of a running server, and how it reaches them as it changes.
//!
//! | file | what it does |
//! |---|---|
//! | `view` | the model of the page: plain data, the same for the page, the table of `status` and other programs |
//! | `reason` | pure: why a member is as it is, in words |
//! | `history` | pure: rates and percentiles of the last quarter of an hour, in a ring |
//! | `journal` | pure: the last things that happened, in a ring |
//! | `build` | pure: from a snapshot of the server to the model |
//! | `changes` | pure: what of the model has changed, part by part |
//! | `hub` | gathers, and sends changes to those who follow |

mod build;
mod changes;
mod history;
mod hub;
mod journal;
mod reason;
pub(super) mod view;

pub(super) use hub::{Hub, Subscription};
pub(super) use journal::{Entry, Level};
