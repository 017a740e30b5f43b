//! The unprivileged child: TLS, auth endpoints, users and tokens. It has no capability, no map and another uid; all
//! it can say to the agent are the messages of [`link`].

pub mod link;
pub mod sandbox;
pub mod secret;
pub mod spawn;
pub mod tls;
pub mod users;
