//! A client library: keeps one session with a registry alive and converges it to an intent.
