//! Signing in with a password, what goes on from it, and signing out.

use bytes::Bytes;
use hyper::{
    Request, Response, StatusCode,
    body::Body,
    header::{HeaderValue, SET_COOKIE},
};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Auth, Good,
    answer::{Denial, json_answer},
    browser::{Asked, SESSION, set_cookie},
    credential::Kind,
    hashing::{Busy, Unfinished},
    token::Stamp,
};
use crate::{
    clock::Wall,
    server::{
        report::Ends,
        users::{Account, Refreshed, Session, SessionKind, SignIn, Who, is_outdated, password_matches, renewed},
    },
};

#[derive(Deserialize)]
struct Login {
    username: String,
    password: String,
}

#[derive(Deserialize)]
struct Refresh {
    refresh_token: String,
}

impl Auth {
    pub(super) async fn login<B>(&self, ends: Ends, request: Request<B>) -> Result<Good, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        let body = self.body(request).await?;
        self.login_with(ends, &body).await
    }

    /// With what was sent as JSON.
    pub(super) async fn login_with(&self, ends: Ends, body: &[u8]) -> Result<Good, Denial> {
        let Login { username, password } = serde_json::from_slice(body).map_err(|_| Denial::Malformed)?;
        let session = self.sign_in(ends, SessionKind::Password, username, password).await?;
        self.tokens_for(session, Wall::now())
    }

    /// Begins a session for whoever knows the password. Who does not learns nothing but that.
    pub(super) async fn sign_in(
        &self,
        ends: Ends,
        kind: SessionKind,
        username: String,
        password: String,
    ) -> Result<Session, Denial> {
        let (account, renewed) = self.account_of(ends, &username, password).await?;
        let sign_in = SignIn { kind, peer: ends.peer.ip(), now: Wall::now(), ttl: self.refresh_ttl };
        let begun = self.store.write(move |store| {
            if let Some(hash) = renewed {
                store.renew_hash(&account, &hash)?;
            }
            store.begin_session(&account, sign_in)
        });
        let session = begun.await?.ok_or(Denial::Login { account: username })?;
        self.report.signed_in(ends, &session.user).await;
        Ok(session)
    }

    /// The same at a browser: whom the session is of, and the cookie that holds it.
    pub(super) async fn begin_browser(
        &self,
        ends: Ends,
        username: String,
        password: String,
    ) -> Result<(String, String), Denial> {
        let (account, renewed) = self.account_of(ends, &username, password).await?;
        let (idle, absolute) = self.browser_session;
        let sign_in = SignIn { kind: SessionKind::Browser, peer: ends.peer.ip(), now: Wall::now(), ttl: idle };
        let user = account.name.clone();
        let begun = self.store.write(move |store| {
            if let Some(hash) = renewed {
                store.renew_hash(&account, &hash)?;
            }
            store.begin_browser(Who::Account(&account), sign_in, absolute)
        });
        let cookie = begun.await?.ok_or(Denial::Login { account: username })?;
        self.report.signed_in(ends, &user).await;
        Ok((user, cookie))
    }

    /// The account whose password it is, and a hash to keep in place of an outdated one.
    async fn account_of(
        &self,
        ends: Ends,
        username: &str,
        password: String,
    ) -> Result<(Account, Option<String>), Denial> {
        let password = Zeroizing::new(password);
        let turn = self.hashing.turn(self.client(ends.peer.ip())).await.map_err(|Busy| Denial::Busy)?;
        let (account, schemes) = self.store.read(|store| Ok((store.lookup(username)?, store.schemes()?)))?;
        let judged = turn.hash(move || judge(account, &schemes, &password));
        let refused = || Denial::Login { account: username.to_owned() };
        judged.await.map_err(|Unfinished| Denial::Unavailable)?.ok_or_else(refused)
    }

    pub(super) async fn refresh<B>(&self, request: Request<B>) -> Result<Good, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        let Refresh { refresh_token } = self.json(request).await?;
        self.refreshed(refresh_token).await
    }

    /// The next tokens of a session.
    pub(super) async fn refreshed(&self, refresh_token: String) -> Result<Good, Denial> {
        let (now, ttl) = (Wall::now(), self.refresh_ttl);
        match self.store.write(move |store| store.refresh(&refresh_token, now, ttl)).await? {
            Refreshed::Good(session) => self.tokens_for(session, now),
            Refreshed::Spent => Err(Denial::Token { guessed: false, account: None }),
            Refreshed::Unknown => Err(Denial::Token { guessed: true, account: None }),
        }
    }

    pub(super) async fn logout(&self, asked: &Asked<'_>) -> Result<Good, Denial> {
        let caller = self.identify_asked(asked)?;
        match caller.kind {
            Kind::User { session: Some(session) } | Kind::Browser { session } => {
                self.store.write(move |store| store.end_session(session)).await?
            }
            // No session of edge's own: the token alone.
            Kind::User { session: None } | Kind::Key { .. } | Kind::External => self.revoke_single(&caller).await?,
        }
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        if let Kind::Browser { .. } = caller.kind
            && let Ok(gone) = HeaderValue::from_str(&set_cookie(SESSION, "", Some(0)))
        {
            response.headers_mut().insert(SET_COOKIE, gone);
        }
        Ok(Good::by(response, &caller))
    }

    pub(super) fn tokens_for(&self, session: Session, now: Wall) -> Result<Good, Denial> {
        let stamp = Stamp { generation: session.generation, family: session.family };
        let access_token = self.tokens.issue(&session.user, stamp, now).map_err(|failure| {
            tracing::error!("{failure}");
            Denial::Unavailable
        })?;
        let body = json!({
            "access_token": access_token,
            "token_type": "bearer",
            "expires_in": self.tokens.ttl().as_secs(),
            "refresh_token": session.refresh_token,
        });
        Ok(Good::of(json_answer(StatusCode::OK, &body), session.user))
    }
}

/// The account, where the password is its own; and a hash to keep in place of one that edge would not make today.
fn judge(account: Option<Account>, schemes: &[String], password: &str) -> Option<(Account, Option<String>)> {
    let matches = password_matches(account.as_ref(), schemes, password);
    let account = account.filter(|_| matches)?;
    let hash = is_outdated(&account.hash).then(|| renewed(password).ok()).flatten();
    Some((account, hash))
}
