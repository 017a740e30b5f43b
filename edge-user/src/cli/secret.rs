//! `edge secret …`: signing secrets, made and replaced.

use serde_json::json;

use super::{
    args::{Global, Secret as Command},
    output::{Complaint, Outcome},
};
use crate::server::secret::generate;

pub fn secret(_global: &Global, command: &Command) -> Result<Outcome, Complaint> {
    match command {
        Command::Generate => {
            let secret = generate()?;
            Ok(Outcome::new(json!({ "secret": secret }), secret))
        }
    }
}
