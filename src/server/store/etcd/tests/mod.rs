//! Stories about the shared store: its pure parts over a model of etcd.

mod commits;
mod images;
mod leaders;
mod model;
