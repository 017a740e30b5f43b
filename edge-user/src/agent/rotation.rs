//! A new signing secret: whether the one that is in force can be rotated, and the new one in force without anything else
//! of the config. The caller writes the file, and keeps the former secret in the store.

use super::{
    Agent,
    prepare::{Next, NextServer, Refusal},
};
use crate::{
    config::{self, SigningFrom},
    control::{
        protocol::{Answer, Reply, Rotate},
        server::Order,
    },
    error::Failure,
};

impl Agent {
    /// What the agent signs with may come from elsewhere than the caller's config says.
    pub(super) fn can_rotate(&self, rotate: &Rotate) -> Result<(), Failure> {
        let Some(server) = &self.config.server else { return Ok(()) };
        if self.trial.pending().is_some() {
            return Err(Failure::refused(
                "a reload waits to be confirmed, and its revert would bring the former secret back; run `edge reload \
                 --keep` first",
            ));
        }
        rotatable(&server.auth)?;
        if server.auth.signing_file != rotate.file {
            return Err(Failure::refused(format!(
                "the agent signs with the secret in {}, and the config names {}; run `edge reload` first",
                server.auth.signing_file.display(),
                rotate.file.display()
            )));
        }
        Ok(())
    }

    pub(super) async fn rotated(&mut self, order: Order, next: Result<Box<Next>, Refusal>) {
        let failed = |failure: Failure| {
            let message =
                format!("the new secret is written, but not in force: {}; run `edge reload`", failure.message);
            Err(Failure { message, ..failure })
        };
        let (answer, retired): (Answer, _) = match next {
            Ok(next) => match next.server {
                server @ NextServer::Another(..) => (Ok(Reply::Noted), self.serve_by(server).await),
                NextServer::AsItIs | NextServer::None => (Ok(Reply::Noted), None),
            },
            Err(Refusal::Errors(errors)) => (failed(errors.into()), None),
            Err(Refusal::Failure(failure)) => (failed(failure), None),
        };
        self.answer_when_retired(order, answer, retired, None);
    }
}

/// Whether this process takes the secret from the file that the config names.
pub fn rotatable(auth: &config::Auth) -> Result<(), Failure> {
    if !auth.algorithm.is_symmetric() {
        return Err(Failure::refused(format!(
            "{} signs with a private key, not a secret; write a new key to {} with `openssl genpkey`, then `edge reload`",
            auth.algorithm.name(),
            auth.signing_file.display()
        )));
    }
    match config::signing_from(auth) {
        SigningFrom::File(_) => Ok(()),
        SigningFrom::Variable(name) => Err(Failure::refused(format!(
            "the signing secret comes from the variable {name}, which edge cannot change; set it to what `edge secret \
             generate` prints and restart the agent"
        ))),
        SigningFrom::Credential(file) => Err(Failure::refused(format!(
            "the signing secret comes from the systemd credential {}, which edge cannot change; change what \
             LoadCredential= names and restart the unit",
            file.display()
        ))),
    }
}
