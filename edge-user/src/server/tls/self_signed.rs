//! The certificate that edge makes itself, for development: signed with its own key, good for a year and a month, which
//! is as long as browsers take one for.

use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, date_time_ymd};

use crate::clock::Wall;

const DAY: Duration = Duration::from_secs(86_400);

/// For these names, of hosts and addresses; it and its key in PEM.
pub fn self_signed(names: &[String], now: Wall) -> Result<(String, String), String> {
    make(names, now).map_err(|error| format!("no certificate can be made for {}: {error}", names.join(", ")))
}

fn make(names: &[String], now: Wall) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "edge, for development");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // A clock may go a day slow.
    let [begin, end] = [now.minus(DAY), now.plus(396 * DAY)].map(day);
    params.not_before = date_time_ymd(begin.0, begin.1, begin.2);
    params.not_after = date_time_ymd(end.0, end.1, end.2);
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Year, month and day.
fn day(time: Wall) -> (i32, u8, u8) {
    let date = jiff::Timestamp::from_millisecond(time.0).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC).date();
    (date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
}
