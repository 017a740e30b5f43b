//! Who floods: an XDP program that the kernel runs on copies of one frame (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18) and
//! that hands each to the clients' end of the veth, behind which the receiver takes it from its ring. As with a network
//! card, no packet has a socket buffer before the receiver makes one.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use edge_tests::{
    bpf::Program,
    client::Wire,
    net::{CLIENT_INTERFACE, Lab, NEIGHBOUR4},
};

use super::receiver::{self, SENDER};

/// How many addresses are blocked.
pub const LISTED: u32 = 1_000_000;

/// The addresses lie scattered over 16.0.0.0/4: number times an odd factor, modulo 2^28.
const FIRST: u32 = 16 << 24;
const MASK: u32 = (1 << 28) - 1;
const FACTOR: u32 = 0x1e37_79b1;

/// Where the frame has what is written for each source.
const CHECKSUM: usize = 24;
const SOURCE: usize = 26;
const UDP_CHECKSUM: usize = 40;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sources {
    /// One that is listed.
    One,
    /// Each packet from any of those that are listed.
    Million,
    /// One that is not listed.
    Honest,
}

pub struct Sender {
    copying: Program,
    drawing: Program,
    listed: Vec<u8>,
    honest: Vec<u8>,
}

impl Sender {
    pub fn new(lab: &Lab) -> Result<Sender> {
        let interface = lab.client.link(CLIENT_INTERFACE)?["ifindex"].as_i64().context("no ifindex")?;
        let interface = u32::try_from(interface)?;
        let frame = |from: IpAddr| -> Result<Vec<u8>> {
            let mut frame = Wire::new(lab)?.datagram(from, 0, &[0; 18])?;
            // None: what is drawn would need another for each source.
            frame[UDP_CHECKSUM..UDP_CHECKSUM + 2].fill(0);
            Ok(frame)
        };
        let listed = frame(IpAddr::V4(address(LISTED / 2)))?;
        Ok(Sender {
            copying: Program::load("flood_one", &redirect(interface))?,
            drawing: Program::load("flood_million", &[draw(&listed), redirect(interface)].concat())?,
            honest: frame(NEIGHBOUR4)?,
            listed,
        })
    }

    /// Sends so many frames as fast as it goes. What finds the receiver's ring full is lost on the way.
    pub fn send(&self, lab: &Lab, sources: Sources, count: u32) -> Result<()> {
        let (program, frame) = match sources {
            Sources::One => (&self.copying, &self.listed),
            Sources::Million => (&self.drawing, &self.listed),
            Sources::Honest => (&self.copying, &self.honest),
        };
        lab.client.within(|| {
            receiver::pin(0, SENDER)?;
            program.run_live(frame, count)
        })
    }
}

/// What is blocked, an address a line.
pub fn list() -> String {
    (0..LISTED).map(|number| format!("{}\n", address(number))).collect()
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST | number.wrapping_mul(FACTOR) & MASK)
}

/// The end of each program: the frame leaves by the interface.
fn redirect(interface: u32) -> Vec<u64> {
    const HELPER: i32 = 23;
    vec![op(SET, 1, 0, 0, interface as i32), op(SET, 2, 0, 0, 0), op(CALL, 0, 0, 0, HELPER), op(EXIT, 0, 0, 0, 0)]
}

/// Draws one of the addresses, and writes it and the checksum of the IPv4 header into the frame.
fn draw(frame: &[u8]) -> Vec<u64> {
    const DATA: u8 = 6;
    const END: u8 = 7;
    let write = write_source(DATA, sum_of_the_rest(frame));
    let check = [
        op(LOAD_WORD, DATA, 1, 0, 0),
        op(LOAD_WORD, END, 1, 4, 0),
        op(COPY, 2, DATA, 0, 0),
        op(ADD, 2, 0, 0, frame.len() as i32),
        // The verifier asks for it; the frame is never shorter.
        op(JUMP_IF_ABOVE, 2, END, write.len() as i16, 0),
    ];
    [check.to_vec(), write].concat()
}

/// With register `data` at the head of the frame; `rest` is the sum of all else in the header.
fn write_source(data: u8, rest: u16) -> Vec<u64> {
    const RANDOM: i32 = 7;
    let fold =
        [op(COPY, 2, 1, 0, 0), op(SHIFT_RIGHT, 2, 0, 0, 16), op(AND, 1, 0, 0, 0xffff), op(ADD_REGISTER, 1, 2, 0, 0)];
    let draw = [
        op(CALL, 0, 0, 0, RANDOM),
        op(MODULO_32, 0, 0, 0, LISTED as i32),
        op(MULTIPLY_32, 0, 0, 0, FACTOR as i32),
        op(AND_32, 0, 0, 0, MASK as i32),
        op(OR_32, 0, 0, 0, FIRST as i32),
        op(BIG_ENDIAN, 0, 0, 0, 32),
        op(STORE_WORD, data, 0, SOURCE as i16, 0),
    ];
    let sum = [
        op(COPY, 1, 0, 0, 0),
        op(AND, 1, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 0, 0, 0, 16),
        op(ADD_REGISTER, 1, 0, 0, 0),
        op(ADD, 1, 0, 0, i32::from(rest)),
    ];
    let store = [op(XOR, 1, 0, 0, 0xffff), op(STORE_HALF, data, 1, CHECKSUM as i16, 0)];
    [draw.as_slice(), &sum, &fold, &fold, &store].concat()
}

/// In ones' complement, of words as this machine reads them: that sum is the same in any order of bytes.
fn sum_of_the_rest(frame: &[u8]) -> u16 {
    const HEADER: std::ops::Range<usize> = 14..34;
    let own = [CHECKSUM, SOURCE, SOURCE + 2];
    let words = HEADER.step_by(2).filter(|offset| !own.contains(offset));
    let sum: u32 = words.map(|offset| u32::from(u16::from_ne_bytes([frame[offset], frame[offset + 1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}

const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x63;
const STORE_HALF: u8 = 0x6b;
const SET: u8 = 0xb7;
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;
const ADD_REGISTER: u8 = 0x0f;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const XOR: u8 = 0xa7;
const MULTIPLY_32: u8 = 0x24;
const OR_32: u8 = 0x44;
const AND_32: u8 = 0x54;
const MODULO_32: u8 = 0x94;
const BIG_ENDIAN: u8 = 0xdc;
const JUMP_IF_ABOVE: u8 = 0x2d;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// One instruction, as the kernel's `struct bpf_insn`.
fn op(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, from << 4 | to, low, high, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_list_has_a_million_addresses_of_one_network() {
        let addresses: HashSet<Ipv4Addr> = (0..LISTED).map(address).collect();
        assert_eq!(addresses.len(), LISTED as usize);
        assert!(addresses.iter().all(|address| address.octets()[0] & 0xf0 == 16));
    }

    #[test]
    fn a_header_and_its_checksum_sum_up_to_all_ones() {
        let mut frame = [0; 60];
        frame[14..34].copy_from_slice(&[
            0x45, 0, 0, 0x2e, 0x12, 0x34, 0x40, 0, 64, 17, 0x99, 0x77, 0x12, 0x34, 0x56, 0x78, 10, 77, 0, 1,
        ]);
        let source = u32::from(u16::from_ne_bytes([0x12, 0x34])) + u32::from(u16::from_ne_bytes([0x56, 0x78]));
        let sum = source + u32::from(sum_of_the_rest(&frame));
        let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        // The same in the words of RFC 1071.
        frame[24..26].copy_from_slice(&checksum.to_ne_bytes());
        let total: u32 = frame[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        assert_eq!((total & 0xffff) + (total >> 16), 0xffff);
    }
}
