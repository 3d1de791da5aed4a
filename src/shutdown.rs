//! Being asked to stop: signals in, one watchable state out. Used by all, uses none.
