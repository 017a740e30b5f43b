//! Connections, one after the other from each of several clients: made, accepted and closed again, as fast as it goes. Both
//! ends are threads of this process.

use std::{
    fs,
    io::Read as _,
    net::{IpAddr, Shutdown, SocketAddr},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use edge_tests::{
    crowd::Crowd,
    endings::pair::{Listeners, reset},
    net::{HOST4, HOST6, Lab, NEIGHBOUR4, Namespace},
    run,
};

/// Clients, each with an address of its own and one connection at a time.
const CLIENTS: u16 = 8;
const BACKLOG: i32 = 1024;
/// Connects when all others have.
const LAST: IpAddr = NEIGHBOUR4;

/// Who ends a connection, in turn.
const ENDINGS: usize = 3;
const BY_CLIENT: usize = 0;
const BY_SERVER: usize = 1;

pub struct Traffic<'a> {
    lab: &'a Lab,
    pub clients: Vec<IpAddr>,
    /// Ends connections itself.
    ending: Listeners,
    /// Waits until its client has.
    waiting: Listeners,
}

/// What so many connections took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    pub seconds: f64,
    /// Of both ends and of the network stack between them.
    pub cpu_seconds: f64,
}

impl Traffic<'_> {
    /// So many for each client and ending come to so many in all.
    pub const fn connections(each: usize) -> usize {
        each * ENDINGS * CLIENTS as usize
    }

    pub fn new(lab: &Lab) -> Result<Traffic<'_>> {
        let crowd = Crowd::new(lab, CLIENTS)?;
        let listeners = || Listeners::new(&lab.host, [HOST4, HOST6], BACKLOG);
        let clients = (0..CLIENTS).map(|number| crowd.four(number)).collect();
        Ok(Traffic { lab, clients, ending: listeners()?, waiting: listeners()? })
    }

    /// So many connections of each client and ending.
    pub fn drive(&self, each: usize) -> Result<Took> {
        let (start, cpu) = (Instant::now(), cpu_seconds()?);
        thread::scope(|scope| {
            let servers = [scope.spawn(|| serve(&self.ending, false)), scope.spawn(|| serve(&self.waiting, true))];
            let connected = self.lab.client.within(|| self.connect(each));
            let served = servers.into_iter().try_for_each(|server| server.join().unwrap_or_else(|_| panicked()));
            connected.and(served)
        })?;
        let took = Took { seconds: start.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds()? - cpu };
        forget_waiting(&self.lab.host)?;
        forget_waiting(&self.lab.client)?;
        Ok(took)
    }

    /// On a thread of the clients' namespace, in which those that it starts are too.
    fn connect(&self, each: usize) -> Result<()> {
        thread::scope(|scope| {
            let clients = self.clients.iter().map(|&from| scope.spawn(move || self.connect_from(from, each)));
            let clients: Vec<_> = clients.collect();
            clients.into_iter().try_for_each(|client| client.join().unwrap_or_else(|_| panicked()))
        })?;
        let last = |listeners: &Listeners| listeners.dial(SocketAddr::new(LAST, 0));
        last(&self.ending).and(last(&self.waiting)).map(drop)
    }

    fn connect_from(&self, from: IpAddr, each: usize) -> Result<()> {
        for ending in (0..ENDINGS).cycle().take(ENDINGS * each) {
            let listeners = if ending == BY_SERVER { &self.ending } else { &self.waiting };
            let mut connection = listeners.dial(SocketAddr::new(from, 0))?;
            match ending {
                BY_CLIENT => connection.shutdown(Shutdown::Write)?,
                BY_SERVER => {}
                _ => {
                    reset(connection)?;
                    continue;
                }
            }
            // So nobody is further ahead of the server than the queue of a listener has room for.
            let read = connection.read(&mut [0]).context("the server does not close")?;
            ensure!(read == 0, "the server says something");
        }
        Ok(())
    }
}

/// Until the last one comes: of those that are reset at once, the server does not get to know each.
fn serve(listeners: &Listeners, waits: bool) -> Result<()> {
    let listener = listeners.for_client(HOST4);
    loop {
        let (mut connection, from) = listener.accept().context("nobody connects")?;
        if from.ip() == LAST {
            return Ok(());
        }
        if waits {
            // Its end, or that it was reset.
            let _ = connection.read(&mut [0]);
        }
    }
}

fn panicked<T>() -> Result<T> {
    bail!("a thread of the traffic panicked")
}

/// Those in TIME-WAIT would become more from round to round.
fn forget_waiting(namespace: &Namespace) -> Result<()> {
    run(namespace.command("ss").args(["-K", "-H", "-t", "-n", "state", "time-wait"]), b"")?.good().context("ss -K")?;
    Ok(())
}

/// Of this process, in whose system calls most of the network stack runs, and of the threads that run the rest.
fn cpu_seconds() -> Result<f64> {
    // SAFETY: all zeroes is a time.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to a live time.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    ensure!(answer == 0, "the kernel does not say what CPU time this process took");
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9 + ksoftirqd_seconds()?)
}

fn ksoftirqd_seconds() -> Result<f64> {
    let mut seconds = 0.0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.starts_with("ksoftirqd/") {
            let schedstat = fs::read_to_string(entry.path().join("schedstat"))?;
            let ns: f64 = schedstat.split(' ').next().and_then(|word| word.parse().ok()).context("no CPU time")?;
            seconds += ns / 1e9;
        }
    }
    Ok(seconds)
}
