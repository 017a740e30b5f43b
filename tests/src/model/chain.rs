//! Fragments and IPv6 extension headers: from the IP header to the protocol that it carries.

use super::{
    Reason,
    frame::{Datagram, Family, Header},
};

/// At most so many extension headers; one more is malformed.
const MOST: usize = 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// What the chain ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    pub protocol: u8,
    /// Where it begins in the datagram.
    pub begin: usize,
    /// The rest of it is in other packets.
    pub is_first_fragment: bool,
}

/// Walks as far as somebody wants to know; `None`: nobody does, or a later fragment does not say.
pub fn walk(
    header: &Header,
    datagram: Datagram,
    drops_fragments: bool,
    wants_upper: bool,
) -> Result<Option<Upper>, Reason> {
    match header.family {
        Family::Ipv4 => walk4(header, drops_fragments),
        _ if drops_fragments || wants_upper => walk6(header, datagram, drops_fragments),
        _ => Ok(None),
    }
}

fn walk4(header: &Header, drops_fragments: bool) -> Result<Option<Upper>, Reason> {
    let (offset, more) = header.fragment4();
    if drops_fragments && (offset != 0 || more) {
        return Err(Reason::Fragment);
    }
    let upper = Upper { protocol: header.next, begin: header.length(), is_first_fragment: more };
    Ok((offset == 0).then_some(upper))
}

fn walk6(header: &Header, datagram: Datagram, drops_fragments: bool) -> Result<Option<Upper>, Reason> {
    let mut upper = Upper { protocol: header.next, begin: header.length(), is_first_fragment: false };
    let mut walked = 0;
    while is_extension(upper.protocol) {
        walked += 1;
        let Some((fixed, length)) = extension(upper, datagram).filter(|_| walked <= MOST) else {
            return Err(Reason::Malformed);
        };
        if upper.protocol == FRAGMENT {
            let word = u16::from_be_bytes([fixed[2], fixed[3]]);
            let (offset, more) = (word >> 3, word & 1 != 0);
            if drops_fragments && (offset != 0 || more) {
                return Err(Reason::Fragment);
            }
            if offset != 0 {
                return Ok(None);
            }
            upper.is_first_fragment |= more;
        }
        upper = Upper { protocol: fixed[0], begin: upper.begin + length, ..upper };
    }
    Ok(Some(upper))
}

/// What must be read of an extension header, and its length; `None` if it cannot be, or does not lie in the datagram.
fn extension<'a>(upper: Upper, datagram: Datagram<'a>) -> Option<(&'a [u8], usize)> {
    let fixed = datagram.at(upper.begin, 4)?;
    let length = match upper.protocol {
        FRAGMENT => 8,
        AUTHENTICATION => 4 * (usize::from(fixed[1]) + 2),
        _ => 8 * (usize::from(fixed[1]) + 1),
    };
    (upper.begin + length <= datagram.len()).then_some((fixed, length))
}

fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION | AUTHENTICATION | MOBILITY | HOST_IDENTITY | SHIM6
    )
}
