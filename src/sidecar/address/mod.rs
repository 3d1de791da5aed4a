//! Which address to advertise to the proxy: what the system has ([`interfaces`], `lookup`), which of it is right
//! (`choice`), and what to do when it changes (`watch`); the addresses of replicas (`replicas`); whether there is a network
//! at all (`stranded`). It knows no client and no registry session.

mod choice;
mod interfaces;
mod lookup;
mod replicas;
mod stranded;
mod watch;

pub(crate) use choice::Choice;
pub(crate) use interfaces::interfaces;
pub(crate) use lookup::Lookup;
pub(crate) use replicas::follow_replicas;
pub(crate) use stranded::until_stranded;
pub(crate) use watch::follow;
