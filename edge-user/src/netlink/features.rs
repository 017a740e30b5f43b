//! What an interface's driver can do with XDP, as the kernel says it (generic netlink, family `netdev`, Linux 6.3). By
//! hand: two requests of one attribute each, for which no library is at hand.

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlasIterator,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::{NetlinkError, exchange};

/// `struct genlmsghdr`.
const HEADER: usize = 4;
/// `linux/genetlink.h`: the family that knows the numbers of the others.
const CONTROL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `linux/netdev.h`.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_BASIC: u64 = 1;

/// Whether the interface's driver runs XDP programs itself; `None`: this kernel does not say.
pub fn native_xdp(interface: u32) -> Result<Option<bool>, NetlinkError> {
    let named = DefaultNla::new(CTRL_ATTR_FAMILY_NAME, b"netdev\0".to_vec());
    let family = attribute(CONTROL, CTRL_CMD_GETFAMILY, &named, CTRL_ATTR_FAMILY_ID)?;
    let Some(family) = family.and_then(|id| Some(u16::from_ne_bytes(*id.first_chunk()?))) else { return Ok(None) };
    let index = DefaultNla::new(NETDEV_A_DEV_IFINDEX, interface.to_ne_bytes().to_vec());
    let features = attribute(family, NETDEV_CMD_DEV_GET, &index, NETDEV_A_DEV_XDP_FEATURES)?;
    let features = features.and_then(|bits| Some(u64::from_ne_bytes(*bits.first_chunk()?)));
    Ok(features.map(|bits| bits & NETDEV_XDP_ACT_BASIC != 0))
}

/// One attribute of the answer to a question with one; `None` where there is no such thing or it has none.
fn attribute(family: u16, command: u8, question: &DefaultNla, wanted: u16) -> Result<Option<Vec<u8>>, NetlinkError> {
    let request = Request { family, command, question };
    let answer = match exchange::<_, Answer>(NETLINK_GENERIC, 0, request, "the driver's features") {
        Err(NetlinkError::Refused { error, .. }) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        answer => answer?,
    };
    let attributes = answer.into_iter().flatten().flat_map(|answer| answer.0);
    Ok(attributes.into_iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| value))
}

struct Request<'a> {
    family: u16,
    command: u8,
    question: &'a DefaultNla,
}

impl NetlinkSerializable for Request<'_> {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.question.buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // Command, version, two reserved bytes.
        buffer[..HEADER].copy_from_slice(&[self.command, 1, 0, 0]);
        self.question.emit(&mut buffer[HEADER..]);
    }
}

/// Kind and value of each attribute.
struct Answer(Vec<(u16, Vec<u8>)>);

impl NetlinkDeserializable for Answer {
    type Error = DecodeError;

    fn deserialize(_header: &NetlinkHeader, payload: &[u8]) -> Result<Answer, DecodeError> {
        let attributes = NlasIterator::new(payload.get(HEADER..).unwrap_or_default());
        attributes.map(|one| one.map(|one| (one.kind(), one.value().to_vec()))).collect::<Result<_, _>>().map(Answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_no_native_xdp_and_no_interface_none() {
        let before = crate::netlink::links().unwrap();
        let lo = before.iter().find(|link| link.name == "lo").unwrap();
        // A kernel before 6.3 does not say.
        assert_ne!(native_xdp(lo.index).unwrap(), Some(true));
        assert!(!matches!(native_xdp(u32::MAX >> 1), Ok(Some(_))));
    }

    #[test]
    fn an_answer_that_is_cut_is_an_error_and_no_panic() {
        let header = NetlinkHeader::default();
        for payload in [&[][..], &[0; 3], &[0; 4]] {
            assert!(Answer::deserialize(&header, payload).is_ok_and(|answer| answer.0.is_empty()), "{payload:?}");
        }
        for payload in [&[0, 0, 0, 0, 9, 0, 1, 0, 1][..], &[0, 0, 0, 0, 1, 0, 0, 0], &[0; 5]] {
            assert!(Answer::deserialize(&header, payload).is_err(), "{payload:?}");
        }
    }
}
