//! What others verify edge's tokens with: the public keys (RFC 7517), and where they are (OpenID Connect Discovery 1.0,
//! section 3, as far as it is about tokens).

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{CACHE_CONTROL, HeaderValue},
};
use serde_json::json;

use super::{
    answer::{Denial, json_answer},
    grant::GRANTS,
    token::Tokens,
};

pub const JWKS: &str = "/.well-known/jwks.json";
pub const METADATA: &str = "/.well-known/openid-configuration";

/// A key that is rotated is known to others after so long, in seconds.
const KEPT: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// Empty with a secret, which verifies and signs alike and is nobody else's.
pub fn jwks(tokens: &Tokens) -> Response<Full<Bytes>> {
    let keys: Vec<_> = tokens.key().public().into_iter().collect();
    kept(json_answer(StatusCode::OK, &json!({"keys": keys})))
}

/// Nothing with a secret: nobody can verify with what it would point to.
pub fn metadata(tokens: &Tokens) -> Result<Response<Full<Bytes>>, Denial> {
    let key = tokens.key();
    key.public().ok_or(Denial::NotFound)?;
    let issuer = tokens.issuer();
    let at = |path: &str| format!("{}{path}", issuer.trim_end_matches('/'));
    Ok(kept(json_answer(
        StatusCode::OK,
        &json!({
            "issuer": issuer,
            "jwks_uri": at(JWKS),
            "token_endpoint": at("/auth/token"),
            "introspection_endpoint": at("/auth/introspect"),
            "revocation_endpoint": at("/auth/revoke"),
            "grant_types_supported": GRANTS,
            "id_token_signing_alg_values_supported": [key.algorithm().name()],
            "subject_types_supported": ["public"],
            "response_types_supported": [],
        }),
    )))
}

fn kept(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert(CACHE_CONTROL, KEPT);
    response
}
