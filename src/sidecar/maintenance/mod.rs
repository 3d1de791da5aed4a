//! Maintenance: what operators have asked for, and the page that people get meanwhile (SEMANTICS section 5).
//!
//! | module | what it does |
//! |---|---|
//! | `windows` | pure: what is in maintenance, why, until when; what to ask of the sessions when that changes |
//! | `state_file` | MAINTENANCE_STATE, in which windows survive a restart |
//! | `handle` | [`Maintenance`]: changes the windows, tells the sessions, saves |
//! | `expiry` | ends windows whose time has come |
//! | `page` | serves the page |

mod expiry;
mod handle;
mod page;
mod state_file;
mod windows;

pub(crate) use expiry::end_expired_windows;
pub(crate) use handle::Maintenance;
pub(crate) use page::serve_page;
pub(crate) use windows::{Window, duration_text};
