//! What a client's connection and the requests on it know of each other.
//!
//! | module | what it is |
//! |---|---|
//! | `connection_state` | the state that they share |
//! | `socket_state` | the part of it that is shared with the socket, which hyper owns |
//! | `response_state` | whether bytes on the connection belong to a response |
//! | `disconnect` | notices that the client is gone while nothing is read |
//! | `timer` | one timer for all waits of a connection |
//!
//! It must not know how a request is answered, nor how the connection is read and written.

pub(crate) mod connection_state;
pub(crate) mod disconnect;
pub(crate) mod response_state;
pub(crate) mod socket_state;
pub(crate) mod timer;
