//! Counts connections by the kernel's TCP state machine (`sock_ops`), in every network namespace, by the port that the
//! socket listens on: each that others opened when it is established, and off when its socket closes, whatever way it ends.
//!
//! Not by the tracepoint `inet_sock_set_state`, which would also see the ends of sockets that are older than the program:
//! the kernel leaves out a tracing program that is interrupted by its like on the same CPU, and what a softirq closes while
//! a process closes a socket was not counted off (`recursion_misses`; up to 1,001 of 100,000).
//! It also costs more: each socket of the machine runs it at each change, while only those that are counted tell their states
//! here (`cargo xtask bench accept`: for a connection 1.0 us by `sock_ops` alone, 1.3 with the tracepoint, of some 60 us in all).

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_setsockopt, bpf_sock_hash_update},
    programs::SockOpsContext,
};
use edge_common::{
    address::Addr6,
    connection::{Counted, ENTRIES, EXCESS_MARK, Excess, Held, LineHeld, Step, Tally, place, shared_place},
    rate::Place,
    table::Trust,
};
use edge_ebpf::judge::Lists;

use crate::{
    atomic,
    maps::{CONNECTED, EXCESS, Live, OPEN, SILENCED, TALLY, caps_port, is_dry_run, settings},
    openings,
};

/// `BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB` (Linux 4.13).
const ESTABLISHED: u32 = 5;
/// `BPF_SOCK_OPS_STATE_CB` and the flag that asks for it (Linux 4.16).
const STATE: u32 = 10;
const STATE_FLAG: u32 = 4;
/// `TCP_CLOSE`.
const CLOSE: u32 = 7;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;

/// Attempts at one word before a count is given up, and said to be: only CPUs that count this line at this moment contend.
const ATTEMPTS: u32 = 16;

#[inline(always)]
pub fn note(context: &SockOpsContext) -> Option<()> {
    match context.op() {
        ESTABLISHED => opened(context),
        STATE if context.arg(1) == CLOSE => closed(context),
        _ => None,
    }
}

/// Nobody can accept the connection before this is done: the kernel holds the socket's lock until then.
#[inline(always)]
fn opened(context: &SockOpsContext) -> Option<()> {
    if !caps_port(context.local_port() as u16) {
        return None;
    }
    let settings = settings()?;
    let remote = remote(context)?;
    let place = place(remote, &settings.rates)?;
    let trust = trust(remote);
    if trust.has(Trust::OWN) {
        return None;
    }
    // Before it is counted: without, its end would not be seen.
    if context.set_cb_flags((context.cb_flags() | STATE_FLAG) as i32).is_err() {
        return miscounted();
    }
    let cookie = cookie(context);
    // Another generation's program counts into the same maps, or the agent was before.
    if OPEN.get_ptr(cookie).is_some() {
        return None;
    }
    let (place, count) = counted(place)
        .or_else(|| {
            let shared = shared_place(remote, &settings.rates)?;
            counted(shared)
        })
        .or_else(miscounted)?;
    let exempt = trust.has(Trust::ALLOWED) || trust.has(Trust::PROXY);
    let came_by = came_by(context, remote);
    // SAFETY: the context that the kernel handed to the program (Linux 5.15).
    let is_own = unsafe { bpf_get_netns_cookie(context.as_ptr()) } == settings.namespace;
    let is_excess = count > settings.connections && !exempt && !is_dry_run() && (is_own || came_by);
    let connection = connection(context, remote, place, is_own, is_excess);
    list(cookie, connection)?;
    if is_excess {
        refuse(context, cookie, remote, &connection);
    }
    Some(())
}

/// Who removes it counts it off, and nobody else; what was never counted is not counted off.
#[inline(always)]
fn closed(context: &SockOpsContext) -> Option<()> {
    let cookie = cookie(context);
    // SAFETY: a value of the map, read whole before it is removed; entries are written once.
    let counted = unsafe { OPEN.get_ptr(cookie)?.read_volatile() };
    OPEN.remove(cookie).ok()?;
    count_off(counted.place()).or_else(miscounted)
}

#[inline(always)]
fn cookie(context: &SockOpsContext) -> u64 {
    // SAFETY: the context that the kernel handed to the program.
    unsafe { bpf_get_socket_cookie(context.as_ptr()) }
}

/// What is not listed must not stay counted: nothing would count it off.
#[inline(always)]
fn list(cookie: u64, connection: Counted) -> Option<()> {
    match OPEN.insert(cookie, connection, u64::from(BPF_NOEXIST)) {
        Ok(()) => Some(()),
        Err(error) => {
            count_off(connection.place());
            // EEXIST: somebody was faster.
            if error == -17 { None } else { miscounted() }
        }
    }
}

#[inline(always)]
fn connection(context: &SockOpsContext, remote: Addr6, place: Place, is_own: bool, is_excess: bool) -> Counted {
    Counted {
        remote: [remote.unit(), remote.low()],
        line: place.line,
        tag: place.tag,
        port: context.local_port(),
        flags: if is_own { Counted::OWN } else { 0 } | if is_excess { Counted::EXCESS } else { 0 },
    }
}

/// Nothing that it receives is read by anybody, whoever serves there. In the agent's own network namespace the server also
/// sees the mark, and the agent closes the connection; elsewhere it stays mute until its other end closes it.
#[inline(always)]
fn refuse(context: &SockOpsContext, cookie: u64, remote: Addr6, connection: &Counted) {
    tally(Tally::Excess);
    if silence(context, cookie).is_err() {
        tally(Tally::Audible);
    }
    if connection.flags & Counted::OWN == 0 {
        return;
    }
    let mut mark = EXCESS_MARK;
    // SAFETY: the context that the kernel handed to the program, and a word on the stack.
    unsafe { bpf_setsockopt(context.as_ptr(), SOL_SOCKET, SO_MARK, (&raw mut mark).cast(), 4) };
    let Some(local) = local(context) else { return };
    // What finds no room is found by the next comparison.
    if let Some(mut place) = EXCESS.reserve(0) {
        place.write(Excess {
            cookie,
            remote: [remote.unit(), remote.low()],
            local: [local.unit(), local.low()],
            remote_port: u32::from_be(context.remote_port()) as u16,
            port: connection.port as u16,
            interface: bound_to(context),
        });
        place.submit(0);
    }
}

/// Whether it came through an interface that this edge filters. What containers have among each other, or with an edge of
/// their own, is not this one's to refuse.
#[inline(always)]
fn came_by(context: &SockOpsContext, remote: Addr6) -> bool {
    openings::take([remote.unit(), remote.low()], u32::from_be(context.remote_port()) as u16)
}

#[inline(always)]
fn silence(context: &SockOpsContext, cookie: u64) -> Result<(), i32> {
    let mut key = cookie;
    // SAFETY: the context that the kernel handed to the program, a map of sockets and its key (Linux 4.18).
    let done =
        unsafe { bpf_sock_hash_update(context.ops, (&raw const SILENCED).cast_mut().cast(), (&raw mut key).cast(), 0) };
    if done == 0 { Ok(()) } else { Err(done as i32) }
}

#[inline(always)]
fn bound_to(context: &SockOpsContext) -> u32 {
    // SAFETY: words of the context and of the socket that it names, each read in one load.
    unsafe {
        let socket = (&raw const (*context.ops).__bindgen_anon_2.sk).read_volatile();
        if socket.is_null() { 0 } else { (&raw const (*socket).bound_dev_if).read_volatile() }
    }
}

#[inline(always)]
fn trust(remote: Addr6) -> Trust {
    match remote.mapped() {
        Some(four) => Live.trust(four),
        None => Live.trust(remote),
    }
}

/// The other end, IPv4 as IPv4-mapped.
#[inline(always)]
fn remote(context: &SockOpsContext) -> Option<Addr6> {
    let ops = context.ops;
    // SAFETY: words of the context, each read in one load, as the verifier wants it.
    let six = |index: usize| unsafe { (&raw const (*ops).remote_ip6[index]).read_volatile() };
    // SAFETY: as above.
    address(context, unsafe { (&raw const (*ops).remote_ip4).read_volatile() }, six)
}

#[inline(always)]
fn local(context: &SockOpsContext) -> Option<Addr6> {
    let ops = context.ops;
    // SAFETY: words of the context, each read in one load, as the verifier wants it.
    let six = |index: usize| unsafe { (&raw const (*ops).local_ip6[index]).read_volatile() };
    // SAFETY: as above.
    address(context, unsafe { (&raw const (*ops).local_ip4).read_volatile() }, six)
}

#[inline(always)]
fn address(context: &SockOpsContext, four: u32, six: impl Fn(usize) -> u32) -> Option<Addr6> {
    let [a, b, c, d] = match context.family() {
        AF_INET => [0, 0, 0xffff_u32.to_be(), four],
        AF_INET6 => [six(0), six(1), six(2), six(3)],
        _ => return None,
    };
    let half = |first: u32, second: u32| u64::from(first) | u64::from(second) << 32;
    Some(Addr6::from_wire(half(a, b), half(c, d)))
}

/// How many connections are counted there with one more.
#[inline(always)]
fn counted(place: Place) -> Option<(Place, u64)> {
    Some((place, edge_change(place.line, place.tag, 1).checked_sub(CHANGED)?))
}

#[inline(always)]
fn count_off(place: Place) -> Option<()> {
    edge_change(place.line, place.tag, 0).checked_sub(CHANGED)?;
    Some(())
}

/// Added to the count that a change comes to; less: nothing was changed.
const CHANGED: u64 = 1;

/// A function of its own, global to the kernel, so that the verifier walks it once (Linux 5.6).
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn edge_change(line: u32, tag: u32, more: u32) -> u64 {
    let Some(line) = CONNECTED.get_ptr_mut(line) else { return 0 };
    for _ in 0..ATTEMPTS {
        let found = read(line);
        let step = if more == 1 { found.one_more(tag) } else { found.one_fewer(tag) };
        let Some(Step { slot, from, to, count }) = step else { return 0 };
        // SAFETY: a word of a line of the map, aligned as lines are.
        let word = unsafe { (&raw mut (*line).clients[slot & (ENTRIES - 1)]).cast::<u64>() };
        // SAFETY: as above.
        if unsafe { atomic::swap(word, from.bits(), to.bits()) } {
            return count + CHANGED;
        }
    }
    0
}

/// Word by word, each whole.
#[inline(always)]
pub fn read(line: *const LineHeld) -> LineHeld {
    let mut copy = LineHeld::default();
    for slot in 0..ENTRIES {
        // SAFETY: within the line.
        copy.clients[slot] =
            Held::from_bits(unsafe { (&raw const (*line).clients[slot]).cast::<u64>().read_volatile() });
    }
    copy
}

/// The agent's comparison with the sockets finds it, where it can look.
#[inline(always)]
fn miscounted<T>() -> Option<T> {
    tally(Tally::Miscounted);
    None
}

#[inline(always)]
fn tally(what: Tally) {
    if let Some(word) = TALLY.get_ptr_mut(what as u32) {
        // SAFETY: a word of a map.
        unsafe { atomic::add(word, 1) };
    }
}
