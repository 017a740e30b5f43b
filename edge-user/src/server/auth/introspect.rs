//! What other services of the operator ask with an internal key: what a token is (RFC 7662), and that it be good no more
//! (RFC 7009).

use bytes::Bytes;
use hyper::{HeaderMap, Request, Response, StatusCode, body::Body};
use serde_json::{Value, json};

use super::{
    Auth, Good,
    answer::{Denial, json_answer},
    credential::{Bearer, Identity, Kind, is_key},
    query::Form,
};
use crate::{
    clock::Wall,
    server::users::{Key, KeyKind, Peeked},
};

impl Auth {
    pub(super) async fn introspect<B>(&self, request: Request<B>) -> Result<Good, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        let (caller, form) = self.asked(request).await?;
        let token = form.value("token").ok_or(Denial::Malformed)?;
        let about = self.about(token)?.unwrap_or_else(|| json!({"active": false}));
        Ok(Good::by(json_answer(StatusCode::OK, &about), &caller))
    }

    pub(super) async fn revoke<B>(&self, request: Request<B>) -> Result<Good, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        let (caller, form) = self.asked(request).await?;
        let token = form.value("token").ok_or(Denial::Malformed)?.to_owned();
        if is_key(&token) {
            return Err(Denial::UnsupportedToken);
        }
        match self.known(self.by_token(&token))? {
            Some(Bearer { identity, .. }) => self.revoke_single(&identity).await?,
            None => self.store.write(move |store| store.end_session_of(&token)).await.map(drop)?,
        }
        // Of one that is not good there is nothing to tell (RFC 7009, section 2.2).
        Ok(Good::by(Response::default(), &caller))
    }

    /// Revokes the one token that a caller came with; a session that it belongs to goes on.
    pub(super) async fn revoke_single(&self, identity: &Identity) -> Result<(), Denial> {
        let Some(token) = identity.token.clone() else { return Ok(()) };
        self.store.write(move |store| store.revoke_token(&token.digest, token.until, Wall::now())).await
    }

    /// Who asks, and what. All of it is read before anybody is refused: over HTTP/2 many clients do not see an answer that
    /// comes before they have sent all.
    async fn asked<B>(&self, request: Request<B>) -> Result<(Identity, Form), Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        let headers = request.headers().clone();
        let form = self.form(request).await;
        Ok((self.internal(&headers)?, form?))
    }

    fn internal(&self, headers: &HeaderMap) -> Result<Identity, Denial> {
        let identity = self.identify(headers)?;
        match identity.kind {
            Kind::Key { kind: KeyKind::Internal, .. } => Ok(identity),
            Kind::Key { .. } | Kind::User { .. } | Kind::External | Kind::Browser { .. } => {
                Err(Denial::forbidden(&identity))
            }
        }
    }

    /// What there is to say of a token that is good.
    fn about(&self, token: &str) -> Result<Option<Value>, Denial> {
        if is_key(token) {
            return Ok(self.known(self.key(token, KeyKind::Api))?.map(|key| self.about_key(&key)));
        }
        if let Some(bearer) = self.known(self.by_token(token))? {
            return Ok(Some(about_bearer(&bearer)));
        }
        match self.store.read(|store| store.peek_refresh(token, Wall::now()))? {
            Peeked::Good { user, begun, expires } => Ok(Some(self.about_name(&user, begun, Some(expires)))),
            Peeked::Ended | Peeked::Unknown => Ok(None),
        }
    }

    fn about_key(&self, key: &Key) -> Value {
        self.about_name(&key.caller(), key.created, key.expires)
    }

    fn about_name(&self, name: &str, begun: Wall, expires: Option<Wall>) -> Value {
        let (issuer, audience) = (self.tokens.issuer(), self.tokens.audience());
        let mut about = json!({
            "active": true, "sub": name, "username": name, "iat": begun.0 / 1000, "iss": issuer, "aud": audience,
        });
        if let Some(expires) = expires {
            about["exp"] = json!(expires.0 / 1000);
        }
        about
    }

    /// `None` for what is not good; what could not be looked at is an error all the same.
    fn known<T>(&self, judged: Result<T, Denial>) -> Result<Option<T>, Denial> {
        match judged {
            Ok(good) => Ok(Some(good)),
            Err(Denial::Unavailable) => Err(Denial::Unavailable),
            Err(_) => Ok(None),
        }
    }
}

fn about_bearer(bearer: &Bearer) -> Value {
    let Bearer { identity, issuer, subject, audience, issued, expires } = bearer;
    let audience = match audience.as_slice() {
        [one] => json!(one),
        several => json!(several),
    };
    json!({
        "active": true, "token_type": "bearer", "sub": subject, "username": identity.name, "roles": identity.roles,
        "exp": expires, "iat": issued, "iss": issuer, "aud": audience,
    })
}
