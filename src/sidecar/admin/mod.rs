//! What operators and their programs can ask of a running daemon: the control socket and the metrics.

pub mod control;
mod metrics;
mod status;

pub(crate) use metrics::serve as serve_metrics;
