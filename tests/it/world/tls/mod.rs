//! TLS as clients meet it: certificates by name, protocols, floods of handshakes, the redirect from plain HTTP, and what scanners say.

mod acme;
mod development;
mod flood;
mod redirect;
mod scanners;
pub mod session;
mod sni;
