//! The certificate that an authority issues by ACME (RFC 8555): had when there is none, renewed in time, kept over restarts,
//! as are an order in flight and the pause after a failure. Runs in the server that is in service; when it renews is
//! decided here, how by [`order`].

mod challenges;
mod kept;
mod order;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use instant_acme::{CertificateIdentifier, ChallengeType};
use rustls_pki_types::Der;
use tokio::{sync::Notify, time::sleep};

pub use challenges::Challenges;
use kept::{Failures, Kept, Question};
use order::Failed;

use super::{
    link::{Acme, AcmeState, CertificatePem, ServerConfig},
    tls::{Certificate, Certificates},
    x509,
};
use crate::{clock::Wall, fetch::Fetch, printable::printable};

/// The wall clock may be set, and a machine may sleep: so long at most nobody looks.
const LOOKS_EVERY: Duration = Duration::from_secs(600);
/// While another server has the lock.
const ASKS_EVERY: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(3_600);
/// So much is told of one, in characters.
const TOLD: usize = 400;
/// Where the authority says nothing of when a certificate should be renewed.
const ADVICE_EVERY: Duration = Duration::from_secs(6 * 3_600);

pub struct Issued {
    acme: Acme,
    kept: Kept,
    fetch: Fetch,
    certificates: Arc<Certificates>,
    /// How names are proven, the first first.
    ways: Vec<ChallengeType>,
    state: Mutex<AcmeState>,
    hurried: Notify,
}

/// What the authority says of when to renew (RFC 9773).
#[derive(Clone, Copy, Default)]
struct Advice {
    /// `None`: it says nothing.
    renew: Option<Wall>,
    /// When to ask again.
    again: Wall,
}

impl Issued {
    /// What was kept is served from the start, and so are the proofs of an order that another server began.
    pub fn new(acme: Acme, config: &ServerConfig, fetch: Fetch, certificates: Arc<Certificates>) -> Issued {
        let ways = ways(config);
        let question = Question {
            directory: acme.directory.clone(),
            domains: acme.domains.clone(),
            ways: ways.iter().map(|way| format!("{way:?}")).collect(),
        };
        let kept = Kept { folder: config.auth_store.clone(), question };
        let issued = Issued { acme, kept, fetch, certificates, ways, state: Mutex::default(), hurried: Notify::new() };
        issued.serve(issued.kept.certificate());
        issued.note_failures(&issued.kept.failures());
        for proof in issued.kept.in_flight().iter().flat_map(|order| &order.proofs) {
            let _ = issued.certificates.challenges.prove(proof);
        }
        issued
    }

    pub fn state(&self) -> AcmeState {
        self.locked().clone()
    }

    /// Somebody mended what failed, perhaps: no pause is waited out.
    pub fn hurry(&self) {
        self.hurried.notify_one();
    }

    fn locked(&self) -> MutexGuard<'_, AcmeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on for ever.
    pub async fn renew(&self) {
        let (mut failures, mut told, mut advice) = (self.kept.failures(), String::new(), Advice::default());
        loop {
            let kept = self.kept.certificate().filter(|pem| self.is_good(pem, Wall::now()));
            if let Some(kept) = &kept {
                advice = self.advised(kept, advice).await;
                let (due, now) = (self.due(kept, advice), Wall::now());
                self.locked().renews_at = Some(due);
                if now < due {
                    let until = due.min(advice.again.max(now.plus(MINUTE)));
                    sleep(span(now, until).clamp(Duration::from_millis(100), LOOKS_EVERY)).await;
                    continue;
                }
            }
            tokio::select! {
                () = sleep(backed_off(&failures, Wall::now())) => {}
                () = self.hurried.notified() => {}
            }
            match self.order(kept, &failures, advice.renew.is_some() && failures.count == 0).await {
                Ok(true) => {
                    (failures, advice, told) = (Failures::default(), Advice::default(), String::new());
                    self.kept.forget_failures();
                    self.note_failures(&failures);
                }
                Ok(false) => {
                    sleep(ASKS_EVERY).await;
                    // The other one may have met some.
                    failures = self.kept.failures();
                    self.note_failures(&failures);
                }
                Err(failed) => {
                    failures = one_more(failures, failed, Wall::now());
                    self.failed(&failures, &mut told);
                }
            }
        }
    }

    /// Told once for each reason; a restart is no way round the pause.
    fn failed(&self, failures: &Failures, told: &mut String) {
        if let Err(error) = self.kept.keep_failures(failures) {
            tracing::warn!("what an authority refused cannot be kept: {error}");
        }
        self.note_failures(failures);
        if *told != failures.last {
            let (names, directory) = (self.acme.domains.join(", "), &self.acme.directory);
            let Failures { last, again, .. } = failures;
            tracing::error!("no certificate for {names} from {directory}: {last}; tried again at {again}");
            told.clone_from(&failures.last);
        }
    }

    fn note_failures(&self, failures: &Failures) {
        let mut state = self.locked();
        state.failures = failures.count;
        let failed = failures.count > 0;
        state.last_error = failed.then(|| failures.last.clone());
        state.retries_at = failed.then_some(failures.again);
    }

    /// Whether there is another than `before`; not, while another server sees to it.
    async fn order(&self, before: Option<CertificatePem>, failures: &Failures, advised: bool) -> Result<bool, Failed> {
        let unlocked = |error| Failed { message: format!("the lock cannot be had: {error}"), ordered: false };
        let Some(_lock) = self.kept.lock().map_err(unlocked)? else { return Ok(false) };
        // The other one has renewed it meanwhile.
        let now = self.kept.certificate().filter(|pem| self.is_good(pem, Wall::now()));
        if now.is_some() && now != before {
            self.serve(now);
            return Ok(true);
        }
        // Or failed to.
        if self.kept.failures() != *failures && self.kept.failures() != Failures::default() {
            return Ok(false);
        }
        // An authority that gives advice wants to know.
        let replaces = before.filter(|_| advised).and_then(|pem| identifier(&pem.chain));
        let way = &self.ways[failures.refused % self.ways.len()];
        let with = (&self.kept, &self.fetch, &self.certificates.challenges);
        let pem = order::order(&self.acme, with, way, replaces).await?;
        if !self.is_good(&pem, Wall::now()) {
            let message = "the authority issued a certificate that lacks a name or is not good now".to_owned();
            return Err(Failed { message, ordered: true });
        }
        let kept = self.kept.keep_certificate(&pem);
        self.serve(Some(pem));
        let (names, end) = (self.acme.domains.join(", "), self.state().end.unwrap_or_default());
        tracing::info!("the certificate for {names} was issued by {}, good until {end}", self.acme.directory);
        let unkept = |error| Failed { message: format!("the certificate cannot be kept: {error}"), ordered: true };
        kept.map(|()| true).map_err(unkept)
    }

    fn is_good(&self, pem: &CertificatePem, at: Wall) -> bool {
        x509::is_good_for(&pem.chain, &self.acme.domains, at) && Certificate::from_pem(&pem.chain, &pem.key).is_ok()
    }

    /// One that lacks a name or has ended is better than none until there is another.
    fn serve(&self, pem: Option<CertificatePem>) {
        let Some(pem) = pem else { return };
        if let Ok(certificate) = Certificate::from_pem(&pem.chain, &pem.key) {
            self.certificates.issued(certificate);
            self.locked().end = x509::validity(&pem.chain).map(|(_, end)| end);
        }
    }

    fn due(&self, pem: &CertificatePem, advice: Advice) -> Wall {
        x509::validity(&pem.chain).map_or(Wall(0), |(begin, end)| due(begin, end, advice.renew))
    }

    /// What the authority advises, asked again when its word is old.
    async fn advised(&self, pem: &CertificatePem, before: Advice) -> Advice {
        let now = Wall::now();
        if now < before.again {
            return before;
        }
        let asked = match identifier(&pem.chain) {
            Some(identifier) => self.ask_advice(&identifier).await,
            None => None,
        };
        asked.unwrap_or(Advice { renew: None, again: now.plus(ADVICE_EVERY) })
    }

    async fn ask_advice(&self, identifier: &CertificateIdentifier<'_>) -> Option<Advice> {
        // Only for this question no account is made.
        let _known = self.kept.account(&self.acme.directory)?;
        let account = order::account(&self.acme, &self.kept, &self.fetch).await.ok()?;
        let (advice, again) = account.renewal_info(identifier).await.ok()?;
        let [start, end] =
            [advice.suggested_window.start, advice.suggested_window.end].map(|time| time.unix_timestamp() * 1000);
        let renew = Some(within(Wall(start), Wall(end), chance()));
        Some(Advice { renew, again: Wall::now().plus(again.clamp(MINUTE, 4 * ADVICE_EVERY)) })
    }
}

/// When a third of its life is left, or when the authority says, but not after its end.
fn due(begin: Wall, end: Wall, advised: Option<Wall>) -> Wall {
    let third = end.0.saturating_sub(begin.0) / 3;
    advised.unwrap_or(Wall(end.0.saturating_sub(third))).min(end)
}

/// At `chance` of 256 in a window.
fn within(start: Wall, end: Wall, chance: u8) -> Wall {
    let length = end.0.saturating_sub(start.0).max(0);
    Wall(start.0.saturating_add(length / 256 * i64::from(chance)))
}

fn chance() -> u8 {
    let mut byte = [128];
    // Without randomness the middle is as good.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

fn span(from: Wall, until: Wall) -> Duration {
    Duration::from_millis(u64::try_from(until.0.saturating_sub(from.0)).unwrap_or_default())
}

/// After one more.
fn one_more(before: Failures, failed: Failed, now: Wall) -> Failures {
    let Failed { message, ordered } = failed;
    let count = if before.count > 0 && before.ordered == ordered { before.count.saturating_add(1) } else { 1 };
    let refused = before.refused.saturating_add(usize::from(ordered));
    let last = printable(&message).chars().take(TOLD).collect();
    Failures { count, ordered, refused, last, again: now.plus(back_off(count, ordered)) }
}

/// For how long nothing is asked: no longer than any pause, should the clock have been set.
fn backed_off(failures: &Failures, now: Wall) -> Duration {
    if failures.count == 0 { Duration::ZERO } else { span(now, failures.again).min(LONGEST) }
}

/// Let's Encrypt counts five failed orders an hour; who was not asked for one counts nothing.
fn back_off(failures: u32, ordered: bool) -> Duration {
    let (first, longest) = if ordered { (2 * MINUTE, LONGEST) } else { (MINUTE / 6, 10 * MINUTE) };
    (first * 2u32.saturating_pow(failures.saturating_sub(1).min(16))).min(longest)
}

/// The authority comes to port 443 or 80. Where neither is listened on, a port is forwarded; then every way is tried in turn.
fn ways(config: &ServerConfig) -> Vec<ChallengeType> {
    let direct = config.listen.iter().any(|address| address.port() == 443);
    match (direct, config.redirects) {
        (_, false) => vec![ChallengeType::TlsAlpn01],
        (true, true) => vec![ChallengeType::TlsAlpn01, ChallengeType::Http01],
        (false, true) => vec![ChallengeType::Http01, ChallengeType::TlsAlpn01],
    }
}

fn identifier(chain: &str) -> Option<CertificateIdentifier<'static>> {
    let (authority, serial) = x509::renewal_id(chain)?;
    Some(CertificateIdentifier::new(Der::from_slice(&authority), Der::from_slice(&serial)).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_its_life_before_its_end_or_when_the_authority_says() {
        let day = |days: i64| Wall(days * 86_400_000);
        assert_eq!(due(day(0), day(90), None), day(60));
        assert_eq!(due(day(10), day(16), None), day(14));
        assert_eq!(due(day(0), day(90), Some(day(70))), day(70));
        assert_eq!(due(day(0), day(90), Some(day(-1))), day(-1));
        assert_eq!(due(day(0), day(90), Some(day(91))), day(90));
        assert_eq!([0, 128].map(|chance| within(day(4), day(6), chance)), [day(4), day(5)]);
        assert!(within(day(4), day(6), 255) < day(6) && within(day(4), day(3), 255) == day(4));
    }

    #[test]
    fn failures_are_backed_off() {
        assert_eq!(back_off(1, false), Duration::from_secs(10));
        assert_eq!(back_off(4, false), Duration::from_secs(80));
        assert_eq!(back_off(40, false), 10 * MINUTE);
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 99].map(|failures| back_off(failures, true).as_secs() / 60),
            [2, 4, 8, 16, 32, 60, 60]
        );
    }

    #[test]
    fn failures_of_one_kind_add_up_and_a_clock_that_was_set_holds_nothing_up() {
        let failed = |ordered| Failed { message: "no\u{1b}".repeat(400), ordered };
        let now = Wall(1_000_000);
        let first = one_more(Failures::default(), failed(false), now);
        assert_eq!((first.count, first.refused, first.again), (1, 0, now.plus(MINUTE / 6)));
        assert!(first.last.chars().count() == TOLD && !first.last.contains('\u{1b}'));
        let second = one_more(first.clone(), failed(false), now);
        assert_eq!((second.count, second.again), (2, now.plus(MINUTE / 3)));
        let other = one_more(second, failed(true), now);
        assert_eq!((other.count, other.refused, other.again), (1, 1, now.plus(2 * MINUTE)));
        assert_eq!(one_more(other.clone(), failed(true), now).again, now.plus(4 * MINUTE));
        assert_eq!(backed_off(&other, now), 2 * MINUTE);
        assert_eq!(backed_off(&other, now.plus(2 * MINUTE)), Duration::ZERO);
        assert_eq!(backed_off(&other, Wall(-1_000_000_000_000)), LONGEST);
        assert_eq!(backed_off(&Failures::default(), Wall(-1)), Duration::ZERO);
    }

    #[test]
    fn a_certificate_is_known_by_its_authority_and_number() {
        let authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(vec![0x87, 0x65].into());
        let (of_authority, key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let issuer = rcgen::Issuer::new(authority, of_authority);
        let pem = params.signed_by(&key, &issuer).unwrap().pem();
        let text = identifier(&pem).unwrap().to_string();
        let (authority, serial) = text.split_once('.').unwrap();
        // RFC 9773, section 4.1: the number's bytes as DER has them, a leading zero where the first bit is set.
        assert!(!authority.is_empty() && serial == "AIdl", "{text}");
    }
}
