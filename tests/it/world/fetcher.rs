//! The process that asks others for the server, by itself: whom it finds, whom it believes, and what it has in its hands.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::UdpSocket,
    os::{
        fd::{AsRawFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edge_tests::{agent::binary, client::process_status, net::Lab, run, wait_for};
use serde_json::{Value, json};

use super::SOON;

const LINK: RawFd = 3;
const PROGRAM: RawFd = 4;

/// A fetcher and the server's end of its link.
struct Fetcher {
    link: UnixStream,
    process: Child,
}

impl Fetcher {
    /// As nobody, in the lab's host, with files of its own in place of `/etc/hosts` and `/etc/resolv.conf`.
    fn start(lab: &Lab, folder: &Path) -> Result<Fetcher> {
        let (link, far) = UnixStream::pair()?;
        let program = File::open(binary()?)?;
        let sources = [far.as_raw_fd(), program.as_raw_fd()];
        ensure!(sources.iter().all(|fd| *fd > PROGRAM), "{sources:?} lie where the copies go");
        let own = "cd \"$1\" && mount --bind hosts /etc/hosts && mount --bind resolv.conf /etc/resolv.conf && shift && exec \"$@\"";
        let mut command = lab.host.command("unshare");
        command
            .args(["--mount", "sh", "-c", own, "sh"])
            .arg(folder)
            .args(["setpriv", "--pdeathsig", "KILL", "--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .args(["--", &format!("/proc/self/fd/{PROGRAM}"), "fetcher"])
            .env("SSL_CERT_FILE", folder.join("cert.pem"))
            .stdin(Stdio::null());
        let inherit = move || {
            for (source, target) in sources.into_iter().zip([LINK, PROGRAM]) {
                // SAFETY: numbers only; both descriptors are open until after the spawn.
                if unsafe { libc::dup2(source, target) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec it makes system calls only.
        unsafe { command.pre_exec(inherit) };
        Ok(Fetcher { link, process: command.spawn()? })
    }

    /// What it says of an address: the status, or why there is none.
    fn ask(&mut self, url: &str) -> Result<Result<u64, String>> {
        let asked = json!({"fetch": {
            "id": 7, "method": "GET", "url": url, "headers": [["accept", "text/plain"]], "body": "",
            "max_body": 100_000, "within": {"secs": 10, "nanos": 0},
        }});
        let asked = asked.to_string();
        self.link.write_all(&u32::try_from(asked.len())?.to_le_bytes())?;
        self.link.write_all(asked.as_bytes())?;
        let mut length = [0; 4];
        self.link.read_exact(&mut length)?;
        let mut answer = vec![0; u32::from_le_bytes(length) as usize];
        self.link.read_exact(&mut answer)?;
        let answer: Value = serde_json::from_slice(&answer)?;
        ensure!(answer["id"] == 7, "{answer}");
        let result = &answer["result"];
        Ok(match result["Err"].as_str() {
            Some(why) => Err(why.to_owned()),
            None => Ok(result["Ok"]["status"].as_u64().with_context(|| answer.to_string())?),
        })
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A name server that knows one name.
fn name_server(socket: &UdpSocket) -> Result<()> {
    let mut query = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut query)?;
        let question = &query[12..length];
        let end = question.iter().position(|byte| *byte == 0).context("no end of the name")? + 5;
        let known = question.starts_with(b"\x06by-dns\x04test\0") && question[end - 4..end] == [0, 1, 0, 1];
        let nxdomain = !question.starts_with(b"\x06by-dns");
        let mut answer = query[..2].to_vec();
        answer.extend([0x81, if nxdomain { 0x83 } else { 0x80 }, 0, 1, 0, u8::from(known), 0, 0, 0, 0]);
        answer.extend(&question[..end]);
        if known {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        socket.send_to(&answer, from)?;
    }
}

fn web_server(lab: &Lab, folder: &Path) -> Result<Child> {
    let mut certificate = Command::new("openssl");
    certificate
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=web", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-addext", "subjectAltName=DNS:by-dns.test,DNS:by-hosts.test"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder);
    run(&mut certificate, b"")?.good().context("openssl req")?;
    let mut server = lab.host.command("setpriv");
    server
        .args(["--pdeathsig", "KILL", "--", "openssl", "s_server", "-accept", "8443", "-quiet"])
        .args(["-cert", "cert.pem", "-key", "key.pem", "-WWW"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(server.spawn()?)
}

#[test]
fn it_finds_names_as_the_system_does_and_believes_whom_the_system_trusts() -> Result<()> {
    let lab = Lab::new()?;
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::write(folder.path().join("hosts"), "127.0.0.1 by-hosts.test other.test\n")?;
    fs::write(folder.path().join("resolv.conf"), "nameserver 127.0.0.1\n")?;
    let mut web = web_server(&lab, folder.path())?;
    let names = lab.host.within(|| Ok(UdpSocket::bind("127.0.0.1:53")?))?;
    thread::spawn(move || name_server(&names));
    let mut fetcher = Fetcher::start(&lab, folder.path())?;
    wait_for("the server", SOON, || Ok((fetcher.ask("https://by-hosts.test:8443/hosts")? == Ok(200)).then_some(())))?;
    ensure!(fetcher.ask("https://by-dns.test:8443/hosts")? == Ok(200));
    for (url, why) in [
        ("https://other.test:8443/hosts", "certificate"),
        ("https://127.0.0.1:8443/hosts", "certificate"),
        ("https://nowhere.test:8443/hosts", "lookup"),
        ("http://by-hosts.test:8443/hosts", "plain HTTP"),
        ("https://by-hosts.test:8444/hosts", "refused"),
    ] {
        let answer = fetcher.ask(url)?;
        ensure!(answer.as_ref().is_err_and(|error| error.contains(why)), "{url}: {answer:?}");
    }

    let pid = fetcher.process.id();
    ensure!(process_status(pid, "Name")? == "edge-fetcher" && process_status(pid, "Seccomp")? == "2");
    ensure!(process_status(pid, "NoNewPrivs")? == "1" && process_status(pid, "CapPrm")?.trim_matches('0').is_empty());
    let at_home = run(lab.host.command("ss").args(["-Htulnp"]), b"")?.good()?;
    ensure!(at_home.contains("openssl") && !at_home.contains("edge"), "it listens: {at_home}");
    fetcher.link.shutdown(std::net::Shutdown::Both)?;
    let ended = wait_for("it to end", Duration::from_secs(2), || Ok(fetcher.process.try_wait()?))?;
    ensure!(ended.success(), "{ended}");
    web.kill()?;
    web.wait()?;
    Ok(())
}

#[test]
fn it_is_not_for_people_and_not_for_root() -> Result<()> {
    let told = run(Command::new(binary()?).arg("fetcher"), b"")?;
    ensure!(told.code == 2 && told.stderr.contains("started by `edge run`"), "{told:?}");
    let (_link, far) = UnixStream::pair()?;
    let fd = far.as_raw_fd();
    let mut command = Command::new(binary()?);
    command.arg("fetcher");
    // SAFETY: one system call on numbers, between fork and exec.
    unsafe {
        command.pre_exec(move || if libc::dup2(fd, LINK) < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
    };
    let told = run(&mut command, b"")?;
    ensure!(told.code == 1 && told.stderr.contains("not run as root"), "{told:?}");
    Ok(())
}
