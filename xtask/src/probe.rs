//! Measures, from a client's side, when its packets begin to be dropped: [`Answers`] notes when the server's answers
//! arrive, [`Stream`] sends numbered datagrams and finds the first that never arrived.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::{Client, Seen},
    net::{HOST4, Lab},
    wait_for,
};

/// What the last of several refused logins did to the one who tried.
pub struct Cut {
    /// The status of each login.
    pub statuses: Vec<u16>,
    /// When the last 401 was on the client's interface.
    pub refused: Instant,
    /// When the first datagram was sent that the host never saw.
    pub dropped: Instant,
}

impl Cut {
    /// Seconds from the last 401 to the first dropped packet; negative where the kernel dropped before the 401 was there.
    pub fn latency(&self) -> f64 {
        let after = self.dropped.saturating_duration_since(self.refused);
        let before = self.refused.saturating_duration_since(self.dropped);
        after.as_secs_f64() - before.as_secs_f64()
    }
}

/// Fails to log in `times` times from `address`, and finds out when its packets begin to be dropped. `refused` is called
/// the moment that each 401 is there.
pub fn fail_until_cut(
    lab: &Lab,
    edge: &Edge,
    address: IpAddr,
    times: usize,
    limit: Duration,
    mut refused: impl FnMut() -> Result<()>,
) -> Result<Cut> {
    let client = Client::new(lab, edge, address);
    let answers = Answers::watch(lab, address)?;
    let mut statuses = Vec::new();
    let mut stream = None;
    let mut last = Instant::now();
    for attempt in 1..=times {
        if attempt == times {
            stream = Some(Stream::start(lab, address)?);
        }
        let seen = thread::scope(|scope| {
            let login = scope.spawn(|| fail_to_log_in(&client));
            last = answers.next()?;
            refused()?;
            login.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
        })?;
        // Should an answer come in several records: its first counts.
        answers.forget();
        statuses.push(seen.status().with_context(|| format!("login {attempt} of {times} got no answer: {seen:?}"))?);
    }
    let stream = stream.context("at least one login is needed")?;
    Ok(Cut { statuses, refused: last, dropped: stream.first_dropped(limit)? })
}

/// By TLS 1.2, where the kind of each record can be seen on the wire, and HTTP/1.1, where the server's first record of
/// application data is the answer.
fn fail_to_log_in(client: &Client) -> Result<Seen> {
    let body = r#"{"username":"alice","password":"a guess that is wrong"}"#;
    let options = ["--tls-max", "1.2", "--http1.1", "-H", "Content-Type: application/json", "--data-binary", body];
    client.request("/auth/login", &options)
}

/// When the server's answers to one client arrive at the client's interface.
struct Answers {
    arrivals: mpsc::Receiver<Instant>,
    watcher: Option<JoinHandle<()>>,
    end: Arc<AtomicBool>,
}

impl Answers {
    fn watch(lab: &Lab, client: IpAddr) -> Result<Answers> {
        let socket = lab.client.within(|| packet_socket().context("cannot watch the client's interface"))?;
        let (sender, arrivals) = mpsc::channel();
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let watcher = thread::spawn(move || watch(&socket, client, &sender, &ended));
        Ok(Answers { arrivals, watcher: Some(watcher), end })
    }

    fn next(&self) -> Result<Instant> {
        self.arrivals.recv_timeout(Duration::from_secs(15)).context("no answer came within 15 s")
    }

    fn forget(&self) {
        self.arrivals.try_iter().for_each(drop);
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

fn watch(socket: &OwnedFd, client: IpAddr, arrivals: &mpsc::Sender<Instant>, end: &AtomicBool) {
    let mut frame = [0; 2048];
    while !end.load(Ordering::Relaxed) {
        // SAFETY: the buffer is live for the call and its length is passed.
        let length = unsafe { libc::recv(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
        let now = Instant::now();
        let Ok(length) = usize::try_from(length) else { continue };
        if is_answer(&frame[..length], client) && arrivals.send(now).is_err() {
            return;
        }
    }
}

/// Whether an Ethernet frame brings the first TLS record of application data from the host to this client.
fn is_answer(frame: &[u8], client: IpAddr) -> bool {
    const APPLICATION_DATA: u8 = 23;
    let (IpAddr::V4(host), IpAddr::V4(client)) = (HOST4, client) else { return false };
    let Some(ip) = frame.get(14..) else { return false };
    let (Some(&first), Some(addresses)) = (ip.first(), ip.get(12..20)) else { return false };
    let is_ours = ip[9] == 6 && addresses[..4] == host.octets() && addresses[4..] == client.octets();
    let tcp = ip.get(usize::from(first & 15) * 4..).unwrap_or_default();
    let offset = tcp.get(12).map_or(usize::MAX, |&byte| usize::from(byte >> 4) * 4);
    is_ours && tcp.get(offset) == Some(&APPLICATION_DATA)
}

/// Receives what arrives as IPv4, and looks up every 100 ms.
fn packet_socket() -> Result<OwnedFd> {
    let protocol = u16::to_be(libc::ETH_P_IP as u16);
    // SAFETY: no pointer is passed.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol)) };
    ensure!(descriptor >= 0, io::Error::last_os_error());
    // SAFETY: the descriptor was just opened and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let wait = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
    // SAFETY: the option's value is a timeval, live for the call, and its size is passed.
    let set = unsafe {
        libc::setsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const wait).cast(),
            size_of_val(&wait) as libc::socklen_t,
        )
    };
    ensure!(set == 0, io::Error::last_os_error());
    Ok(socket)
}

/// Numbered datagrams from a client to the host, one every few dozen microseconds.
struct Stream {
    sender: Option<JoinHandle<Vec<Instant>>>,
    receiver: Option<JoinHandle<()>>,
    end: Arc<AtomicBool>,
    /// How many were known to have arrived: the number of the last, plus one.
    arrived: Arc<AtomicU64>,
}

impl Stream {
    fn start(lab: &Lab, client: IpAddr) -> Result<Stream> {
        let at_host = lab.host.within(|| Ok(UdpSocket::bind(SocketAddr::new(HOST4, 0))?))?;
        at_host.set_read_timeout(Some(Duration::from_millis(50)))?;
        let to = at_host.local_addr()?;
        let at_client = lab.client.within(|| Ok(UdpSocket::bind(SocketAddr::new(client, 0))?))?;
        let end = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let receiver = {
            let (end, arrived) = (Arc::clone(&end), Arc::clone(&arrived));
            thread::spawn(move || receive(&at_host, &arrived, &end))
        };
        let sender = {
            let end = Arc::clone(&end);
            thread::spawn(move || send(&at_client, to, &end))
        };
        let stream = Stream { sender: Some(sender), receiver: Some(receiver), end, arrived };
        wait_for("the first datagram to arrive", Duration::from_secs(5), || {
            Ok((stream.arrived.load(Ordering::Relaxed) > 0).then_some(()))
        })?;
        Ok(stream)
    }

    /// Waits until nothing arrives any more; when the first was sent that never arrived.
    fn first_dropped(mut self, limit: Duration) -> Result<Instant> {
        const SILENCE: Duration = Duration::from_millis(250);
        let mut newest = (self.arrived.load(Ordering::Relaxed), Instant::now());
        wait_for("the datagrams to be dropped", limit, || {
            let arrived = self.arrived.load(Ordering::Relaxed);
            if arrived != newest.0 {
                newest = (arrived, Instant::now());
            }
            Ok((newest.1.elapsed() > SILENCE).then_some(()))
        })?;
        self.end.store(true, Ordering::Relaxed);
        let sent = self.sender.take().and_then(|sender| sender.join().ok()).unwrap_or_default();
        let _ = self.receiver.take().map(JoinHandle::join);
        let first = usize::try_from(self.arrived.load(Ordering::Relaxed))?;
        sent.get(first).copied().context("the stream ended before a datagram was dropped")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.sender.take().map(JoinHandle::join);
        let _ = self.receiver.take().map(JoinHandle::join);
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, end: &AtomicBool) -> Vec<Instant> {
    // SAFETY: no pointer is passed; it makes this thread's sleeps end on time.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000) };
    let mut sent = Vec::with_capacity(1 << 16);
    while !end.load(Ordering::Relaxed) {
        let number = sent.len() as u64;
        sent.push(Instant::now());
        // A datagram that cannot be sent never arrives, which is all that is asked here.
        let _ = socket.send_to(&number.to_be_bytes(), to);
        thread::sleep(Duration::from_micros(20));
    }
    sent
}

/// Until the end, and then what is still queued.
fn receive(socket: &UdpSocket, arrived: &AtomicU64, end: &AtomicBool) {
    let mut number = [0; 8];
    loop {
        match socket.recv(&mut number) {
            Ok(_) => drop(arrived.fetch_max(u64::from_be_bytes(number) + 1, Ordering::Relaxed)),
            Err(_) if end.load(Ordering::Relaxed) => return,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_application_data_from_the_host_to_the_client() {
        let client = IpAddr::from([10, 77, 0, 2]);
        let mut frame = vec![0; 14 + 20 + 20];
        frame[14] = 0x45;
        frame[14 + 9] = 6;
        frame[14 + 12..14 + 16].copy_from_slice(&[10, 77, 0, 1]);
        frame[14 + 16..14 + 20].copy_from_slice(&[10, 77, 0, 2]);
        frame[14 + 20 + 12] = 5 << 4;
        assert!(!is_answer(&frame, client));
        for (kind, expected) in [(22, false), (23, true), (21, false)] {
            let mut frame = frame.clone();
            frame.push(kind);
            assert_eq!(is_answer(&frame, client), expected, "record of kind {kind}");
            assert!(!is_answer(&frame, IpAddr::from([10, 77, 0, 3])));
        }
        for length in 0..frame.len() {
            assert!(!is_answer(&frame[..length], client), "cut at {length}");
        }
    }
}
