//! Which address to advertise to the proxy: what the system has ([`interfaces`], `lookup`), which of it is right
//! (`choice`), and what to do when it changes (`watch`). It knows no client and no registry session.

mod choice;
mod interfaces;
mod lookup;
mod watch;

pub(crate) use interfaces::interfaces;
pub(crate) use lookup::Lookup;
pub(crate) use watch::follow;
