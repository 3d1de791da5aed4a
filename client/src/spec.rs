//! The two pages that this library carries out, as they were when it was built. They exist in the documentation only.
//!
//! [`protocol`] is what goes over the wire, and [`semantics`] what both ends make of it. What they refer to besides, such as
//! the configuration of the programs, is documented with those.

/// The wire protocol.
///
/// [SEMANTICS]: crate::spec::semantics
/// [configuration]: crate::spec
#[doc = include_str!("../docs/PROTOCOL.md")]
pub mod protocol {}

/// What both ends do with the protocol.
///
/// [PROTOCOL]: crate::spec::protocol
/// [TLS]: crate::spec
/// [backup]: crate::spec
#[doc = include_str!("../docs/SEMANTICS.md")]
pub mod semantics {}
