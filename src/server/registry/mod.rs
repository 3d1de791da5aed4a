//! Sessions, staging, apply: one pure state machine.
