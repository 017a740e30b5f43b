//! Who has signed in over SSH and is connected now; such a peer is never blocked. An open connection to the port proves
//! nothing, so this asks who holds it: OpenSSH's server shows by its processes, their users and titles whether a
//! connection has passed authentication, and the service manager's list of sessions says it where those cannot be
//! looked into. Read by `enforce` every few seconds, by hand since no library tells it.
//!
//! sshd forks a process of root for each connection. Before authentication its title has brackets (`[accepted]`,
//! `alice [priv]`) and its child has the rights of the user `sshd`. Afterwards its child has the rights of who signed in
//! and the title `alice` or `alice@pts/0`; for root it goes on itself, with such a title (OpenSSH 9.2 and 10).

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{LazyLock, Once},
};

use nix::unistd::User;

use crate::netlink::{self, NetlinkError, TcpSocket};

/// The names of OpenSSH's processes that hold connections; before and since 9.8.
const NAMES: [&str; 2] = ["sshd", "sshd-session"];
/// Where systemd's logind, and nobody else, writes of each session.
const SESSIONS: &str = "/run/systemd/sessions";
/// The user of the processes that talk before authentication.
static UNPRIVILEGED: LazyLock<Option<u32>> =
    LazyLock::new(|| User::from_name("sshd").ok().flatten().map(|user| user.uid.as_raw()));

/// The peers of authenticated sessions, in order, each once.
pub fn peers() -> Result<Vec<IpAddr>, NetlinkError> {
    let processes = processes();
    let holders = signed_in(&processes, *UNPRIVILEGED);
    let listed = listed_sessions(Path::new(SESSIONS));
    let mut peers: BTreeSet<IpAddr> = own_session()?.into_iter().collect();
    // With many connections their list is dear, and mostly nobody is signed in.
    if !(holders.is_empty() && listed.is_empty()) {
        let sockets: Vec<TcpSocket> = netlink::tcp_sockets()?.into_iter().filter(|socket| socket.uid == 0).collect();
        let held = holders.iter().filter_map(|pid| held_by(*pid));
        peers.extend(held.flat_map(|inodes| transport(&sockets, &inodes)));
        peers.extend(sockets.iter().filter_map(|socket| socket.peer).filter(|peer| listed.contains(peer)));
    }
    Ok(peers.into_iter().collect())
}

/// The session that edge was started from: its shell's environment is its starter's word.
fn own_session() -> Result<Option<IpAddr>, NetlinkError> {
    let Some((peer, local)) = env::var("SSH_CONNECTION").ok().as_deref().and_then(ends) else { return Ok(None) };
    Ok(netlink::established(peer, local)?.then(|| peer.ip().to_canonical()))
}

/// `$SSH_CONNECTION`: client address and port, server address and port (ssh(1)).
fn ends(connection: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut words = connection.split_whitespace();
    let mut end = || Some(SocketAddr::new(address(words.next()?)?, words.next()?.parse().ok()?));
    Some((end()?, end()?))
}

/// An address without its scope.
fn address(text: &str) -> Option<IpAddr> {
    text.split('%').next()?.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// A process by the name of OpenSSH's.
#[derive(Clone, Debug)]
struct Process {
    parent: u32,
    /// The real uid: the effective one of the process of root changes while it reads a user's files.
    uid: u32,
    title: String,
}

impl Process {
    fn read(pid: u32) -> Option<Process> {
        let directory = Path::new("/proc").join(pid.to_string());
        let name = fs::read_to_string(directory.join("comm")).ok()?;
        if !NAMES.contains(&name.trim_end()) {
            return None;
        }
        let status = fs::read_to_string(directory.join("status")).ok()?;
        let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
        let command = fs::read(directory.join("cmdline")).ok()?;
        Some(Process {
            parent: field("PPid:")?.parse().ok()?,
            uid: field("Uid:")?.parse().ok()?,
            title: String::from_utf8_lossy(&command).trim_end_matches(['\0', ' ']).to_owned(),
        })
    }

    /// Its title names a user and no stage before authentication. A title is the process's own word: see the callers.
    fn names_a_user(&self) -> bool {
        let user = NAMES.iter().find_map(|name| self.title.strip_prefix(name)?.strip_prefix(": "));
        user.is_some_and(|user| !user.is_empty() && !user.contains('['))
    }
}

fn processes() -> BTreeMap<u32, Process> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, Process::read(pid)?))).collect()
}

/// The processes of root that hold the connection of somebody who signed in. Only root's own titles are believed; a
/// process of another user counts by its uid too, and only as a child of sshd's, which takes having signed in.
fn signed_in(processes: &BTreeMap<u32, Process>, unprivileged: Option<u32>) -> BTreeSet<u32> {
    let holder = |(pid, process): (&u32, &Process)| {
        if !process.names_a_user() {
            return None;
        }
        if process.uid == 0 {
            return Some(*pid);
        }
        let parent = processes.get(&process.parent)?;
        (parent.uid == 0 && Some(process.uid) != unprivileged).then_some(process.parent)
    };
    processes.iter().filter_map(holder).collect()
}

/// The inodes of the sockets that a process holds.
fn held_by(pid: u32) -> Option<BTreeSet<u32>> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                "whose SSH session process {pid} serves cannot be seen without CAP_SYS_PTRACE; \
                 only those sessions that {SESSIONS} lists are protected"
            );
        });
        return None;
    };
    let socket = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Some(descriptors.flatten().filter_map(socket).collect())
}

/// Of the sockets that a session of root's holds, the peer of the one that it came in by: those may also be there that
/// it forwards, to where it chooses and from whoever comes.
fn transport(sockets: &[TcpSocket], held: &BTreeSet<u32>) -> Vec<IpAddr> {
    let (own, others): (Vec<&TcpSocket>, Vec<&TcpSocket>) =
        sockets.iter().partition(|socket| held.contains(&socket.inode));
    let listens = |among: &[&TcpSocket], port: u16| among.iter().any(|socket| socket.listens() && socket.port == port);
    let candidates: Vec<&TcpSocket> =
        own.iter().copied().filter(|socket| !socket.listens() && !listens(&own, socket.port)).collect();
    let served: Vec<&TcpSocket> = candidates.iter().copied().filter(|socket| listens(&others, socket.port)).collect();
    // Where sshd itself was stopped, nobody listens any more.
    let chosen = if served.is_empty() && candidates.len() == 1 { candidates } else { served };
    chosen.into_iter().filter_map(|socket| socket.peer).collect()
}

/// The peers of the sessions that logind knows to have come by SSH.
fn listed_sessions(directory: &Path) -> BTreeSet<IpAddr> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files.filter_map(|file| listed_session(&fs::read_to_string(file.path()).ok()?)).collect()
}

/// One session in logind's own words; `None` for one that is of another kind, or ending.
fn listed_session(text: &str) -> Option<IpAddr> {
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let lives = matches!(field("STATE"), Some("active" | "online"));
    let remote = field("REMOTE") == Some("1") && field("SERVICE") == Some("sshd");
    if lives && remote { address(field("REMOTE_HOST")?) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SSHD: u32 = 103;

    fn holders(processes: &[(u32, u32, u32, &str)]) -> Vec<u32> {
        let process = |(pid, parent, uid, title): &(u32, u32, u32, &str)| {
            (*pid, Process { parent: *parent, uid: *uid, title: (*title).to_owned() })
        };
        signed_in(&processes.iter().map(process).collect(), Some(SSHD)).into_iter().collect()
    }

    /// As OpenSSH 9.2 and 10 show them.
    #[test]
    fn before_authentication_no_connection_is_a_session_s() {
        let before = [
            (10, 1, 0, "sshd: /usr/sbin/sshd -D [listener] 4 of 10-100 startups"),
            (11, 10, 0, "/usr/sbin/sshd -D -R"),
            (12, 10, 0, "sshd: [accepted]"),
            (13, 10, 0, "sshd: unknown [priv]"),
            (14, 13, SSHD, "sshd: unknown [net]"),
            (15, 10, 0, "sshd: alice [priv]"),
            (16, 15, SSHD, "sshd: alice [net]"),
            (17, 15, 0, "sshd: alice [pam]"),
            // What asks for a user's keys, between fork and exec.
            (18, 15, 65534, "sshd: alice [priv]"),
            (19, 10, 0, "sshd: root [priv]"),
            (20, 19, SSHD, "sshd: root [net]"),
            (21, 10, 0, "sshd-session: root [priv]"),
            (22, 21, SSHD, "sshd-auth: root [net]"),
            (23, 10, 0, "sshd-session: [rexeced]"),
        ];
        assert!(holders(&before).is_empty());
    }

    #[test]
    fn after_it_root_s_process_holds_the_connection() {
        let after = [
            (10, 1, 0, "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"),
            (11, 10, 0, "sshd: alice [priv]"),
            (12, 11, 1000, "sshd: alice@pts/0"),
            (13, 10, 0, "sshd: root@notty"),
            (14, 1, 0, "sshd: bob [priv]"),
            (15, 14, 1001, "sshd: bob"),
            (16, 10, 0, "sshd-session: carol [postauth]"),
            (17, 16, 1002, "sshd-session: carol@pts/1,pts/2"),
            (18, 10, 0, "sshd-session: root"),
        ];
        assert_eq!(holders(&after), [11, 13, 14, 16, 18]);
    }

    #[test]
    fn nobody_s_own_title_is_believed() {
        let forged = [
            // A local user's, and one that was begun by another of its own.
            (11, 1, 1000, "sshd: root@pts/0"),
            (12, 11, 1000, "sshd: root@pts/0"),
            // A process before authentication that was taken over.
            (13, 1, 0, "sshd: alice [priv]"),
            (14, 13, SSHD, "sshd: alice@pts/0"),
        ];
        // The first has a parent that is no sshd here.
        assert!(holders(&forged).is_empty());
    }

    fn socket(inode: u32, port: u16, peer: Option<&str>) -> TcpSocket {
        TcpSocket { inode, uid: 0, port, peer: peer.map(|peer| peer.parse().unwrap()) }
    }

    #[test]
    fn of_a_session_s_sockets_only_its_own_transport_counts() {
        let sshd = socket(1, 22, None);
        let session = socket(2, 22, Some("203.0.113.1"));
        let forwarded =
            [socket(3, 8080, None), socket(4, 8080, Some("203.0.113.2")), socket(5, 40_000, Some("203.0.113.3"))];
        let other = socket(6, 22, Some("203.0.113.4"));
        let held = BTreeSet::from([2, 3, 4, 5]);
        let all: Vec<TcpSocket> = [&[sshd, session, other][..], &forwarded].concat();
        assert_eq!(transport(&all, &held), ["203.0.113.1".parse::<IpAddr>().unwrap()]);
        // Nobody listens on 22 any more: which is which cannot be told unless there is only one.
        assert!(transport(&all[1..], &held).is_empty());
        assert_eq!(transport(&all[1..], &BTreeSet::from([2])), ["203.0.113.1".parse::<IpAddr>().unwrap()]);
        assert!(transport(&all, &BTreeSet::new()).is_empty());
    }

    #[test]
    fn logind_s_sessions_count_while_they_live_and_came_by_ssh() {
        let session = |state: &str, service: &str, host: &str| {
            listed_session(&format!("# x\nUID=0\nSTATE={state}\nREMOTE=1\nREMOTE_HOST={host}\nSERVICE={service}\n"))
        };
        let peer = Some("203.0.113.7".parse().unwrap());
        assert_eq!(session("active", "sshd", "203.0.113.7"), peer);
        assert_eq!(session("online", "sshd", "::ffff:203.0.113.7"), peer);
        assert_eq!(session("active", "sshd", "fe80::1%eth0"), Some("fe80::1".parse().unwrap()));
        for (state, service, host) in [
            ("closing", "sshd", "203.0.113.7"),
            ("active", "login", "203.0.113.7"),
            ("active", "sshd", "client.example.org"),
        ] {
            assert_eq!(session(state, service, host), None);
        }
        assert_eq!(listed_session("REMOTE_HOST=203.0.113.7\n"), None);
    }

    #[test]
    fn the_session_that_edge_was_started_from_is_read_from_its_environment() {
        let expected = ("203.0.113.7:40000".parse().unwrap(), "192.0.2.1:2222".parse().unwrap());
        assert_eq!(ends("203.0.113.7 40000 192.0.2.1 2222"), Some(expected));
        assert!(ends("fe80::1%eth0 40000 fe80::2%eth0 22").is_some());
        for text in ["", "a b c", "203.0.113.7 40000 192.0.2.1", "203.0.113.7 x 192.0.2.1 22", "1 2 3 99999"] {
            assert_eq!(ends(text), None);
        }
        peers().unwrap();
    }
}
