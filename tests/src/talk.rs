//! A TLS connection spoken by hand, byte by byte, from the first of the clients' addresses.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context, Result};

use crate::net::{HOST4, Lab};

/// Ended with this value, however it stands.
#[derive(Debug)]
pub struct Talk {
    client: Child,
    says: Option<ChildStdin>,
    hears: BufReader<ChildStdout>,
}

impl Talk {
    /// To the served port of the guarded host; `alpn` is `http/1.1` or `h2`.
    pub fn open(lab: &Lab, alpn: &str) -> Result<Talk> {
        let mut command = lab.client.command("openssl");
        // What a read of its begins with is no command of its own.
        command.args(["s_client", "-quiet", "-no_ign_eof", "-nocommands", "-alpn", alpn]);
        command.args(["-connect", &format!("{HOST4}:443")]);
        let mut client =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("openssl")?;
        let hears = BufReader::new(client.stdout.take().context("stdout")?);
        Ok(Talk { says: client.stdin.take(), client, hears })
    }

    pub fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let says = self.says.as_mut().context("this end is closed")?;
        says.write_all(bytes)?;
        Ok(says.flush()?)
    }

    /// Closes in good order (close_notify, then FIN) what was said, without waiting for an answer.
    pub fn close(mut self) -> Result<()> {
        self.says = None;
        self.client.wait()?;
        Ok(())
    }

    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.hears.read_line(&mut line)?;
        Ok(line)
    }

    pub fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.hears.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}
