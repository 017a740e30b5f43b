//! Clients of the guarded host: `curl` from a chosen address, frames written byte by byte, and a scrape of the metrics.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{PacketBuilder, VlanId};
use nix::{
    errno::Errno,
    sys::{
        socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt},
        time::{TimeVal, TimeValLike},
    },
};
use serde_json::{Value, json};

use crate::{
    agent::Edge,
    net::{CLIENT_INTERFACE, HOST_INTERFACE, HOST4, HOST6, Lab, Namespace},
    run,
};

/// What a client saw of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An answer: status, head and body.
    Answer { status: u16, head: String, body: String },
    /// Nothing, for as long as the client waited.
    Timeout,
    /// Something else, in curl's words.
    Failed(String),
}

impl Seen {
    /// The status of an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Seen::Answer { status, .. } => Some(*status),
            Seen::Timeout | Seen::Failed(_) => None,
        }
    }

    /// The body of an answer, read as JSON.
    pub fn json(&self) -> Result<Value> {
        match self {
            Seen::Answer { body, .. } => serde_json::from_str(body).with_context(|| format!("no JSON: {body}")),
            Seen::Timeout | Seen::Failed(_) => bail!("no answer: {self:?}"),
        }
    }

    /// One field of an answer's head; names are compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let Seen::Answer { head, .. } = self else { return None };
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value.trim()))
    }
}

/// A client at one address. Every request is a connection of its own.
#[derive(Clone, Debug)]
pub struct Client<'lab> {
    namespace: &'lab Namespace,
    pub address: IpAddr,
    authority: PathBuf,
}

impl<'lab> Client<'lab> {
    /// One that takes the certificate of `edge` and no other, not even of the same authority.
    pub fn new(lab: &'lab Lab, edge: &Edge, address: IpAddr) -> Client<'lab> {
        Client { namespace: &lab.client, address, authority: edge.path("cert.pem") }
    }

    /// POST /auth/login.
    pub fn login(&self, username: &str, password: &str) -> Result<Seen> {
        let body = json!({"username": username, "password": password}).to_string();
        self.request("/auth/login", &["-H", "Content-Type: application/json", "--data-binary", &body])
    }

    /// A GET with a bearer token.
    pub fn bearer(&self, path: &str, token: &str) -> Result<Seen> {
        self.request(path, &["-H", &format!("Authorization: Bearer {token}")])
    }

    pub fn get(&self, path: &str) -> Result<Seen> {
        self.request(path, &[])
    }

    /// One request with any of curl's options, the last of a kind holds. Ten seconds for everything: a busy machine is
    /// slow.
    pub fn request(&self, path: &str, options: &[&str]) -> Result<Seen> {
        let url = match self.address {
            IpAddr::V4(_) => format!("https://{HOST4}{path}"),
            IpAddr::V6(_) => format!("https://[{HOST6}]{path}"),
        };
        let mut command = self.namespace.command("curl");
        command
            .args(["--silent", "--show-error", "--globoff", "--include", "--noproxy", "*"])
            .args(["--connect-timeout", "10", "--max-time", "10", "--interface", &self.address.to_string(), "--cacert"])
            .arg(&self.authority)
            .args(options)
            .arg(url);
        ask(&mut command)
    }
}

/// `GET http://127.0.0.1:9464/metrics` on the guarded host.
pub fn scrape(lab: &Lab) -> Result<Metrics> {
    let mut command = lab.host.command("curl");
    command.args(["--silent", "--show-error", "--include", "--max-time", "10", "http://127.0.0.1:9464/metrics"]);
    match ask(&mut command)? {
        Seen::Answer { status: 200, body, .. } => Ok(Metrics { text: body }),
        other => bail!("the metrics answered {other:?}"),
    }
}

/// A TCP connection from one of the clients' addresses; an error of the kind `TimedOut` where nothing came back.
pub fn connect(lab: &Lab, from: IpAddr, to: SocketAddr, limit: Duration) -> Result<io::Result<TcpStream>> {
    lab.client.within(|| {
        let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // The time to send bounds the connecting too, on Linux.
        let time = TimeVal::microseconds(i64::try_from(limit.as_micros())?);
        socket::setsockopt(&socket, sockopt::SendTimeout, &time)?;
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
        Ok(match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) => Ok(TcpStream::from(socket)),
            Err(Errno::EINPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error.into()),
        })
    })
}

fn ask(command: &mut Command) -> Result<Seen> {
    /// curl's exit code for a time that ran out.
    const TIMED_OUT: i32 = 28;
    let output = run(command, b"")?;
    match output.code {
        0 => answer(&output.stdout),
        TIMED_OUT => Ok(Seen::Timeout),
        _ => Ok(Seen::Failed(output.stderr.trim().to_owned())),
    }
}

fn answer(text: &str) -> Result<Seen> {
    let (head, body) = text.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split_whitespace().nth(1).context("an answer without a status")?.parse()?;
    if status == 100 {
        return answer(body);
    }
    Ok(Seen::Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// A scrape in the text format of Prometheus.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub text: String,
}

impl Metrics {
    /// The value of the one sample with this name and these labels (others may be there); `None` where there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.samples(name).find(|(found, _)| labels.iter().all(|(key, value)| found.contains(&label(key, value))))?.1
    }

    /// The sum over all samples of a name with these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name)
            .filter(|(found, _)| labels.iter().all(|(key, value)| found.contains(&label(key, value))))
            .filter_map(|(_, value)| value)
            .sum()
    }

    /// Whether the family is exposed.
    pub fn has_family(&self, name: &str) -> bool {
        self.text.lines().any(|line| line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next()) == Some(name))
    }

    fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, Option<f64>)> {
        self.text.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(labelled) => labelled.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            Some((labels, value.trim().parse().ok()))
        })
    }
}

fn label(key: &str, value: &str) -> String {
    format!("{key}={value:?}")
}

/// Longer than a receiver takes to empty its queue, even on a machine busy with other things.
const PATIENCE: Duration = Duration::from_secs(10);

/// A wire's end that sends whatever bytes it is given.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    interface: i32,
    source: [u8; 6],
    destination: [u8; 6],
}

impl Wire {
    /// From the clients' namespace towards the guarded host.
    pub fn new(lab: &Lab) -> Result<Wire> {
        Wire::between(lab, CLIENT_INTERFACE, HOST_INTERFACE)
    }

    /// The same over another pair of interfaces.
    pub fn between(lab: &Lab, of_client: &str, of_host: &str) -> Result<Wire> {
        let index = lab.client.link(of_client)?["ifindex"].as_i64().context("no ifindex")?;
        Ok(Wire {
            socket: lab.client.within(packet_socket)?,
            interface: i32::try_from(index)?,
            source: lab.client.mac(of_client)?,
            destination: lab.host.mac(of_host)?,
        })
    }

    /// The hardware addresses: this one, and that of the guarded host.
    pub fn ends(&self) -> [[u8; 6]; 2] {
        [self.source, self.destination]
    }

    /// A UDP datagram from any address to the guarded host behind 0 to 2 VLAN tags, as a whole frame.
    pub fn datagram(&self, from: IpAddr, vlan_tags: usize, payload: &[u8]) -> Result<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(self.source, self.destination);
        let (outer, inner) = (VlanId::try_new(7)?, VlanId::try_new(8)?);
        let to = if from.is_ipv4() { HOST4 } else { HOST6 };
        let mut frame = Vec::new();
        macro_rules! finish {
            ($link:expr) => {
                match (from, to) {
                    (IpAddr::V4(from), IpAddr::V4(to)) => {
                        $link.ipv4(from.octets(), to.octets(), 64).udp(5000, 5001).write(&mut frame, payload)?
                    }
                    (IpAddr::V6(from), IpAddr::V6(to)) => {
                        $link.ipv6(from.octets(), to.octets(), 64).udp(5000, 5001).write(&mut frame, payload)?
                    }
                    _ => bail!("both ends of a datagram are of one family"),
                }
            };
        }
        match vlan_tags {
            0 => finish!(ethernet),
            1 => finish!(ethernet.single_vlan(outer)),
            2 => finish!(ethernet.double_vlan(outer, inner)),
            more => bail!("{more} VLAN tags; edge reads at most 2"),
        }
        Ok(frame)
    }

    /// The begin of a TCP connection from any address to a port of the guarded host, as a whole frame.
    pub fn syn(&self, from: IpAddr, port: u16) -> Result<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(self.source, self.destination);
        let mut frame = Vec::new();
        match (from, HOST4, HOST6) {
            (IpAddr::V4(from), IpAddr::V4(to), _) => {
                ethernet.ipv4(from.octets(), to.octets(), 64).tcp(5000, port, 1, 65_535).syn().write(&mut frame, &[])?
            }
            (IpAddr::V6(from), _, IpAddr::V6(to)) => {
                ethernet.ipv6(from.octets(), to.octets(), 64).tcp(5000, port, 1, 65_535).syn().write(&mut frame, &[])?
            }
            _ => bail!("the lab's host has an address of each family"),
        }
        Ok(frame)
    }

    /// Puts a frame on the wire as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: all zeroes is a valid sockaddr_ll.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = self.interface;
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&self.destination);
        let mut sent = self.send_to(frame, &to);
        // What finds the other end's queue full is sent again, for as long as it takes to be emptied.
        let full = || io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS);
        let begin = Instant::now();
        while sent < 0 && full() && begin.elapsed() < PATIENCE {
            thread::yield_now();
            sent = self.send_to(frame, &to);
        }
        ensure!(sent == frame.len() as isize, "send: {}", io::Error::last_os_error());
        Ok(())
    }

    fn send_to(&self, frame: &[u8], to: &libc::sockaddr_ll) -> isize {
        // SAFETY: frame and address are live for the call, and both lengths are theirs.
        unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const *to).cast(),
                size_of_val(to) as u32,
            )
        }
    }
}

/// One that receives nothing before it is bound.
pub(crate) fn packet_socket() -> Result<OwnedFd> {
    // SAFETY: no pointer is passed; protocol 0 receives nothing.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(descriptor >= 0, "packet socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor was just opened and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// What `/proc/PID/status` says under a name.
pub fn process_status(pid: u32, name: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name} in the status of {pid}"))?.trim().to_owned())
}

/// What the descriptors of a process are, as `/proc/PID/fd` names them.
pub fn descriptors(pid: u32) -> Result<Vec<String>> {
    let name = |entry: fs::DirEntry| fs::read_link(entry.path()).map(|path: PathBuf| display(&path));
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().filter_map(|entry| name(entry).ok()).collect())
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let metrics =
            Metrics { text: "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab 9\nb 5\n".to_owned() };
        assert_eq!(metrics.value("a", &[("y", "3")]), Some(4.0));
        assert_eq!(metrics.sum("a", &[("x", "1")]), 7.0);
        assert_eq!(metrics.value("b", &[]), Some(5.0));
        assert_eq!(metrics.value("a", &[("x", "2")]), None);
        assert!(metrics.has_family("a") && !metrics.has_family("ab"));
    }
}
