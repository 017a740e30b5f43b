//! What the server and its fetcher take from themselves before they look at the first byte from outside: core dumps and
//! foreign eyes, and every system call that they have no use for and that an attacker would. Refuses to run with any right
//! left.

use std::collections::BTreeMap;

use nix::unistd::{Gid, Uid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use crate::{
    capability::Capabilities,
    error::{Blame, Context, Failure},
};

/// Whose hands are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// Answers who comes, and dials nobody.
    Server,
    /// Dials, and answers nobody.
    Fetcher,
}

impl Process {
    const fn name(self) -> &'static std::ffi::CStr {
        match self {
            Process::Server => c"edge-server",
            Process::Fetcher => c"edge-fetcher",
        }
    }
}

/// Must run before the process has a second thread: the filter holds for the calling thread and those it makes.
pub fn enter(process: Process) -> Result<(), Failure> {
    nix::sys::prctl::set_name(process.name()).blame(Blame::System, || "naming the process".to_owned())?;
    nix::sys::prctl::set_dumpable(false).blame(Blame::System, || "making the process not dumpable".to_owned())?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)
        .blame(Blame::System, || "turning core dumps off".to_owned())?;
    nix::sys::prctl::set_no_new_privs().blame(Blame::System, || "giving up new privileges".to_owned())?;
    refuse_privilege()?;
    keep_memory_small();
    let filters = filters(process).blame(Blame::Bug, || "building the seccomp filter".to_owned())?;
    for filter in filters {
        apply_filter(&filter).blame(Blame::System, || "applying the seccomp filter".to_owned())?;
    }
    Ok(())
}

fn refuse_privilege() -> Result<(), Failure> {
    if Uid::current().is_root() || Uid::effective().is_root() || Gid::effective().as_raw() == 0 {
        return Err(Failure::refused(
            "it does not run as root; it is started by `edge run`, which gives it a user of its own",
        ));
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let left = Capabilities::of_self(set)?;
        if !left.is_empty() {
            return Err(Failure::refused(format!(
                "it does not run with capabilities ({set} is {:x}); it is started by `edge run`",
                left.0
            )));
        }
    }
    Ok(())
}

/// A password hash takes 19 MiB. The C library would raise its threshold at the first one that is freed and from then
/// on keep such blocks; with a fixed threshold they go back to the kernel.
fn keep_memory_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers only, and no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

fn filters(process: Process) -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let denied = SeccompFilter::new(
        denied(process)?,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    // Its flags lie in memory, where a filter cannot look; the C library then takes `clone`.
    let absent = SeccompFilter::new(
        with_x32(libc::SYS_clone3, Vec::new()).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok([denied.try_into()?, absent.try_into()?])
}

fn denied(process: Process) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let (own, families) = match process {
        Process::Server => (DENIED_SERVER, FAMILIES_SERVER),
        Process::Fetcher => (DENIED_FETCHER, FAMILIES_FETCHER),
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().chain(own).chain(DENIED_X86).flat_map(|number| with_x32(*number, Vec::new())).collect();
    let condition = |index, op, value| SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value);
    let rule = |index, op, value| SeccompRule::new(vec![condition(index, op, value)?]);
    // Threads and nothing else: a process of its own would outlive the link, and hold the listeners.
    let mut not_a_thread = vec![rule(0, SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64), 0)?];
    for flag in NAMESPACES {
        let flag = *flag as u64;
        not_a_thread.push(rule(0, SeccompCmpOp::MaskedEq(flag), flag)?);
    }
    rules.extend(with_x32(libc::SYS_clone, not_a_thread));
    let others = families.iter().map(|family| condition(0, SeccompCmpOp::Ne, *family as u64));
    let other_family = SeccompRule::new(others.collect::<Result<_, _>>()?)?;
    rules.extend(with_x32(libc::SYS_socket, vec![other_family]));
    // This flag makes a connection where there is none.
    let flag = libc::MSG_FASTOPEN as u64;
    for (number, index) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        rules.extend(with_x32(number, vec![rule(index, SeccompCmpOp::MaskedEq(flag), flag)?]));
    }
    Ok(rules)
}

/// On x86-64 the kernel may also take a call by its number in the x32 table, which says the same architecture.
fn with_x32(number: i64, rules: Vec<SeccompRule>) -> impl Iterator<Item = (i64, Vec<SeccompRule>)> {
    const X32: i64 = 0x4000_0000;
    let second = cfg!(target_arch = "x86_64").then(|| (number | X32, rules.clone()));
    std::iter::once((number, rules)).chain(second)
}

const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Whom the server speaks with over the network comes in by the listeners; the journal is a socket of this host.
const FAMILIES_SERVER: &[libc::c_int] = &[libc::AF_UNIX];
/// Names are resolved by any of these.
const FAMILIES_FETCHER: &[libc::c_int] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The agent takes the server's word about connections to its listeners: none may lead out from one of these, as from a
/// listener that was shut down.
const DENIED_SERVER: &[i64] = &[libc::SYS_connect];
const DENIED_FETCHER: &[i64] = &[libc::SYS_accept, libc::SYS_accept4];

const DENIED: &[i64] = &[
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kcmp,
    libc::SYS_kill,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_personality,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_mknodat,
    libc::SYS_nfsservctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const DENIED_X86: &[i64] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_mknod,
    libc::SYS_uselib,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_ustat,
    libc::SYS__sysctl,
    // Those with a number of their own in the x32 table: execve, sendmsg, ptrace, kexec_load, sendmmsg,
    // process_vm_readv and _writev, execveat.
    520,
    518,
    521,
    528,
    538,
    539,
    540,
    545,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_X86: &[i64] = &[];

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
        os::{fd::AsRawFd, unix::net::UnixDatagram},
        process::Command,
        thread,
    };

    use nix::{
        errno::Errno,
        sys::socket::{MsgFlags, Shutdown, SockaddrIn, connect, listen, sendto, shutdown},
    };

    use super::*;

    #[test]
    fn the_filters_compile_and_name_what_matters() {
        let rules = denied(Process::Server).unwrap();
        for number in [libc::SYS_bpf, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_setns, libc::SYS_clone] {
            assert!(rules.contains_key(&number));
        }
        assert!(!rules.contains_key(&libc::SYS_accept4));
    }

    /// The filters hold for the thread that applies them.
    fn confined<T: Send>(process: Process, work: impl FnOnce() -> T + Send) -> T {
        let thread = || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            for filter in filters(process).unwrap() {
                apply_filter(&filter).unwrap();
            }
            work()
        };
        thread::scope(|scope| scope.spawn(thread).join().unwrap())
    }

    fn refused<T: std::fmt::Debug>(result: io::Result<T>) {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn it_answers_and_dials_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(target) = elsewhere.local_addr().unwrap() else { panic!() };
        confined(Process::Server, || {
            let (mut served, _) = listener.accept().unwrap();
            io::Write::write_all(&mut served, b"x").unwrap();
            refused(TcpStream::connect(target));
            refused(UdpSocket::bind("127.0.0.1:0"));
            UnixDatagram::unbound().unwrap();
            // A listener that was shut down could otherwise be the near end of any connection.
            let fd = listener.as_raw_fd();
            shutdown(fd, Shutdown::Both).unwrap();
            assert_eq!(connect(fd, &SockaddrIn::from(target)), Err(Errno::EPERM));
            assert_eq!(
                sendto(fd, b"x", &SockaddrIn::from(target), MsgFlags::from_bits_retain(libc::MSG_FASTOPEN)),
                Err(Errno::EPERM)
            );
            assert_eq!(listen(&listener, nix::sys::socket::Backlog::MAXCONN), Err(Errno::EPERM));
        });
        assert!(nix::sys::socket::getpeername::<SockaddrIn>(listener.as_raw_fd()).is_err());
    }

    #[test]
    fn the_fetcher_dials_and_answers_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        confined(Process::Fetcher, || {
            io::Write::write_all(&mut TcpStream::connect(address).unwrap(), b"x").unwrap();
            refused(listener.accept());
            refused(TcpListener::bind("127.0.0.1:0"));
            refused(UdpSocket::bind("127.0.0.1:0"));
            assert_eq!(listen(&listener, nix::sys::socket::Backlog::MAXCONN), Err(Errno::EPERM));
        });
        listener.accept().unwrap();
    }

    #[test]
    fn they_have_threads_and_no_other_processes() {
        for process in [Process::Server, Process::Fetcher] {
            confined(process, || {
                assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
                refused(Command::new("/bin/true").spawn());
            });
        }
    }
}
