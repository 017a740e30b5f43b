//! Which interfaces are to be filtered: those that the config names, or those that carry a default route. Follows the
//! kernel's news of both; the attaching is `datapath`'s.

use std::{collections::BTreeSet, path::Path, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{
    config::{self, Config},
    datapath::{self, Look},
    error::{Blame, Context, Failure},
    netlink::{self, Link, News, Watch},
};

/// Default routes are looked at again after so long, whether or not there was news of them.
const ROUTES_HOLD: Duration = Duration::from_secs(3);
/// How many times as long as a look took nobody looks again, whatever news there is.
const REST: u32 = 9;

pub struct Interfaces {
    asked: config::Interfaces,
    watch: Watch,
    /// Indices of the interfaces that carry a default route.
    carrying: BTreeSet<u32>,
    /// Until when that counts.
    carrying_until: Instant,
    rest_until: Instant,
    /// With `["auto"]`: names of those that were asked for once. They stay so, for routes go and come.
    known: BTreeSet<String>,
    /// Those that are left out, named once.
    left_out: BTreeSet<String>,
}

/// What the config asks for among the interfaces that are there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Choice {
    asked: BTreeSet<u32>,
    /// Named, and not to be had; with the reason.
    unfit: Vec<(String, &'static str)>,
    /// Not named, and without Ethernet headers.
    left_out: BTreeSet<String>,
}

impl Interfaces {
    /// News counts from here on. To be called within the runtime.
    pub fn follow(config: &Config) -> Result<Interfaces, Failure> {
        let now = Instant::now();
        Ok(Interfaces {
            asked: config.filter.interfaces.clone(),
            watch: Watch::open().blame(Blame::System, || "interfaces cannot be followed".to_owned())?,
            carrying: BTreeSet::new(),
            carrying_until: now,
            rest_until: now,
            known: BTreeSet::new(),
            left_out: BTreeSet::new(),
        })
    }

    /// Those to begin with. Who is named must be there; where no interface carries a default route, what is filtered
    /// by an earlier start stays so.
    pub fn first(&mut self, pin_path: &Path) -> Result<Vec<Link>, Failure> {
        let Look { there, mut asked, unfit } =
            self.look().blame(Blame::System, || "no interface is known".to_owned())?;
        if let Some((name, why)) = unfit.into_iter().next() {
            return Err(refused(&name, why, &there));
        }
        if asked.is_empty() {
            asked = filtered(&there, pin_path);
        }
        let links: Vec<Link> = there.into_iter().filter(|link| asked.contains(&link.index)).collect();
        self.known.extend(links.iter().map(|link| link.name.clone()));
        Ok(links)
    }

    /// Those of another config, to be [`ask`](Self::ask)ed for where it comes into force. Who is named as before may be
    /// away just now.
    pub fn of_another(&self, asked: &config::Interfaces, pin_path: &Path) -> Result<Vec<Link>, Failure> {
        let what = || "no interface is known".to_owned();
        let there = netlink::links().blame(Blame::System, what)?;
        let carrying = netlink::default_route_indices().blame(Blame::System, what)?;
        let none = BTreeSet::new();
        let known = if *asked == self.asked { &self.known } else { &none };
        let auto = *asked == config::Interfaces::Auto;
        let Choice { mut asked, unfit, .. } = choose(asked, &there, &carrying, known);
        let was_named = |name: &String| matches!(&self.asked, config::Interfaces::Named(names) if names.contains(name));
        if let Some((name, why)) = unfit.into_iter().find(|(name, _)| !was_named(name)) {
            return Err(refused(&name, why, &there));
        }
        if auto && asked.is_empty() {
            asked = filtered(&there, pin_path);
        }
        Ok(there.into_iter().filter(|link| asked.contains(&link.index)).collect())
    }

    /// Follows another config, which is in force on these interfaces.
    pub fn ask(&mut self, asked: config::Interfaces, links: &[Link]) {
        if asked != self.asked {
            self.known.clear();
            self.left_out.clear();
        }
        self.known.extend(links.iter().map(|link| link.name.clone()));
        (self.asked, self.carrying_until) = (asked, Instant::now());
    }

    /// Waits for news, and not without a rest.
    pub async fn changed(&mut self) {
        loop {
            sleep_until(self.rest_until).await;
            let News { links, default_routes } = self.watch.changed().await;
            if default_routes {
                self.carrying_until = Instant::now();
            }
            if links || (default_routes && self.asked == config::Interfaces::Auto) {
                return;
            }
        }
    }

    /// Asks the kernel.
    pub fn look(&mut self) -> Result<Look, netlink::NetlinkError> {
        let begin = Instant::now();
        if self.asked == config::Interfaces::Auto && self.carrying_until <= begin {
            self.carrying = netlink::default_route_indices()?;
            self.carrying_until = begin + ROUTES_HOLD;
        }
        let there = netlink::links()?;
        let Choice { asked, unfit, left_out } = choose(&self.asked, &there, &self.carrying, &self.known);
        for name in left_out.difference(&self.left_out) {
            tracing::warn!("{name} carries a default route and is left out: it has no Ethernet headers");
        }
        self.left_out.extend(left_out);
        self.known.extend(there.iter().filter(|link| asked.contains(&link.index)).map(|link| link.name.clone()));
        self.rest_until = begin + begin.elapsed() * (1 + REST);
        Ok(Look { there, asked, unfit })
    }
}

/// With `["auto"]` and no default route: what an earlier start filters stays so.
fn filtered(there: &[Link], pin_path: &Path) -> BTreeSet<u32> {
    tracing::warn!("no interface carries a default route, so no other is filtered before one does");
    let pinned = datapath::pinned_interfaces(pin_path);
    there.iter().filter(|link| link.xdp.is_some() && pinned.contains(&link.index)).map(|link| link.index).collect()
}

fn choose(asked: &config::Interfaces, there: &[Link], carrying: &BTreeSet<u32>, known: &BTreeSet<String>) -> Choice {
    let mut choice = Choice::default();
    match asked {
        config::Interfaces::Named(names) => {
            for name in names {
                match named(there, name) {
                    Ok(link) => drop(choice.asked.insert(link.index)),
                    Err(why) => choice.unfit.push((name.clone(), why)),
                }
            }
        }
        config::Interfaces::Auto => {
            for link in there.iter().filter(|link| carrying.contains(&link.index) || known.contains(&link.name)) {
                if link.ethernet {
                    choice.asked.insert(link.index);
                } else {
                    choice.left_out.insert(link.name.clone());
                }
            }
        }
    }
    choice
}

fn named<'a>(there: &'a [Link], name: &str) -> Result<&'a Link, &'static str> {
    let link = there.iter().find(|link| link.name == name).ok_or(MISSING)?;
    if link.ethernet { Ok(link) } else { Err(UNFIT) }
}

const MISSING: &str = "there is no such interface";
const UNFIT: &str =
    "it has no Ethernet headers (as wg, tun and ppp), which edge reads; leave it out of `filter.interfaces`";

/// The start is over.
fn refused(name: &str, why: &str, there: &[Link]) -> Failure {
    let known: Vec<&str> = there.iter().filter(|link| link.ethernet).map(|link| link.name.as_str()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let others = if why == MISSING { format!("; `filter.interfaces` may name {known}") } else { String::new() };
    Failure::refused(format!("{name} cannot be filtered: {why}{others}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, ethernet: bool) -> Link {
        Link { index, name: name.to_owned(), up: true, ethernet, xdp: None }
    }

    fn there() -> Vec<Link> {
        vec![link(1, "lo", false), link(2, "eth0", true), link(3, "eth1", true), link(4, "tun0", false)]
    }

    fn named(names: &[&str]) -> config::Interfaces {
        config::Interfaces::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn who_is_named_is_asked_for_or_unfit() {
        let none = (BTreeSet::new(), BTreeSet::new());
        let choice = choose(&named(&["eth1", "eth7", "tun0"]), &there(), &none.0, &none.1);
        assert_eq!(choice.asked, BTreeSet::from([3]));
        assert_eq!(choice.unfit, [("eth7".to_owned(), MISSING), ("tun0".to_owned(), UNFIT)]);
        assert_eq!(choice.left_out, BTreeSet::new());
        let refused = refused("eth7", MISSING, &there()).message;
        assert_eq!(
            refused,
            "eth7 cannot be filtered: there is no such interface; `filter.interfaces` may name eth0, eth1"
        );
    }

    #[test]
    fn auto_takes_what_carries_a_default_route_or_did_once() {
        let choose = |carrying: &[u32], known: &[&str]| {
            let known = known.iter().map(|name| (*name).to_owned()).collect();
            choose(&config::Interfaces::Auto, &there(), &carrying.iter().copied().collect(), &known)
        };
        assert_eq!(choose(&[], &[]), Choice::default());
        assert_eq!(choose(&[2], &[]).asked, BTreeSet::from([2]));
        assert_eq!(choose(&[3, 9], &["eth0", "eth9"]).asked, BTreeSet::from([2, 3]));
        let with_tunnel = choose(&[2, 4], &[]);
        assert_eq!(with_tunnel.asked, BTreeSet::from([2]));
        assert_eq!(with_tunnel.left_out, BTreeSet::from(["tun0".to_owned()]));
    }
}
