//! Durations as people type them: `90s`, `15m`, `4h`, `7d`, `2w`. By hand, since the libraries' forms take more
//! (`1h 30min`, `5 years`) than the interface promises.

use std::time::Duration;

use crate::printable::quotable;

/// Longer is a slip of the pen; it also keeps every sum of times far from its bounds.
const MAX_SECONDS: u64 = 100 * 365 * 86_400;

/// Reads a positive duration; the error says what would be right.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{}` is no duration; write a number and a unit, as 90s, 15m, 4h, 7d or 2w", quotable(text));
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let unit_seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(wrong()),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_seconds));
    match seconds {
        Some(seconds) if seconds <= MAX_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("`{}` is longer than 100 years; write less", quotable(text))),
    }
}

/// In the largest unit that gives a whole number.
pub fn text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(604_800, "w"), (86_400, "d"), (3_600, "h"), (60, "m")];
    match units.into_iter().find(|(size, _)| seconds > 0 && seconds.is_multiple_of(*size)) {
        Some((size, unit)) => format!("{}{unit}", seconds / size),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_counts_right() {
        for (typed, seconds) in
            [("90s", 90), ("15m", 900), ("4h", 14_400), ("7d", 604_800), ("2w", 1_209_600), ("0s", 0)]
        {
            assert_eq!(parse(typed).unwrap(), Duration::from_secs(seconds), "{typed}");
        }
        assert_eq!(text(Duration::from_secs(900)), "15m");
        assert_eq!(text(Duration::from_secs(90)), "90s");
        assert_eq!(text(Duration::ZERO), "0s");
    }

    #[test]
    fn what_is_none_is_refused_with_what_would_be_right() {
        for typed in [
            "",
            "s",
            "15",
            "15 m",
            "-4h",
            "+4h",
            "1.5h",
            "4H",
            "1h30m",
            "15µ",
            "４h",
            "99999999999999999999s",
            "9999w\u{1b}",
        ] {
            let error = parse(typed).unwrap_err();
            assert!(error.contains("write"), "{typed}: {error}");
            assert!(!error.contains('\u{1b}'));
        }
        assert!(parse("36500d").is_ok());
        assert!(parse("36501d").is_err());
    }
}
