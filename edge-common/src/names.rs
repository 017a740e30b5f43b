//! Names of programs and maps as they stand in the object file and below `pin_path`, and the version of all that both
//! sides must agree on.

/// Raised whenever a layout or a meaning in this crate changes. Pinned maps of another version are never reinterpreted.
pub const ABI: u32 = 11;

/// The XDP program.
pub const PROGRAM: &str = "edge";
/// The traffic-control program that notes on the way out what is sent over UDP.
pub const EGRESS_PROGRAM: &str = "edge_sent";
/// The program at the root of the cgroups that counts connections.
pub const COUNT_PROGRAM: &str = "edge_count";
/// Drops what a socket of [`SILENCED`] receives.
pub const SILENCE_PROGRAM: &str = "edge_silence";
/// Reads the kernel's two clocks at one moment; only ever run by hand (`BPF_PROG_TEST_RUN`).
pub const CLOCK_PROGRAM: &str = "edge_clock";
/// Does an [`Amendment`](crate::amend::Amendment); run by hand too, but pinned, for whoever writes without an agent.
pub const AMEND_PROGRAM: &str = "edge_amend";

/// One [`Settings`](crate::settings::Settings).
pub const SETTINGS: &str = "SETTINGS";
/// Lines of [`Line4`](crate::table::Line4): blocked IPv4 addresses.
pub const BLOCKED4: &str = "BLOCKED4";
/// Lines of [`LineUnit6`](crate::table::LineUnit6): blocked IPv6 /64 networks.
pub const UNITS6: &str = "UNITS6";
/// Lines of [`LineHost6`](crate::table::LineHost6): blocked single IPv6 addresses.
pub const HOSTS6: &str = "HOSTS6";
/// Hash from a slot ([`Single::spill`](crate::table::Single::spill)) to [`Hits`](crate::table::Hits): what no longer fits
/// into the slot's own count.
pub const SPILLED: &str = "SPILLED";
/// One byte of [`AreaFlags`](crate::table::AreaFlags) for each IPv4 /16.
pub const AREAS4: &str = "AREAS4";
/// One byte of [`AreaFlags`](crate::table::AreaFlags) for each hash of an IPv6 /32.
pub const AREAS6: &str = "AREAS6";
/// [`Narrow`](crate::table::Narrow) bits of IPv4.
pub const NARROW4: &str = "NARROW4";
/// [`Narrow`](crate::table::Narrow) bits of IPv6.
pub const NARROW6: &str = "NARROW6";
/// Trie of [`NetEntry`](crate::table::NetEntry): blocked IPv4 prefixes.
pub const NETS4: &str = "NETS4";
/// Trie of [`NetEntry`](crate::table::NetEntry): blocked IPv6 prefixes.
pub const NETS6: &str = "NETS6";
/// Trie of [`Trust`](crate::table::Trust): IPv4 prefixes that are allowed, protected or this host's own.
pub const TRUST4: &str = "TRUST4";
/// Trie of [`Trust`](crate::table::Trust): IPv6 prefixes that are allowed, protected or this host's own.
pub const TRUST6: &str = "TRUST6";
/// Per CPU: one [`Counters`](crate::reason::Counters).
pub const COUNTERS: &str = "COUNTERS";
/// One [`ClockSample`](crate::time::ClockSample).
pub const CLOCK: &str = "CLOCK";

/// Words of bits, one for each [`Exposure`](crate::ports::Exposure).
pub const PORTS: &str = "PORTS_EXPOSED";
/// LRU hash from [`Flow`](crate::flow::Flow) to the boot time of what was sent last: UDP that this host sent.
pub const FLOWS: &str = "FLOWS";
/// Lines of [`LineRates`](crate::rate::LineRates): SYNs.
pub const SYN_RATES: &str = "SYN_RATES";
/// Lines of [`LineRates`](crate::rate::LineRates): packets.
pub const PACKET_RATES: &str = "PACKET_RATES";
/// Bits of [`Capped`](crate::ports::Capped): TCP ports whose connections are counted.
pub const PORTS_CAPPED: &str = "PORTS_CAPPED";
/// Lines of [`LineHeld`](crate::connection::LineHeld): how many connections each client has.
pub const CONNECTED: &str = "CONNECTED";
/// Hash from a socket's cookie to [`Counted`](crate::connection::Counted): the connections that are counted.
pub const OPEN: &str = "OPEN";
/// Sockets by their cookies: connections over their client's cap. What they receive goes to [`SILENCE_PROGRAM`].
pub const SILENCED: &str = "SILENCED";
/// Lines of [`LineOpening`](crate::opening::LineOpening): whose SYNs passed.
pub const OPENING: &str = "OPENING";
/// Ring buffer of [`Excess`](crate::connection::Excess): connections over their client's cap, to be closed.
pub const EXCESS: &str = "EXCESS";
/// Words of [`Tally`](crate::connection::Tally).
pub const TALLY: &str = "TALLY";
/// Ring buffer of [`Event`](crate::event::Event).
pub const EVENTS: &str = "EVENTS";
/// One word for each hash of a source and reason: whose drop was sampled last, and when.
pub const SAMPLED: &str = "SAMPLED";
/// Per CPU: one [`Sampler`](crate::event::Sampler).
pub const SAMPLER: &str = "SAMPLER";

/// Every map of the object, in the order in which `edge` lists them.
pub const MAPS: [&str; 29] = [
    SETTINGS,
    BLOCKED4,
    UNITS6,
    HOSTS6,
    SPILLED,
    AREAS4,
    AREAS6,
    NARROW4,
    NARROW6,
    NETS4,
    NETS6,
    TRUST4,
    TRUST6,
    COUNTERS,
    CLOCK,
    PORTS,
    FLOWS,
    SYN_RATES,
    PACKET_RATES,
    PORTS_CAPPED,
    CONNECTED,
    OPEN,
    SILENCED,
    OPENING,
    EXCESS,
    TALLY,
    EVENTS,
    SAMPLED,
    SAMPLER,
];
