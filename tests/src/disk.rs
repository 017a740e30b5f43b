//! A small disk of a test's own, in memory, that can be filled to its last byte and made read-only. Dropping it unmounts
//! it.

use std::{
    fs::{self, File, Permissions},
    io::{ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::run;

/// Mounted on a folder.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Makes the folder, and mounts there a disk with so many bytes.
    pub fn mount(path: PathBuf, bytes: u32) -> Result<Disk> {
        fs::create_dir(&path)?;
        let options = format!("size={bytes}");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path), b"")?.good()?;
        let disk = Disk { path };
        // The server is another user and comes through here.
        fs::set_permissions(&disk.path, Permissions::from_mode(0o755))?;
        Ok(disk)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the last byte.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.filler())?;
        let mut chunk = 64 << 10;
        while chunk > 0 {
            match file.write(&vec![0; chunk]) {
                Ok(0) => bail!("nothing was written, and no error"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => chunk /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives back what [`fill`](Self::fill) took.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    /// Fails while anything is open for writing.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        let options = if read_only { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", options]).arg(&self.path), b"")?.good().context("remount").map(drop)
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.path), b"");
    }
}
