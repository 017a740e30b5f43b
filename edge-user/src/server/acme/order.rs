//! One order: account, proof of each name, a fresh key, the certificate. All HTTP goes by the fetcher.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use instant_acme::{
    Account, AuthorizationStatus, BodyWrapper, BytesResponse, CertificateIdentifier, ChallengeType, Error, HttpClient,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::{Challenges, Kept};
use crate::{
    fetch::{Fetch, Limits},
    server::link::{Acme, CertificatePem},
};

/// An authority may take its time to look, and to issue.
const POLLED: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(180));
const LIMITS: Limits = Limits { bytes: 1 << 20, time: Duration::from_secs(30) };

/// Why there is no certificate.
pub struct Failed {
    pub message: String,
    /// The authority was asked for it, and counts that.
    pub ordered: bool,
}

impl Failed {
    fn before(error: impl ToString) -> Failed {
        Failed { message: error.to_string(), ordered: false }
    }

    fn ordered(error: impl ToString) -> Failed {
        Failed { message: error.to_string(), ordered: true }
    }
}

/// The account that is kept, or a new one.
pub async fn account(acme: &Acme, kept: &Kept, fetch: &Fetch) -> Result<Account, Failed> {
    let builder = Account::builder_with_http(Box::new(Client(fetch.clone())));
    if let Some(credentials) = kept.account(&acme.directory) {
        return builder.from_credentials(credentials).await.map_err(Failed::before);
    }
    let contact: Vec<&str> = acme.contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let created = builder.create(&new, acme.directory.clone(), None).await;
    let (account, credentials) = created.map_err(Failed::before)?;
    kept.keep_account(&acme.directory, credentials)
        .map_err(|error| Failed::before(format!("the account cannot be kept: {error}")))?;
    Ok(account)
}

/// `way`: how names are proven; `replaces`: the certificate that this one is for.
pub async fn order(
    acme: &Acme,
    (kept, fetch, challenges): (&Kept, &Fetch, &Challenges),
    way: &ChallengeType,
    replaces: Option<CertificateIdentifier<'_>>,
) -> Result<CertificatePem, Failed> {
    let account = account(acme, kept, fetch).await?;
    let names: Vec<_> = acme.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut new = NewOrder::new(&names);
    if let Some(replaces) = replaces {
        new = new.replaces(replaces);
    }
    let mut order = account.new_order(&new).await.map_err(|error| {
        if is_unknown_account(&error) {
            kept.forget_account();
        }
        Failed::before(error)
    })?;
    let proven = prove(&mut order, way, challenges).await;
    challenges.forget();
    proven.map_err(Failed::ordered)?;
    let issued = issue(&mut order, &acme.domains).await;
    issued.map_err(Failed::ordered)
}

fn is_unknown_account(error: &Error) -> bool {
    let Error::Api(problem) = error else { return false };
    problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:accountDoesNotExist")
}

async fn prove(order: &mut Order, way: &ChallengeType, challenges: &Challenges) -> Result<(), String> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| error.to_string())?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            status => return Err(format!("the authority has an authorization that is {status:?}")),
        }
        let name = authorization.identifier().to_string();
        let challenge = authorization.challenge(way.clone());
        let mut challenge = challenge.ok_or_else(|| format!("the authority offers no {way:?} for {name}"))?;
        let key = challenge.key_authorization();
        match way {
            ChallengeType::Http01 => challenges.prove_by_text(&challenge.token, &key),
            _ => challenges.prove_by_certificate(&name, &key)?,
        }
        challenge.set_ready().await.map_err(|error| error.to_string())?;
    }
    match order.poll_ready(&POLLED).await {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
        Ok(_) => Err(why_refused(order).await),
        Err(error) => Err(error.to_string()),
    }
}

/// What the authority met where it looked.
async fn why_refused(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() || authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        if let Some(error) = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return format!("the authority does not believe that {name} leads here: {error}");
        }
    }
    "the authority refused the order".to_owned()
}

async fn issue(order: &mut Order, names: &[String]) -> Result<CertificatePem, String> {
    let (request, key) = signing_request(names).map_err(|error| error.to_string())?;
    order.finalize_csr(&request).await.map_err(|error| error.to_string())?;
    let chain = order.poll_certificate(&POLLED).await.map_err(|error| error.to_string())?;
    Ok(CertificatePem { chain, key })
}

/// In DER, and its key in PEM.
fn signing_request(names: &[String]) -> Result<(Vec<u8>, String), rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate()?;
    Ok((params.serialize_request(&key)?.der().to_vec(), key.serialize_pem()))
}

struct Client(Fetch);

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let fetch = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let answer = fetch.request_within(Request::from_parts(head, body), LIMITS).await;
            answer.map(|answer| answer.map(Full::new).into()).map_err(|error| Error::Other(Box::new(error)))
        })
    }
}
