//! How pairs of sockets are closed, where neither end needs anything else of the machine than a process.

use std::{
    io::{ErrorKind, Write as _},
    net::{Shutdown, TcpStream},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::{
    Ending,
    pair::{Pair, hear, hear_end, hear_error, reset},
};

pub fn each(pairs: Vec<Pair>, mut end: impl FnMut(usize, Pair) -> Result<()>) -> Result<()> {
    pairs.into_iter().enumerate().try_for_each(|(number, pair)| end(number, pair))
}

pub fn by_hand(ending: Ending, number: usize, pair: Pair) -> Result<()> {
    let Pair { client, server } = pair;
    match ending {
        Ending::FinByClient => fin(client, server),
        Ending::FinByServer => fin(server, client),
        Ending::ResetByClient => break_off(client, server),
        Ending::ResetByServer => break_off(server, client),
        Ending::HalfCloseByClient => half_close(client, server),
        Ending::HalfCloseByServer => half_close(server, client),
        _ => fin_or_reset(number, Pair { client, server }),
    }
}

pub fn fin_or_reset(number: usize, Pair { client, server }: Pair) -> Result<()> {
    if number.is_multiple_of(2) { fin(client, server) } else { break_off(client, server) }
}

pub fn fin(first: TcpStream, mut second: TcpStream) -> Result<()> {
    drop(first);
    hear_end(&mut second)
}

fn break_off(first: TcpStream, mut second: TcpStream) -> Result<()> {
    reset(first)?;
    hear_error(&mut second, &[ErrorKind::ConnectionReset])
}

fn half_close(mut first: TcpStream, mut second: TcpStream) -> Result<()> {
    first.shutdown(Shutdown::Write)?;
    hear_end(&mut second)?;
    second.write_all(b"the rest").context("say the rest")?;
    hear(&mut first, b"the rest")?;
    fin(second, first)
}

/// Another process gets the servers' ends, and is killed with them.
pub fn kill_holder(pairs: Vec<Pair>) -> Result<()> {
    let (mut clients, servers): (Vec<_>, Vec<_>) = pairs.into_iter().map(|pair| (pair.client, pair.server)).unzip();
    let descriptors: Vec<RawFd> = servers.iter().map(|server| server.as_raw_fd()).collect();
    let mut command = Command::new("sleep");
    command.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec it makes system calls on descriptors that are open, and allocates nothing.
    unsafe { command.pre_exec(move || descriptors.iter().try_for_each(inherit)) };
    let mut holder = command.spawn().context("sleep")?;
    drop(servers);
    holder.kill()?;
    holder.wait()?;
    clients.iter_mut().try_for_each(hear_end)
}

fn inherit(descriptor: &RawFd) -> std::io::Result<()> {
    // SAFETY: no pointer is passed.
    if unsafe { libc::fcntl(*descriptor, libc::F_SETFD, 0) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
