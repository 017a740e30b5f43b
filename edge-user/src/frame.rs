//! How a message travels on a stream: a length (u32, little endian) and that many bytes of JSON. The admin socket and the
//! link between agent and server both speak so; what the messages are, they say themselves.

use std::io::{self, ErrorKind, Read};

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

pub const HEAD: usize = 4;
/// A longer body's buffer grows with what comes, not with what was announced. Shorter ones never move in memory, so no
/// copy of a secret is left behind: the server's config is among them.
const AT_ONCE: usize = 4 << 20;

/// One message as it travels; [`ErrorKind::InvalidInput`] where it has over `max` bytes.
pub fn frame<T: Serialize>(message: &T, max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut frame = Zeroizing::new(vec![0; HEAD]);
    serde_json::to_writer(&mut *frame, message)?;
    let length = frame.len() - HEAD;
    let head = u32::try_from(length).ok().filter(|_| length <= max);
    let too_long = || io::Error::new(ErrorKind::InvalidInput, format!("{length} bytes are over the limit of {max}"));
    frame[..HEAD].copy_from_slice(&head.ok_or_else(too_long)?.to_le_bytes());
    Ok(frame)
}

/// Writes one message, whole; what the other side would refuse for its size is refused here. Not cancel-safe.
pub async fn write<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T, max: usize) -> io::Result<()> {
    stream.write_all(&frame(message, max)?).await
}

/// The next message; `None` when the other side closed between two frames. A frame over `max` bytes, or one that is
/// no message, is an error, after which the stream is of no more use. Not cancel-safe: a task of its own calls it.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<Option<T>> {
    match read_length(stream, max).await? {
        Some(length) => read_body(stream, length).await.map(Some),
        None => Ok(None),
    }
}

/// The first half of [`read()`], for those who do something between: how long the body will be.
pub async fn read_length(stream: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<Option<usize>> {
    let mut head = [0; HEAD];
    match stream.read(&mut head).await? {
        0 => return Ok(None),
        read => stream.read_exact(&mut head[read..]).await?,
    };
    length(head, max).map(Some)
}

/// The second half.
pub async fn read_body<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<T> {
    let mut body = buffer(length);
    stream.take(length as u64).read_to_end(&mut body).await?;
    message(&body, length)
}

/// [`read()`] for who has no runtime.
pub fn read_now<T: DeserializeOwned>(stream: &mut impl Read, max: usize) -> io::Result<T> {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head)?;
    let length = length(head, max)?;
    let mut body = buffer(length);
    stream.take(length as u64).read_to_end(&mut body)?;
    message(&body, length)
}

/// What the first bytes of a frame announce.
pub fn length(head: [u8; HEAD], max: usize) -> io::Result<usize> {
    let length = u32::from_le_bytes(head) as usize;
    if length > max {
        return Err(invalid(format!("{length} bytes are announced, over the limit of {max}")));
    }
    Ok(length)
}

/// A little more than the body, since who reads to an end wants room to see it.
fn buffer(length: usize) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(length.min(AT_ONCE) + 64))
}

fn message<T: DeserializeOwned>(body: &[u8], length: usize) -> io::Result<T> {
    if body.len() < length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(body).map_err(|error| invalid(format!("it is no message: {error}")))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 64;

    #[tokio::test]
    async fn messages_travel_and_an_end_between_them_is_none() {
        let (mut near, mut far) = tokio::io::duplex(4096);
        write(&mut near, &"first", MAX).await.unwrap();
        write(&mut near, &7, MAX).await.unwrap();
        drop(near);
        assert_eq!(read::<String>(&mut far, MAX).await.unwrap().as_deref(), Some("first"));
        assert_eq!(read::<u8>(&mut far, MAX).await.unwrap(), Some(7));
        assert_eq!(read::<u8>(&mut far, MAX).await.unwrap(), None);
    }

    #[test]
    fn with_and_without_a_runtime_it_is_the_same_frame() {
        let mut out = Vec::new();
        out.extend_from_slice(&frame(&"ab", MAX).unwrap());
        assert_eq!(out, b"\x04\0\0\0\"ab\"");
        assert_eq!(read_now::<String>(&mut out.as_slice(), MAX).unwrap(), "ab");
    }

    #[tokio::test]
    async fn what_is_too_long_cut_short_or_no_message_is_refused() {
        let long = "x".repeat(MAX - 2);
        let mut out = Vec::new();
        assert_eq!(write(&mut out, &long, MAX - 1).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(out.is_empty());
        write(&mut out, &long, MAX).await.unwrap();
        let both = async |bytes: &[u8], max| {
            let waited = read::<String>(&mut &*bytes, max).await.map(|found| found.is_some()).map_err(|e| e.kind());
            let blocking = read_now::<String>(&mut &*bytes, max).map(|_| true).map_err(|error| error.kind());
            assert_eq!(waited, blocking);
            waited
        };
        assert_eq!(both(&out, MAX).await, Ok(true));
        assert_eq!(both(&out, MAX - 1).await, Err(ErrorKind::InvalidData));
        assert_eq!(both(&out[..out.len() - 1], MAX).await, Err(ErrorKind::UnexpectedEof));
        assert_eq!(both(&out[..3], MAX).await, Err(ErrorKind::UnexpectedEof));
        assert_eq!(both(b"\x02\0\0\0{}", MAX).await, Err(ErrorKind::InvalidData));
    }

    #[test]
    fn a_body_up_to_the_bound_stays_where_it_is() {
        let length = AT_ONCE;
        let mut body = buffer(length);
        let place = body.as_ptr();
        io::repeat(1).take(length as u64).read_to_end(&mut body).unwrap();
        assert_eq!(body.as_ptr(), place);
    }
}
