//! TLS as clients meet it: certificates by name, protocols, floods of handshakes, the redirect from plain HTTP.

mod acme;
mod development;
mod flood;
mod redirect;
pub mod session;
mod sni;
