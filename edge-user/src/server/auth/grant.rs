//! `POST /auth/token`: tokens for a password, a refresh token or a key (RFC 6749). Its refusals are that RFC's.

use bytes::Bytes;
use hyper::{
    Request, StatusCode,
    body::Body,
    header::{HeaderValue, PRAGMA},
};
use serde_json::json;

use super::{
    Auth, Good,
    answer::{Denial, json_answer},
    query::Form,
    token::Stamp,
};
use crate::{
    clock::Wall,
    server::{
        report::Ends,
        users::{Key, SessionKind},
    },
};

/// What a token is given for.
pub(super) const GRANTS: [&str; 3] = ["password", "refresh_token", "client_credentials"];

impl Auth {
    pub(super) async fn token<B>(&self, ends: Ends, request: Request<B>) -> Result<Good, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        let headers = request.headers().clone();
        let form = self.form(request).await?;
        let client = self.client_key(&headers, &form)?;
        let grant = form.value("grant_type").ok_or(Denial::Malformed)?;
        if !GRANTS.contains(&grant) {
            return Err(Denial::UnsupportedGrant);
        }
        // edge has roles and no scopes, and what it does not grant it must not seem to.
        if form.value("scope").is_some() {
            return Err(Denial::InvalidScope);
        }
        let mut good = match grant {
            "password" => self.by_password(ends, &form).await?,
            "refresh_token" => self.by_refresh_token(&form).await?,
            _ => self.by_client(client)?,
        };
        good.response.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
        Ok(good)
    }

    async fn by_password(&self, ends: Ends, form: &Form) -> Result<Good, Denial> {
        let field = |name| form.value(name).map(str::to_owned).ok_or(Denial::Malformed);
        let (username, password) = (field("username")?, field("password")?);
        let session = self.sign_in(ends, SessionKind::Password, username, password).await.map_err(Denial::granted)?;
        Ok(Good { is_sign_in: true, ..self.tokens_for(session, Wall::now())? })
    }

    async fn by_refresh_token(&self, form: &Form) -> Result<Good, Denial> {
        let token = form.value("refresh_token").ok_or(Denial::Malformed)?;
        self.refreshed(token.to_owned()).await.map_err(Denial::granted)
    }

    fn by_client(&self, client: Option<Key>) -> Result<Good, Denial> {
        let nobody = || Denial::Client { cause: Box::new(Denial::NoCredential), by_basic: false };
        let (key, now) = (client.ok_or_else(nobody)?, Wall::now());
        self.seen.key(key.row, now);
        let stamp = Stamp { generation: key.generation, family: key.row };
        let ends = key.expires.map_or(now.plus(self.tokens.ttl()), |ends| ends.min(now.plus(self.tokens.ttl())));
        let access_token = self.tokens.issue_until(&key.caller(), stamp, now, ends).map_err(|failure| {
            tracing::error!("{failure}");
            Denial::Unavailable
        })?;
        let lasts = (ends.0 / 1000 - now.0 / 1000).max(0);
        let body = json!({"access_token": access_token, "token_type": "bearer", "expires_in": lasts});
        Ok(Good { key_id: Some(key.id()), ..Good::of(json_answer(StatusCode::OK, &body), key.caller()) })
    }
}
