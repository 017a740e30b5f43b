//! One order: account, proof of each name, a fresh key, the certificate. All HTTP goes by the fetcher.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use instant_acme::{
    Account, AuthorizationStatus, BodyWrapper, BytesResponse, CertificateIdentifier, ChallengeHandle, ChallengeStatus,
    ChallengeType, Error, HttpClient, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::{
    Challenges, Kept,
    kept::{InFlight, Proof},
};
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

/// `way`: how names are proven; `replaces`: the certificate that this one is for. An order in flight is gone on with.
pub async fn order(
    acme: &Acme,
    (kept, fetch, challenges): (&Kept, &Fetch, &Challenges),
    way: &ChallengeType,
    replaces: Option<CertificateIdentifier<'_>>,
) -> Result<CertificatePem, Failed> {
    let account = account(acme, kept, fetch).await?;
    let (mut order, mut in_flight) = match in_flight(&account, kept).await? {
        Some(found) => found,
        None => begun(&account, acme, kept, replaces).await?,
    };
    let issued = finished(&mut order, &mut in_flight, (way, &acme.domains), (kept, challenges)).await;
    challenges.forget();
    kept.forget_in_flight();
    issued.map_err(Failed::ordered)
}

/// That which a former server left, if the authority knows it.
async fn in_flight(account: &Account, kept: &Kept) -> Result<Option<(Order, InFlight)>, Failed> {
    let Some(in_flight) = kept.in_flight() else { return Ok(None) };
    match account.order(in_flight.url.clone()).await {
        Ok(order) => Ok(Some((order, in_flight))),
        Err(Error::Api(_)) => {
            kept.forget_in_flight();
            Ok(None)
        }
        Err(error) => Err(Failed::before(error)),
    }
}

async fn begun(
    account: &Account,
    acme: &Acme,
    kept: &Kept,
    replaces: Option<CertificateIdentifier<'_>>,
) -> Result<(Order, InFlight), Failed> {
    let key = KeyPair::generate().map_err(Failed::before)?.serialize_pem();
    let names: Vec<_> = acme.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut new = NewOrder::new(&names);
    if let Some(replaces) = replaces {
        new = new.replaces(replaces);
    }
    let order = account.new_order(&new).await.map_err(|error| {
        if is_unknown_account(&error) {
            kept.forget_account();
        }
        Failed::before(error)
    })?;
    let in_flight = InFlight { url: order.url().to_owned(), key, proofs: Vec::new() };
    keep_in_flight(kept, &in_flight);
    Ok((order, in_flight))
}

/// Where it cannot be kept, the next server asks anew.
fn keep_in_flight(kept: &Kept, in_flight: &InFlight) {
    if let Err(error) = kept.keep_in_flight(in_flight) {
        tracing::warn!("the order of a certificate cannot be kept: {error}");
    }
}

/// From wherever it stands.
async fn finished(
    order: &mut Order,
    in_flight: &mut InFlight,
    (way, names): (&ChallengeType, &[String]),
    (kept, challenges): (&Kept, &Challenges),
) -> Result<CertificatePem, String> {
    match order.state().status {
        OrderStatus::Pending => {
            prove(order, in_flight, way, (kept, challenges)).await?;
            issue(order, names, &in_flight.key).await
        }
        OrderStatus::Ready => issue(order, names, &in_flight.key).await,
        OrderStatus::Processing | OrderStatus::Valid => issued(order, &in_flight.key).await,
        OrderStatus::Invalid => Err(why_refused(order).await),
    }
}

fn is_unknown_account(error: &Error) -> bool {
    let Error::Api(problem) = error else { return false };
    problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:accountDoesNotExist")
}

async fn prove(
    order: &mut Order,
    in_flight: &mut InFlight,
    way: &ChallengeType,
    (kept, challenges): (&Kept, &Challenges),
) -> Result<(), String> {
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
        let proof = proof(name, &challenge, way);
        challenges.prove(&proof)?;
        if !in_flight.proofs.contains(&proof) {
            in_flight.proofs.push(proof);
            keep_in_flight(kept, in_flight);
        }
        // One that was told of already is looked at as it is.
        if challenge.status == ChallengeStatus::Pending {
            challenge.set_ready().await.map_err(|error| error.to_string())?;
        }
    }
    match order.poll_ready(&POLLED).await {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => Ok(()),
        Ok(_) => Err(why_refused(order).await),
        Err(error) => Err(error.to_string()),
    }
}

fn proof(name: String, challenge: &ChallengeHandle<'_>, way: &ChallengeType) -> Proof {
    let key = challenge.key_authorization();
    match way {
        ChallengeType::Http01 => Proof::Text { token: challenge.token.clone(), text: key.as_str().to_owned() },
        _ => Proof::Certificate { name, digest: key.digest().as_ref().to_vec() },
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

async fn issue(order: &mut Order, names: &[String], key: &str) -> Result<CertificatePem, String> {
    let request = signing_request(names, key).map_err(|error| error.to_string())?;
    order.finalize_csr(&request).await.map_err(|error| error.to_string())?;
    issued(order, key).await
}

async fn issued(order: &mut Order, key: &str) -> Result<CertificatePem, String> {
    let chain = order.poll_certificate(&POLLED).await.map_err(|error| error.to_string())?;
    Ok(CertificatePem { chain, key: key.to_owned() })
}

/// In DER.
fn signing_request(names: &[String], key: &str) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&KeyPair::from_pem(key)?)?.der().to_vec())
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
