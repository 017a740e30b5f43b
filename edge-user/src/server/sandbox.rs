//! What the server takes from itself before it looks at the first byte from outside: core dumps and foreign eyes, and
//! every system call that it has no use for and that an attacker would. Refuses to run with any right left.

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

/// Must run before the process has a second thread: the filter holds for the calling thread and those it makes.
pub fn enter() -> Result<(), Failure> {
    nix::sys::prctl::set_name(c"edge-server").blame(Blame::System, || "naming the server".to_owned())?;
    nix::sys::prctl::set_dumpable(false).blame(Blame::System, || "making the server not dumpable".to_owned())?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)
        .blame(Blame::System, || "turning core dumps off".to_owned())?;
    nix::sys::prctl::set_no_new_privs().blame(Blame::System, || "giving up new privileges".to_owned())?;
    refuse_privilege()?;
    keep_memory_small();
    let filters = filters().blame(Blame::Bug, || "building the server's seccomp filter".to_owned())?;
    for filter in filters {
        apply_filter(&filter).blame(Blame::System, || "applying the server's seccomp filter".to_owned())?;
    }
    Ok(())
}

fn refuse_privilege() -> Result<(), Failure> {
    if Uid::current().is_root() || Uid::effective().is_root() || Gid::effective().as_raw() == 0 {
        return Err(Failure::refused(
            "the server does not run as root; it is started by `edge run`, which gives it a user of its own",
        ));
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let left = Capabilities::of_self(set)?;
        if !left.is_empty() {
            return Err(Failure::refused(format!(
                "the server does not run with capabilities ({set} is {:x}); it is started by `edge run`",
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

fn filters() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let denied = SeccompFilter::new(
        denied()?,
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

fn denied() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().chain(DENIED_X86).flat_map(|number| with_x32(*number, Vec::new())).collect();
    let argument = |index, op, value| SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value);
    let mut namespaces = Vec::new();
    for flag in NAMESPACES {
        let flag = *flag as u64;
        namespaces.push(SeccompRule::new(vec![argument(0, SeccompCmpOp::MaskedEq(flag), flag)?])?);
    }
    rules.extend(with_x32(libc::SYS_clone, namespaces));
    let mut families = Vec::new();
    for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
        families.push(argument(0, SeccompCmpOp::Ne, family as u64)?);
    }
    rules.extend(with_x32(libc::SYS_socket, vec![SeccompRule::new(families)?]));
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

const DENIED: &[i64] = &[
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
    libc::SYS_ustat,
    libc::SYS__sysctl,
    // Those with a number of their own in the x32 table: execve, ptrace, kexec_load, process_vm_readv and _writev,
    // execveat.
    520,
    521,
    528,
    539,
    540,
    545,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_X86: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_name_what_matters() {
        assert!(filters().is_ok());
        let rules = denied().unwrap();
        for number in [libc::SYS_bpf, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_setns, libc::SYS_clone] {
            assert!(rules.contains_key(&number));
        }
        assert!(!rules.contains_key(&libc::SYS_accept4));
    }
}
