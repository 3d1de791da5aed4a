//! The log: text for people, JSON for collectors. Used by all, uses none.
