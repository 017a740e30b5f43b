//! How the agent starts the server and its fetcher: which user they become, the link and the listening sockets that are
//! inherited, and that nothing else goes with them (no descriptor, no variable but the fetcher's two, no capability).
//! Called by the agent; what was inherited is taken over by the same rules.

use std::{
    io,
    net::TcpListener,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    },
    path::Path,
    process::Stdio,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname},
    unistd::{AccessFlags, Group, Uid, User, access, pipe2},
};

use crate::{
    capability::{self, Capabilities},
    error::{Context, Failure},
    fetch::PLAIN_HTTP,
};

/// The variables that say whom an outgoing connection trusts.
const ROOTS: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Where the child finds the link; the listeners follow it, and what hands a server its fetchers comes last.
pub const LINK_FD: RawFd = 3;

/// The user and group that the server runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub name: String,
    /// `edge-server` does not exist here, so this is `nobody`.
    pub fallback: bool,
}

impl Identity {
    /// User and group `edge-server`, else `nobody`, of which the caller warns.
    pub fn find() -> Result<Identity, Failure> {
        for (name, fallback) in [("edge-server", false), ("nobody", true)] {
            let user = User::from_name(name).blame_system(|| format!("looking up the user {name}"))?;
            let Some(user) = user else { continue };
            let uid = user.uid.as_raw();
            let group = Group::from_name(name).blame_system(|| format!("looking up the group {name}"))?;
            let gid = group.map_or(user.gid, |group| group.gid).as_raw();
            if uid == 0 || gid == 0 {
                return Err(Failure::refused(format!(
                    "the user {name} has the rights of root (uid {uid}, gid {gid}); give it a uid and a gid of its own"
                )));
            }
            return Ok(Identity { uid, gid, name: name.to_owned(), fallback });
        }
        Err(Failure::refused(
            "there is neither a user edge-server nor a user nobody for the server to run as; create edge-server",
        ))
    }
}

/// Held as long as a process that was started may live: the kernel kills it, also one that is stopped, once nobody holds
/// this, and so with the agent, which may not be allowed to signal another user's process.
pub struct Leash {
    _held: OwnedFd,
}

/// A server that was started. It reads its config from the link and ends when that closes.
pub struct Spawned {
    pub process: tokio::process::Child,
    pub link: tokio::net::UnixStream,
    pub leash: Leash,
    /// By which it takes over links to its fetchers; `None`: it needs none.
    pub fetchers: Option<tokio::net::UnixStream>,
}

pub fn spawn(identity: &Identity, listeners: &[&TcpListener], fetches: bool) -> Result<Spawned, Failure> {
    let (link, far) = pair("the server's link")?;
    let (fetchers, handed) = fetches.then(|| pair("what hands the server its fetchers")).transpose()?.unzip();
    let count = listeners.len().to_string();
    let mut words = vec!["server", "--listeners", &count];
    words.extend(fetches.then_some("--fetcher"));
    let listeners = listeners.iter().map(AsFd::as_fd);
    let inherited: Vec<_> =
        std::iter::once(far.as_fd()).chain(listeners).chain(handed.iter().map(AsFd::as_fd)).collect();
    let (process, leash) = start(identity, &words, &inherited, &[])?;
    let fetchers = fetchers.map(ours).transpose()?;
    Ok(Spawned { process, link: ours(link)?, leash, fetchers })
}

/// A fetcher that was started.
pub struct SpawnedFetcher {
    pub process: tokio::process::Child,
    /// The end of its link that is for the server. It ends when that closes.
    pub link: std::os::unix::net::UnixStream,
    pub leash: Leash,
}

pub fn spawn_fetcher(identity: &Identity, plain_http: bool) -> Result<SpawnedFetcher, Failure> {
    let (link, far) = pair("the fetcher's link")?;
    let mut words = vec!["fetcher"];
    words.extend(plain_http.then_some(PLAIN_HTTP));
    let (process, leash) = start(identity, &words, &[far.as_fd()], &ROOTS)?;
    Ok(SpawnedFetcher { process, link, leash })
}

/// The inherited descriptor, if it is open and a socket of such a family. For the start of a process: each number is
/// taken once, before anything else has opened a descriptor.
pub fn inherited(fd: RawFd, families: &[AddressFamily]) -> Option<OwnedFd> {
    let family = getsockname::<SockaddrStorage>(fd).ok()?.family()?;
    // SAFETY: the descriptor is open, for it has just named its address, and it was inherited for this very use:
    // each number is taken once, at the start, before anything else has opened a descriptor.
    families.contains(&family).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn pair(what: &str) -> Result<(std::os::unix::net::UnixStream, std::os::unix::net::UnixStream), Failure> {
    std::os::unix::net::UnixStream::pair().blame_system(|| format!("making {what}"))
}

fn ours(near: std::os::unix::net::UnixStream) -> Result<tokio::net::UnixStream, Failure> {
    let what = || "handing the server's link to the runtime".to_owned();
    near.set_nonblocking(true).blame_system(what)?;
    tokio::net::UnixStream::from_std(near).blame_system(what)
}

/// This program as another user, with these words, these descriptors from [`LINK_FD`] on, its end of the leash after them,
/// and these variables.
fn start(
    identity: &Identity,
    words: &[&str],
    inherited: &[BorrowedFd<'_>],
    variables: &[&str],
) -> Result<(tokio::process::Child, Leash), Failure> {
    may_become_another()?;
    let name = words.first().copied().unwrap_or_default();
    let (tied, held) = pipe2(OFlag::O_CLOEXEC).blame_system(|| format!("making the {name}'s leash"))?;
    let inherited: Vec<BorrowedFd<'_>> = inherited.iter().copied().chain([tied.as_fd()]).collect();
    let end = LINK_FD + RawFd::try_from(inherited.len()).map_err(|_| Failure::bug("too many listeners"))?;
    // Neither the sources nor what the standard library opens for itself may lie where the copies go.
    let _reserved = reserve_below(end).blame_system(|| format!("reserving the {name}'s descriptors"))?;
    let mut sources = Vec::with_capacity(inherited.len());
    for fd in &inherited {
        sources.push(duplicate(*fd, end).blame_system(|| format!("copying a descriptor for the {name}"))?);
    }
    let plan =
        Plan { uid: identity.uid, gid: identity.gid, sources: sources.iter().map(AsRawFd::as_raw_fd).collect(), end };

    let mut command = tokio::process::Command::new("/proc/self/exe");
    command
        .arg0("edge")
        .args(words)
        .env_clear()
        .envs(variables.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    // SAFETY: `become_another` runs between fork and exec; it makes system calls only, allocates nothing and takes no
    // lock. The descriptors in `plan` stay open until after the spawn: `sources` owns them.
    unsafe { command.pre_exec(move || plan.become_another()) };
    let process = command.spawn().blame_system(|| format!("starting the {name} as user {}", identity.name))?;
    Ok((process, Leash { _held: held }))
}

/// Creates the directory of users and sessions: the server's own, group `edge` where that exists. Gives its parent
/// the search bit, without which the server could not get there.
pub fn prepare_auth_directory(path: &Path, identity: &Identity) -> Result<(), Failure> {
    let named = |what: &str| format!("{what} {}", path.display());
    let group = Group::from_name("edge").blame_system(|| "looking up the group edge".to_owned())?;
    let gid = group.map_or(identity.gid, |group| group.gid.as_raw());
    if let Err(error) = std::fs::create_dir(path)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(Failure::system(format!("{}: {error}", named("creating the server's directory"))));
    }
    let directory = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
        .blame_system(|| named("opening the server's directory"))?;
    let now = directory.metadata().blame_system(|| named("looking at the server's directory"))?;
    if (now.uid(), now.gid()) != (identity.uid, gid) {
        fchown(&directory, Some(identity.uid), Some(gid)).map_err(|error| {
            Failure::forbidden(format!(
                "{} has to belong to the user {} (uid {}), which the agent may not arrange ({error}); run `chown {}:{gid} {}` as root",
                path.display(), identity.name, identity.uid, identity.uid, path.display()
            ))
        })?;
    }
    if now.mode() & 0o7777 != 0o2770 {
        directory
            .set_permissions(std::fs::Permissions::from_mode(0o2770))
            .blame_system(|| named("setting the mode of the server's directory"))?;
    }
    make_reachable(path, identity)
}

/// What the child does between fork and exec.
struct Plan {
    uid: u32,
    gid: u32,
    sources: Vec<RawFd>,
    end: RawFd,
}

impl Plan {
    fn become_another(&self) -> io::Result<()> {
        ignore_signals()?;
        self.place_descriptors()?;
        drop_bounding_set();
        self.change_user()?;
        drop_capabilities()?;
        tie(self.end - 1)
    }

    fn place_descriptors(&self) -> io::Result<()> {
        for (target, source) in (LINK_FD..).zip(&self.sources) {
            // SAFETY: duplicates an open descriptor onto a number that `reserve_below` kept for it.
            done(i64::from(unsafe { libc::dup2(*source, target) }))?;
        }
        // Not closed but marked: the standard library still reports a failing exec over a descriptor of its own.
        // SAFETY: sets a flag on descriptors of this process, no memory is involved.
        let marked = unsafe {
            libc::syscall(libc::SYS_close_range, self.end as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
        };
        done(marked)
    }

    fn change_user(&self) -> io::Result<()> {
        // The bare system calls: the C library's wrappers would speak to threads that do not exist after a fork.
        // SAFETY: a list of no groups is not read.
        done(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) })?;
        // SAFETY: numbers only.
        done(unsafe { libc::syscall(libc::SYS_setresgid, self.gid, self.gid, self.gid) })?;
        // SAFETY: numbers only.
        done(unsafe { libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid) })
    }
}

/// What a terminal or a service manager sends goes to the agent's whole group; the agent then lets the server finish, and
/// the end of the link ends it in any case.
fn ignore_signals() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: numbers only; no handler is set, and what is ignored stays so over the exec.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Has the kernel kill this process when the other end of this pipe is closed, whoever it is by then.
fn tie(pipe: RawFd) -> io::Result<()> {
    /// `include/uapi/asm-generic/fcntl.h`; the C library's crate lacks it.
    const F_SETSIG: libc::c_int = 10;
    // SAFETY: numbers only, of a descriptor of this process.
    done(i64::from(unsafe { libc::fcntl(pipe, libc::F_SETOWN, libc::getpid()) }))?;
    // SAFETY: numbers only, as above.
    done(i64::from(unsafe { libc::fcntl(pipe, F_SETSIG, libc::SIGKILL) }))?;
    // SAFETY: numbers only, as above.
    done(i64::from(unsafe { libc::fcntl(pipe, libc::F_SETFL, libc::O_ASYNC) }))
}

/// As far as it may: it takes CAP_SETPCAP, which only an agent that runs as root has. What stays in the set cannot be
/// gained again, for NO_NEW_PRIVS is set.
fn drop_bounding_set() {
    for capability in 0..64 as libc::c_ulong {
        // SAFETY: numbers only; an unknown number is an error, which is meant to be passed over.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

fn drop_capabilities() -> io::Result<()> {
    // SAFETY: numbers only.
    done(i64::from(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }))?;
    // `struct __user_cap_header_struct` of version 3 and two all-zero `struct __user_cap_data_struct` (capset(2)).
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: both point to live memory of the size that version 3 of the interface reads: 8 and 24 bytes.
    done(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) })?;
    // SAFETY: numbers only.
    done(i64::from(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }))
}

fn done(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn may_become_another() -> Result<(), Failure> {
    if Uid::effective().is_root() {
        return Ok(());
    }
    let lacking = Capabilities::effective()?.lacking(&[capability::SETUID, capability::SETGID]);
    lacking.map_or(Ok(()), |missing| {
        Err(Failure::forbidden(format!(
            "the server has to run as another user, which takes {missing}; start edge as root or give it that capability"
        )))
    })
}

fn duplicate(fd: BorrowedFd<'_>, from: RawFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(from))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Occupies every free number below `end`.
fn reserve_below(end: RawFd) -> io::Result<Vec<OwnedFd>> {
    let null = std::fs::File::open("/dev/null")?;
    let mut reserved = Vec::new();
    loop {
        let copy = duplicate(null.as_fd(), LINK_FD)?;
        if copy.as_raw_fd() >= end {
            break;
        }
        reserved.push(copy);
    }
    reserved.push(OwnedFd::from(null));
    Ok(reserved)
}

fn make_reachable(path: &Path, identity: &Identity) -> Result<(), Failure> {
    let Ok(path) = path.canonicalize() else { return Ok(()) };
    let parent = path.parent();
    for ancestor in path.ancestors().skip(1) {
        let Ok(metadata) = ancestor.metadata() else { continue };
        let mode = metadata.mode();
        let granted = if metadata.uid() == identity.uid {
            mode & 0o100
        } else if metadata.gid() == identity.gid {
            mode & 0o010
        } else {
            mode & 0o001
        };
        if granted != 0 {
            continue;
        }
        let own = Some(ancestor) == parent && access(ancestor, AccessFlags::W_OK).is_ok();
        let searchable = std::fs::Permissions::from_mode(mode & 0o7777 | 0o001);
        if !own || std::fs::set_permissions(ancestor, searchable).is_err() {
            return Err(Failure::refused(format!(
                "the server (user {}) cannot reach {}, since {} may not be searched by others; run `chmod o+x {}` or set [store] path elsewhere",
                identity.name,
                path.display(),
                ancestor.display(),
                ancestor.display()
            )));
        }
    }
    Ok(())
}

/// Every failure here is the machine's.
trait BlameSystem<T> {
    fn blame_system(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: std::fmt::Display> BlameSystem<T> for Result<T, E> {
    fn blame_system(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.blame(crate::error::Blame::System, what)
    }
}
