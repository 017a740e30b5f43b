//! The real binary between real clients.
