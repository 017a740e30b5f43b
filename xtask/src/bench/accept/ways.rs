//! The ways to count that are compared, one at a time: as the product does it, from a reload with a cap on, and by the
//! programs of `edge-ebpf/src/bench.rs` beside an edge without a cap.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::IpAddr,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, CgroupAttachMode, SockOps, links::FdLink, loaded_programs},
    sys::{Stats, enable_stats},
};
use edge_common::names;
use edge_tests::{
    agent::Edge,
    bpf::attached_by,
    net::{HOST_INTERFACE, Lab},
};

use crate::bench::object;

const CAP: &str = "1_000_000";
/// Each change of a TCP socket's state (Linux 4.16).
const TRACEPOINT: &str = "inet_sock_set_state";
/// A program that does nothing.
pub const NOTHING: &str = "nothing_opened";
/// As what the product pins what attaches its program.
const LINK: &str = "edge_count_link";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// No cap, so nothing counts.
    Off,
    /// A cap that nobody comes to, in XDP too.
    Capped,
    /// The product's `sock_ops`, without XDP's part.
    SockOps,
    /// Off by a tracepoint, without XDP's part.
    Tracepoint,
    /// Programs at the same places that do nothing.
    Nothing,
}

/// Of a program, since it was loaded.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    pub name: String,
    pub id: u32,
    pub runs: u64,
    pub ns: u64,
}

pub struct Ways<'a> {
    lab: &'a Lab,
    edge: Edge,
    object: Ebpf,
    /// Ids of programs, and what keeps them attached.
    attached: Vec<(u32, FdLink)>,
    way: Way,
}

impl Ways<'_> {
    /// Starts an edge with a cap, and loads the other programs on its maps.
    pub fn new(lab: &Lab) -> Result<Ways<'_>> {
        let edge = Edge::start_with(lab, |config| {
            config.set("filter.limits", "connections", CAP);
        })?;
        let mut object = object::load(&mut object::loader(lab)?)?;
        let btf = Btf::from_sys_fs()?;
        for name in ["count_opened", "count_both", NOTHING] {
            sock_ops(&mut object, name)?.load().with_context(|| format!("the kernel did not take {name}"))?;
        }
        for name in ["count_closed", "nothing_closed"] {
            let program = tracepoint(&mut object, name)?;
            program.load(TRACEPOINT, &btf).with_context(|| format!("the kernel did not take {name}"))?;
        }
        Ok(Ways { lab, edge, object, attached: Vec::new(), way: Way::Capped })
    }

    /// Counts this way from here on.
    pub fn enter(&mut self, way: Way) -> Result<()> {
        self.attached.clear();
        self.cap(way == Way::Capped)?;
        match way {
            Way::Off | Way::Capped => {}
            Way::Tracepoint => self.attach("count_opened", Some("count_closed"))?,
            Way::SockOps => self.attach("count_both", None)?,
            Way::Nothing => self.attach(NOTHING, Some("nothing_closed"))?,
        }
        self.way = way;
        Ok(())
    }

    /// Other agents with a cap on this machine: they count in every network namespace, so what they do is measured too.
    pub fn others(&self) -> BTreeSet<u32> {
        let own = self.attached_by_edge();
        let counting = ran().filter(|ran| ran.name == names::COUNT_PROGRAM && Some(ran.id) != own);
        counting.map(|ran| ran.id).collect()
    }

    /// `None` without a cap.
    fn attached_by_edge(&self) -> Option<u32> {
        let id = attached_by(&self.lab.generation().ok()?.join(LINK)).ok()??;
        u32::try_from(id).ok()
    }

    /// The programs that see a connection now.
    pub fn ran(&self) -> Result<Vec<Ran>> {
        let xdp = self.lab.host.xdp_program(HOST_INTERFACE)?.context("no XDP program")?;
        let mut own = vec![Some(u32::try_from(xdp)?)];
        if self.way == Way::Capped {
            own.push(self.attached_by_edge());
        }
        own.extend(self.attached.iter().map(|(id, _)| Some(*id)));
        let ran: Vec<Ran> = ran().filter(|ran| own.contains(&Some(ran.id))).collect();
        ensure!(ran.len() == own.len(), "{:?} should have the programs {own:?}, it has {ran:?}", self.way);
        Ok(ran)
    }

    /// How many connections of these clients are counted.
    pub fn counted(&self, clients: &[IpAddr]) -> Result<u64> {
        let count = |client: &IpAddr| {
            let why = self.edge.json(&["why", &client.to_string()])?;
            why["connections"]["current"].as_u64().context("why tells no connections")
        };
        clients.iter().map(count).sum()
    }

    fn cap(&mut self, capped: bool) -> Result<()> {
        if capped == (self.way == Way::Capped) {
            return Ok(());
        }
        if capped {
            self.edge.config.set("filter.limits", "connections", CAP);
        } else {
            self.edge.config.unset("filter.limits", "connections");
        }
        self.edge.write_config()?;
        self.edge.cli(&["reload"])?.good().context("edge reload")?;
        Ok(())
    }

    fn attach(&mut self, opened: &str, closed: Option<&str>) -> Result<()> {
        if let Some(name) = closed {
            let program = tracepoint(&mut self.object, name)?;
            let id = program.attach()?;
            self.attached.push((program.info()?.id(), program.take_link(id)?.into()));
        }
        let program = sock_ops(&mut self.object, opened)?;
        let id = program.attach(File::open(cgroups()?)?, CgroupAttachMode::Single)?;
        self.attached.push((program.info()?.id(), program.take_link(id)?.try_into()?));
        Ok(())
    }
}

/// Has the kernel measure the programs' time while `work` is done, which costs time itself.
pub fn measured<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _measuring = enable_stats(Stats::RunTime).context("the kernel does not measure programs (Linux 5.8 does)")?;
    work()
}

/// What ran between the two, each program by itself.
pub fn between(before: &[Ran], after: Vec<Ran>) -> Vec<Ran> {
    let since = |mut ran: Ran| {
        let before = before.iter().find(|before| before.id == ran.id).cloned().unwrap_or_default();
        (ran.runs, ran.ns) = (ran.runs - before.runs, ran.ns - before.ns);
        ran
    };
    after.into_iter().map(since).collect()
}

/// All programs; one that ends meanwhile is none.
fn ran() -> impl Iterator<Item = Ran> {
    let told = |info: aya::programs::ProgramInfo| Ran {
        name: info.name_as_str().unwrap_or_default().to_owned(),
        id: info.id(),
        runs: info.run_count(),
        ns: info.run_time().as_nanos() as u64,
    };
    loaded_programs().flatten().map(told)
}

fn sock_ops<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SockOps> {
    Ok(object.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn tracepoint<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut BtfTracePoint> {
    Ok(object.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

/// Where the hierarchy of cgroups is mounted.
fn cgroups() -> Result<String> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut words = mounts.lines().map(|line| line.split(' '));
    let path = words.find_map(|mut words| {
        let (path, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| path.to_owned())
    });
    path.context("no cgroup2 is mounted")
}
