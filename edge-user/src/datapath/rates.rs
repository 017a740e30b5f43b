//! What an address may still send, by the kernel's own state.

use std::net::IpAddr;

use aya::maps::{Array, Map, MapData};
use edge_common::{
    address::{Addr4, Addr6},
    names,
    rate::{Cell, ENTRIES, LineRates, Place},
    settings::word,
};

use super::Generation;
use crate::{
    clock::Boot,
    control::protocol::{Allowance, Rates},
};

impl Generation {
    pub(super) fn rates_of(&self, address: IpAddr, now: Boot) -> Rates {
        let place = match address.to_canonical() {
            IpAddr::V4(four) => self.rate_geometry().place4(Addr4::from(four)),
            IpAddr::V6(six) => {
                let six = Addr6::from(six);
                self.rate_geometry().place6(six.unit(), six.low())
            }
        };
        let allowance = |name, at| self.allowance(name, at, place, now);
        Rates { syns: allowance(names::SYN_RATES, word::SYNS), packets: allowance(names::PACKET_RATES, word::PACKETS) }
    }

    fn allowance(&self, map: &str, at: usize, place: Place, now: Boot) -> Option<Allowance> {
        let (limit, jiffies) = (self.limit(at), self.jiffies());
        let (per_second, burst) = limit.allows(jiffies.tick_ns);
        let line = self.rate_line(map, place.line)?;
        let left = limit.left(line.cell(place.tag), limit.now(jiffies.at(now.0)));
        (burst > 0).then_some(Allowance { per_second, burst, left })
    }

    fn rate_line(&self, map: &str, line: u32) -> Option<LineRates> {
        let map = MapData::from_pin(self.pin(map)).ok()?;
        let lines: Array<MapData, [u64; ENTRIES as usize]> = Map::Array(map).try_into().ok()?;
        // Where it is not limited there is one line alone.
        Some(lines.get(&line, 0).map_or(LineRates::default(), |cells| LineRates { cells: cells.map(Cell::from_bits) }))
    }
}
