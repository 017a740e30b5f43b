//! What rates may do to a packet whose time is known only roughly: the kernel's clock steps by a jiffy, and a test reads
//! its own before and after.

use std::{net::IpAddr, time::Duration};

use edge_tests::{
    model::{Bounds, Limit, Prefixes, Reason, Verdict},
    scene::Setting,
};

/// A jiffy at 100 Hz, the longest there is, and some for rounding.
const TICK: Duration = Duration::from_millis(11);

pub struct RateBounds {
    syns: Option<Bounds>,
    packets: Option<Bounds>,
    exempt: Prefixes<()>,
}

impl RateBounds {
    pub fn new(setting: &Setting) -> RateBounds {
        let bounds = |limit: Option<Limit>| limit.map(|limit| Bounds::new(limit, setting.ipv6_unit));
        let exempt = setting.proxies.iter().copied().collect();
        RateBounds { syns: bounds(setting.syns), packets: bounds(setting.packets), exempt }
    }

    /// What may have become of a packet that came between two moments.
    pub fn possible(&self, verdict: &Verdict, between: [Duration; 2]) -> Vec<Reason> {
        let (source, is_syn) = match *verdict {
            Verdict::Decided(reason) => return vec![reason],
            Verdict::Rated { source, is_syn } => (source, is_syn),
        };
        if self.exempt.covers(source) {
            return vec![Reason::Passed];
        }
        let may = |bounds: &Option<Bounds>| bounds.as_ref().map_or([true, false], |b| b.may(source, widened(between)));
        let [opens, is_refused] = if is_syn { may(&self.syns) } else { [true, false] };
        let [passes, is_dropped] = may(&self.packets);
        let reasons = [
            (is_refused, Reason::SynRate),
            (opens && is_dropped, Reason::PacketRate),
            (opens && passes, Reason::Passed),
        ];
        reasons.into_iter().filter(|(may, _)| *may).map(|(_, reason)| reason).collect()
    }

    /// This became of it.
    pub fn learn(&mut self, verdict: &Verdict, reason: Reason, between: [Duration; 2]) {
        let Verdict::Rated { source, is_syn } = *verdict else { return };
        if self.exempt.covers(source) {
            return;
        }
        let admitted = |bounds: &mut Option<Bounds>, source: IpAddr| {
            bounds.iter_mut().for_each(|bounds| bounds.admitted(source, widened(between)));
        };
        if is_syn && reason != Reason::SynRate {
            admitted(&mut self.syns, source);
        }
        if reason == Reason::Passed {
            admitted(&mut self.packets, source);
        }
    }
}

fn widened([earliest, latest]: [Duration; 2]) -> [Duration; 2] {
    [earliest.saturating_sub(TICK), latest + TICK]
}
