//! Another service of the guarded host, and honest clients who use it all the time: each connects, says something, hears it,
//! and goes. Whatever fails of that is kept.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::{
    endings::pair::{dial, hear, reset},
    net::Lab,
};

/// Between two connections of a client, so that they leave the machine to others.
const PAUSE: Duration = Duration::from_millis(2);

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Service {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Gives back what it is told.
    pub fn echo(lab: &Lab, at: &[SocketAddr]) -> Result<Service> {
        let mut service = Service { over: Arc::default(), threads: Vec::new() };
        for at in at {
            let listener = lab.host.within(|| Ok(TcpListener::bind(at)?))?;
            listener.set_nonblocking(true)?;
            let over = service.over.clone();
            service.threads.push(thread::spawn(move || echo(&listener, &over)));
        }
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        end(&self.over, &mut self.threads);
    }
}

fn echo(listener: &TcpListener, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let mut answer = || -> Result<()> {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let mut words = [0; 8];
            stream.read_exact(&mut words)?;
            Ok(stream.write_all(&words)?)
        };
        // The client tells what went wrong.
        let _ = answer();
    }
}

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Clients {
    over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// One at each of these addresses of the clients' namespace, each with the destination that it goes to.
    pub fn of_echo(lab: &Lab, ways: &[(IpAddr, SocketAddr)]) -> Result<Clients> {
        Clients::start(lab, ways, |stream| {
            stream.write_all(b"a secret").context("ask")?;
            hear(stream, b"a secret")
        })
    }

    /// The same without a word.
    pub fn that_knock(lab: &Lab, ways: &[(IpAddr, SocketAddr)]) -> Result<Clients> {
        Clients::start(lab, ways, |_| Ok(()))
    }

    fn start(
        lab: &Lab,
        ways: &[(IpAddr, SocketAddr)],
        talk: impl Fn(&mut std::net::TcpStream) -> Result<()> + Copy + Send + 'static,
    ) -> Result<Clients> {
        let mut clients =
            Clients { over: Arc::default(), done: Arc::default(), failed: Arc::default(), threads: Vec::new() };
        for &(from, to) in ways {
            let namespace = std::fs::File::open(lab.client.path())?;
            let (over, done, failed) = (clients.over.clone(), clients.done.clone(), clients.failed.clone());
            clients.threads.push(thread::spawn(move || {
                let one = || -> Result<()> {
                    let mut stream = dial(SocketAddr::new(from, 0), to)?;
                    talk(&mut stream)?;
                    // No end of it waits for its time-out.
                    reset(stream)
                };
                let tell = |error| failed.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
                if let Err(error) = setns(namespace, CloneFlags::CLONE_NEWNET) {
                    return tell(error.into());
                }
                while !over.load(Ordering::Relaxed) {
                    one().unwrap_or_else(tell);
                    done.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PAUSE);
                }
            }));
        }
        Ok(clients)
    }

    /// How many connections were tried.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// What went wrong since this was asked last.
    pub fn failures(&self) -> Vec<String> {
        std::mem::take(&mut self.failed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        end(&self.over, &mut self.threads);
    }
}

fn end(over: &AtomicBool, threads: &mut Vec<JoinHandle<()>>) {
    over.store(true, Ordering::Relaxed);
    threads.drain(..).for_each(|thread| drop(thread.join()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::{HOST4, HOST6, NEIGHBOUR4, NEIGHBOUR6},
        wait_for,
    };

    #[test]
    fn clients_are_served_and_a_port_without_a_service_is_told() {
        let lab = Lab::new().unwrap();
        let at = [SocketAddr::new(HOST4, 7000), SocketAddr::new(HOST6, 7000)];
        let _service = Service::echo(&lab, &at).unwrap();
        let ways = [(NEIGHBOUR4, at[0]), (NEIGHBOUR6, at[1])];
        let clients = Clients::of_echo(&lab, &ways).unwrap();
        let limit = Duration::from_secs(10);
        wait_for("some of them", limit, || Ok((clients.done() > 20).then_some(()))).unwrap();
        assert_eq!(clients.failures(), Vec::<String>::new());
        let nowhere = Clients::that_knock(&lab, &[(NEIGHBOUR4, SocketAddr::new(HOST4, 7001))]).unwrap();
        wait_for("a refusal", limit, || Ok(nowhere.failures().pop().filter(|told| told.contains("refused")))).unwrap();
    }
}
