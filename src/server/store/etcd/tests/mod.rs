//! Stories about the shared store: its pure parts over a model of etcd, and all of it over real ones.

mod commits;
mod images;
mod leaders;
mod model;
mod real;
