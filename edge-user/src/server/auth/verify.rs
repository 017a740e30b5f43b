//! Who a caller is, told to the caller itself and to a proxy that asks before it passes a request on.

use hyper::{HeaderMap, StatusCode, header::HeaderValue};
use serde_json::json;

use super::{
    Auth, Good,
    answer::{Denial, json_answer},
    credential::Identity,
    query::required_roles,
};

impl Auth {
    pub(super) fn me(&self, headers: &HeaderMap) -> Result<Good, Denial> {
        let caller = self.identify(headers)?;
        let response = json_answer(StatusCode::OK, &json!({"username": caller.name, "roles": caller.roles}));
        Ok(Good::by(response, &caller))
    }

    pub(super) fn verify(&self, headers: &HeaderMap, query: Option<&str>) -> Result<Good, Denial> {
        let caller = self.identify(headers)?;
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
