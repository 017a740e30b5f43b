//! A descriptor that travels beside the first bytes of a request or an answer (`SCM_RIGHTS`, unix(7)).

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use crate::frame;

/// `SCM_MAX_FD`: the most descriptors that one message carries.
const MOST: usize = 253;

/// Writes one message, with a descriptor beside its first bytes if there is one. Not cancel-safe.
pub async fn write<T: Serialize>(
    stream: &mut tokio::net::UnixStream,
    message: &T,
    max: usize,
    descriptor: Option<&OwnedFd>,
) -> io::Result<()> {
    let frame = frame::frame(message, max)?;
    let socket = stream.as_raw_fd();
    let sent = stream.async_io(Interest::WRITABLE, || send(socket, &frame, descriptor)).await?;
    stream.write_all(&frame[sent..]).await
}

/// As [`frame::read_length`], with the descriptor that came along, if one did.
pub async fn read_length(
    stream: &mut tokio::net::UnixStream,
    max: usize,
) -> io::Result<Option<(usize, Option<OwnedFd>)>> {
    let mut head = [0; frame::HEAD];
    let socket = stream.as_raw_fd();
    let (read, handed) = stream.async_io(Interest::READABLE, || receive(socket, &mut head)).await?;
    if read == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut head[read..]).await?;
    Ok(Some((frame::length(head, max)?, handed)))
}

/// [`write()`] for who has no runtime.
pub fn write_now<T: Serialize>(
    mut stream: &UnixStream,
    message: &T,
    max: usize,
    descriptor: Option<&OwnedFd>,
) -> io::Result<()> {
    let frame = frame::frame(message, max)?;
    let sent = send(stream.as_raw_fd(), &frame, descriptor)?;
    stream.write_all(&frame[sent..])
}

/// The next message and what came beside it, for who has no runtime.
pub fn read_now<T: DeserializeOwned>(mut stream: &UnixStream, max: usize) -> io::Result<(T, Option<OwnedFd>)> {
    let mut head = [0; frame::HEAD];
    let (read, handed) = receive(stream.as_raw_fd(), &mut head)?;
    stream.read_exact(&mut head[read..])?;
    let mut whole = Read::chain(head.as_slice(), stream);
    Ok((frame::read_now(&mut whole, max)?, handed))
}

fn send(socket: RawFd, bytes: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<usize> {
    let handed: Vec<RawFd> = descriptor.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    let beside = if handed.is_empty() { vec![] } else { vec![ControlMessage::ScmRights(&handed)] };
    Ok(sendmsg::<()>(socket, &[IoSlice::new(bytes)], &beside, MsgFlags::MSG_NOSIGNAL, None)?)
}

fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    // Room for all that one message can carry: of those that find none, the kernel installs some all the same.
    let mut beside = cmsg_space!([RawFd; MOST]);
    let mut buffers = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket, &mut buffers, Some(&mut beside), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut handed = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else has them.
            handed.extend(descriptors.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    // Any beyond the first are closed.
    Ok((message.bytes, handed.into_iter().next()))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Seek,
        os::unix::fs::MetadataExt,
    };

    use super::*;

    const MAX: usize = 64;

    fn file(text: &str) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file.into()
    }

    fn text(handed: Option<OwnedFd>) -> Option<String> {
        handed.map(|handed| {
            let mut text = String::new();
            File::from(handed).read_to_string(&mut text).unwrap();
            text
        })
    }

    #[tokio::test]
    async fn a_descriptor_comes_with_its_message_or_there_is_none() {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let mut far = tokio::net::UnixStream::from_std(far).unwrap();
        for handed in [Some("within"), None] {
            write_now(&near, &"there", MAX, handed.map(file).as_ref()).unwrap();
            let (length, found) = read_length(&mut far, MAX).await.unwrap().unwrap();
            assert_eq!(frame::read_body::<String>(&mut far, length).await.unwrap(), "there");
            assert_eq!(text(found).as_deref(), handed);
            write(&mut far, &"back", MAX, handed.map(file).as_ref()).await.unwrap();
            let (message, found) = read_now::<String>(&near, MAX).unwrap();
            assert_eq!((message.as_str(), text(found).as_deref()), ("back", handed));
        }
        drop(near);
        assert!(read_length(&mut far, MAX).await.unwrap().is_none());
    }

    /// How many descriptors of this process are this file.
    fn held(file: &File) -> usize {
        let (of, inode) = (file.metadata().unwrap(), |data: &fs::Metadata| (data.dev(), data.ino()));
        let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
        all.filter(|entry| fs::metadata(entry.path()).is_ok_and(|data| inode(&data) == inode(&of))).count()
    }

    #[test]
    fn of_many_descriptors_the_first_is_taken_and_none_is_kept() {
        for count in [2, 3, MOST] {
            let (near, far) = UnixStream::pair().unwrap();
            let file = tempfile::tempfile().unwrap();
            let sent = vec![file.as_raw_fd(); count];
            let frame = frame::frame(&"there", MAX).unwrap();
            let beside = [ControlMessage::ScmRights(&sent)];
            sendmsg::<()>(near.as_raw_fd(), &[IoSlice::new(&frame)], &beside, MsgFlags::empty(), None).unwrap();
            let (message, handed) = read_now::<String>(&far, MAX).unwrap();
            assert_eq!((message.as_str(), handed.is_some(), held(&file)), ("there", true, 2), "of {count}");
            drop(handed);
            assert_eq!(held(&file), 1, "of {count}");
        }
    }
}
