//! The links of a running agent: what is filtered now, as the kernel says. Looked at again and again, so that an
//! interface which came, came back or lost its program is filtered again.
//!
//! Each link is held by a descriptor beside its pin: to remove pins detaches nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{super::egress::Noting, Attached, Generation, Held, Unfiltered, attach_fresh, egress, pin_of};
use crate::{
    config::Attach,
    error::{Blame, Context, Failure},
    netlink::Link,
};

/// One look at the interfaces, and what the config asks for among them.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub there: Vec<Link>,
    /// Indices of those that are to be filtered.
    pub asked: BTreeSet<u32>,
    /// Names that are asked for and cannot be filtered, each with the reason.
    pub unfit: Vec<(String, &'static str)>,
}

/// What came loose and was put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Interfaces that were there and had lost a program.
    pub detached: u64,
    /// Pins that were gone.
    pub unpinned: u64,
}

/// Nothing is held by the default.
#[derive(Debug, Default)]
pub struct Links {
    pin_path: PathBuf,
    mode: Attach,
    program_id: u32,
    filtered: Vec<Filtered>,
    unfiltered: Vec<Unfiltered>,
    /// Whether the driver ran the program when an interface of this name was filtered last.
    native: BTreeMap<String, bool>,
}

#[derive(Debug)]
struct Filtered {
    attached: Attached,
    link: Held,
    /// On the way out, where ports are limited.
    sent: Option<Noting>,
}

impl Links {
    /// Takes hold of what was just attached and pinned.
    pub(super) fn of_pins(
        generation: &mut Generation,
        pin_path: &Path,
        links: &[Link],
        mode: Attach,
    ) -> Result<Links, Failure> {
        let program = generation.program()?.info();
        let program_id = program.blame(Blame::System, || "the kernel does not tell the program's id".to_owned())?.id();
        let mut held = Links { pin_path: pin_path.to_owned(), mode, program_id, ..Links::default() };
        let has_egress = generation.egress()?.is_some();
        links.iter().try_for_each(|link| held.hold(link, has_egress)).map(|()| held)
    }

    pub fn attached(&self) -> impl Iterator<Item = &Attached> {
        self.filtered.iter().map(|filtered| &filtered.attached)
    }

    pub fn unfiltered(&self) -> &[Unfiltered] {
        &self.unfiltered
    }

    /// Whether an agent's links are on no interface at all, so that everything passes.
    pub fn filter_nothing(&self) -> bool {
        !self.pin_path.as_os_str().is_empty() && self.filtered.is_empty()
    }

    /// For who has just blocked something: where that drops nothing. An agent's links alone know.
    pub fn warning(&self) -> Option<String> {
        if self.pin_path.as_os_str().is_empty() {
            return None;
        }
        let names: Vec<&str> = self.unfiltered.iter().map(|one| one.name.as_str()).collect();
        match (self.filtered.is_empty(), names.as_slice()) {
            (false, []) => None,
            (true, []) => {
                Some("no interface is filtered yet, so nothing is dropped: none carries a default route".to_owned())
            }
            (_, names) => Some(format!(
                "not filtered now, so nothing is dropped there: {} (`edge status` says why)",
                names.join(", ")
            )),
        }
    }

    /// Attaches to what is asked for and is not filtered, and pins what is pinned no more. What is filtered stays so as
    /// long as its interface is there. A failure is about what is filtered; an interface that cannot be is among
    /// [`unfiltered`](Self::unfiltered).
    pub(in crate::datapath) fn mend(&mut self, generation: &mut Generation, look: &Look) -> Result<Mended, Failure> {
        let mut mended = Mended::default();
        let mut unfiltered: Vec<Unfiltered> = Vec::new();
        self.forget_gone(&look.there);
        for link in &look.there {
            if self.is_lost(link) {
                self.give_up(link);
                mended.detached += 1;
            } else if self.update(link) || !look.asked.contains(&link.index) {
                continue;
            }
            if let Err(failure) = self.attach(generation, link) {
                let taken_by = link.xdp.map(|hook| hook.program_id);
                unfiltered.push(self.without_program(&link.name, failure.message, taken_by));
            }
        }
        let unfit = look.unfit.iter().map(|(name, why)| self.without_program(name, (*why).to_owned(), None));
        unfiltered.extend(unfit);
        self.tell(unfiltered);
        mended.detached += self.mend_egress(generation, &look.there)?;
        mended.unpinned += self.pin_again()?;
        Ok(mended)
    }

    /// What `next` does not hold is filtered no more, at once.
    pub fn hand_over(self, next: &Links) {
        let is_held = |one: &&Filtered| next.attached().any(|attached| attached.index == one.attached.index);
        self.filtered.iter().filter(|one| !is_held(one)).for_each(Filtered::detach);
    }

    /// Detaches from all at once.
    pub fn detach(&mut self) {
        for filtered in self.filtered.drain(..) {
            filtered.detach();
        }
    }

    fn hold(&mut self, link: &Link, has_egress: bool) -> Result<(), Failure> {
        let sent = has_egress.then(|| Noting::of_pin(&egress::pin_of(&self.pin_path, link.index))).transpose()?;
        let held = hold_pin(pin_of(&self.pin_path, link.index))?;
        let attached = Attached::ask(link)?;
        self.native.insert(attached.name.clone(), attached.native);
        self.filtered.push(Filtered { attached, link: held, sent });
        Ok(())
    }

    fn forget_gone(&mut self, there: &[Link]) {
        let is_gone = |filtered: &mut Filtered| there.iter().all(|link| link.index != filtered.attached.index);
        for filtered in self.filtered.extract_if(.., is_gone) {
            let Attached { name, index, .. } = &filtered.attached;
            tracing::info!("{name} is gone");
            let _ = fs::remove_file(pin_of(&self.pin_path, *index));
            egress::forget(&egress::pin_of(&self.pin_path, *index));
        }
    }

    /// Whether the kernel runs another program than ours, or none, where we hold a link.
    fn is_lost(&self, link: &Link) -> bool {
        let runs_ours = link.xdp.is_some_and(|hook| hook.program_id == self.program_id);
        !runs_ours && self.attached().any(|attached| attached.index == link.index)
    }

    fn give_up(&mut self, link: &Link) {
        tracing::warn!("{} was filtered no more, by something from outside; it is attached to again", link.name);
        for filtered in self.filtered.extract_if(.., |filtered| filtered.attached.index == link.index) {
            filtered.detach();
        }
    }

    /// Takes over what the kernel says of an interface that is filtered; whether it is.
    fn update(&mut self, link: &Link) -> bool {
        let Some(filtered) = self.filtered.iter_mut().find(|filtered| filtered.attached.index == link.index) else {
            return false;
        };
        if let Some(hook) = link.xdp {
            filtered.attached = Attached::of(link, hook);
        }
        true
    }

    fn attach(&mut self, generation: &mut Generation, link: &Link) -> Result<(), Failure> {
        // What is said of a taken hook costs a look at all programs.
        let taken_by = link.xdp.map(|hook| hook.program_id);
        let known = self.unfiltered.iter().find(|known| known.name == link.name && known.taken_by == taken_by);
        if let Some(known) = known.filter(|known| known.taken_by.is_some()) {
            return Err(Failure::refused(known.reason.clone()));
        }
        // Pins that nobody holds are of an interface that had this index before.
        let (pin, sent) = (pin_of(&self.pin_path, link.index), egress::pin_of(&self.pin_path, link.index));
        let _ = fs::remove_file(&pin);
        egress::forget(&sent);
        // In this order: no answer may be dropped.
        let egress = generation.egress()?;
        let has_egress = egress.is_some();
        egress.map_or(Ok(()), |egress| egress::attach_fresh(egress, link, &sent))?;
        let attached = attach_fresh(generation.program()?, link, self.mode, &pin);
        attached.and_then(|()| self.hold(link, has_egress)).inspect_err(|_| {
            let _ = (super::end(&pin), egress::end(&sent));
        })?;
        for attached in self.attached().filter(|attached| attached.index == link.index) {
            tracing::info!("{} is filtered in {} mode by program {}", link.name, attached.mode(), attached.program_id);
        }
        Ok(())
    }

    fn without_program(&self, name: &str, reason: String, taken_by: Option<u32>) -> Unfiltered {
        let native = self.native.get(name).copied().unwrap_or(self.mode != Attach::Generic);
        Unfiltered { name: name.to_owned(), reason, native, taken_by }
    }

    /// Logs what is new about it.
    fn tell(&mut self, unfiltered: Vec<Unfiltered>) {
        for Unfiltered { name, reason, .. } in unfiltered.iter().filter(|one| !self.unfiltered.contains(one)) {
            tracing::error!("{name} is not filtered, and will be as soon as it can: {reason}");
        }
        self.unfiltered = unfiltered;
    }

    /// What is sent must be noted wherever ports are limited; gives how many links were lost.
    fn mend_egress(&mut self, generation: &mut Generation, there: &[Link]) -> Result<u64, Failure> {
        let Some(program) = generation.egress()? else { return Ok(0) };
        let mut mended = 0;
        for Filtered { attached, sent, .. } in &mut self.filtered {
            if sent.as_ref().is_some_and(|noting| noting.is_attached(attached.index)) {
                continue;
            }
            let pin = egress::pin_of(&self.pin_path, attached.index);
            let Some(link) = there.iter().find(|link| link.index == attached.index) else { continue };
            let _ = egress::end(&pin);
            egress::attach_fresh(program, link, &pin)?;
            *sent = Some(Noting::of_pin(&pin)?);
            tracing::warn!("what {} sends was noted no more, by something from outside; it is again", attached.name);
            mended += 1;
        }
        Ok(mended)
    }

    fn pin_again(&self) -> Result<u64, Failure> {
        let mut unpinned = 0;
        for Filtered { attached, link, sent } in &self.filtered {
            let repin = |pin: &Path| {
                let what = || format!("the link cannot be pinned as {}", pin.display());
                link.pin(pin).blame(Blame::System, what)
            };
            unpinned += pin_if_missing(&pin_of(&self.pin_path, attached.index), repin)?;
            if let Some(sent) = sent {
                unpinned += pin_if_missing(&egress::pin_of(&self.pin_path, attached.index), |pin| sent.pin(pin))?;
            }
        }
        Ok(unpinned)
    }
}

impl Filtered {
    fn detach(&self) {
        self.link.detach();
        if let Some(sent) = &self.sent {
            sent.detach(self.attached.index);
        }
    }
}

fn hold_pin(pin: PathBuf) -> Result<Held, Failure> {
    Held::of_pin(&pin).blame(Blame::System, || format!("the link {} cannot be opened", pin.display()))
}

/// How many pins were missing.
fn pin_if_missing(pin: &Path, repin: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<u64, Failure> {
    if pin.exists() {
        return Ok(0);
    }
    repin(pin)?;
    tracing::warn!("the link {} was not pinned any more; it is again", pin.display());
    Ok(1)
}
