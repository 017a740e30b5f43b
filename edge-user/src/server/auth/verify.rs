//! Who a caller is, told to the caller itself and to a proxy that asks before it passes a request on.

use hyper::{StatusCode, header::HeaderValue};
use serde_json::json;

use super::{
    Auth, Good,
    answer::{Denial, json_answer},
    browser::{Asked, csrf_token},
    credential::{Identity, Kind},
    query::required_roles,
};

impl Auth {
    pub(super) fn me(&self, asked: &Asked<'_>) -> Result<Good, Denial> {
        let caller = self.identify_asked(asked)?;
        let mut told = json!({"username": caller.name, "roles": caller.roles});
        if let (Kind::Browser { .. }, Some(token)) = (caller.kind, csrf_token(asked.headers)) {
            told["csrf_token"] = token.into();
        }
        let response = json_answer(StatusCode::OK, &told);
        Ok(Good::by(response, &caller))
    }

    pub(super) fn verify(&self, asked: &Asked<'_>, query: Option<&str>) -> Result<Good, Denial> {
        let caller = self.identify_asked(asked)?;
        let Identity { name, roles, email, .. } = &caller;
        if !required_roles(query.unwrap_or_default()).all(|role| roles.contains(&role)) {
            return Err(Denial::forbidden(&caller));
        }
        let mut response = json_answer(StatusCode::OK, &json!({"username": name, "roles": roles}));
        let groups = roles.join(",");
        let email = email.iter().map(|email| ("x-auth-request-email", email));
        for (header, value) in
            [("x-auth-request-user", name), ("x-auth-request-groups", &groups)].into_iter().chain(email)
        {
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Denial::Unavailable)?;
            response.headers_mut().insert(header, value);
        }
        Ok(Good::by(response, &caller))
    }
}
