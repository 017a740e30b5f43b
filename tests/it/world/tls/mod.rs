//! TLS as clients meet it: certificates by name, protocols, floods of handshakes, the redirect from plain HTTP.

pub mod session;
mod sni;
