//! What operators and their programs ask of a running daemon: the control socket, and metrics.

pub mod control;
mod metrics;
mod status;

pub(crate) use metrics::serve as serve_metrics;
