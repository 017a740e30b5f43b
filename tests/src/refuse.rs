//! A kernel without a system call, as a command and all that it starts will see it: a seccomp filter answers in its place.

use std::{io, os::unix::process::CommandExt, process::Command};

use anyhow::{Result, ensure};

/// Has the kernel refuse one system call to a command that is started later, with this error.
pub fn refuse(command: &mut Command, call: libc::c_long, errno: i32) -> Result<()> {
    let filter = Filter::new(u32::try_from(call)?, u32::try_from(errno)?)?;
    // SAFETY: between fork and exec it makes one system call, and allocates nothing; the filter is moved into the closure.
    unsafe { command.pre_exec(move || filter.apply()) };
    Ok(())
}

/// Four instructions: load the call's number; if it is this one answer with the error; else let it through.
struct Filter([libc::sock_filter; 4]);

impl Filter {
    fn new(call: u32, errno: u32) -> Result<Filter> {
        ensure!(errno <= libc::SECCOMP_RET_DATA, "{errno} is no error that a filter can give");
        let code = |code: u32| code as u16;
        let step = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
        // `struct seccomp_data` begins with the call's number.
        let load = step(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0);
        let compare = libc::sock_filter { jf: 1, ..step(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), call) };
        let answer = |action| step(code(libc::BPF_RET | libc::BPF_K), action);
        Ok(Filter([load, compare, answer(libc::SECCOMP_RET_ERRNO | errno), answer(libc::SECCOMP_RET_ALLOW)]))
    }

    fn apply(&self) -> io::Result<()> {
        let program = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the program is live for the call, which copies it and writes nothing.
        let code = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;

    #[test]
    fn a_refused_call_fails_with_that_error_and_others_do_not() {
        let ran = |call, errno| {
            let mut command = Command::new("uname");
            refuse(&mut command, call, errno).unwrap();
            run(&mut command, b"").unwrap()
        };
        assert_eq!(ran(libc::SYS_bpf, libc::ENOSYS).stdout, "Linux\n");
        let output = ran(libc::SYS_uname, libc::ENOSYS);
        assert!(output.code != 0 && output.stderr.contains("not implemented"), "{output:?}");
    }
}
