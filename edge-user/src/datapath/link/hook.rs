//! An interface's XDP hook: attaching to one that is free, pinned, in the mode that is asked for; and saying who has
//! one that is not.

use std::{io, path::Path};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::FdLink,
    xdp::{XdpError, XdpLinkId},
};
use edge_common::names;

use crate::{
    config::Attach,
    error::{Blame, Context, Failure},
    netlink,
};

/// Attaches where no program is, and pins the link.
pub fn attach_fresh(program: &mut Xdp, link: &netlink::Link, mode: Attach, pin: &Path) -> Result<(), Failure> {
    if let Some(hook) = &link.xdp {
        return Err(occupied(link, hook.program_id));
    }
    let modes: &[XdpMode] = match mode {
        Attach::Auto => &[XdpMode::Driver, XdpMode::Skb],
        Attach::Native => &[XdpMode::Driver],
        Attach::Generic => &[XdpMode::Skb],
    };
    let mut refused: Option<String> = None;
    for mode in modes {
        match program.attach_to_if_index(link.index, *mode) {
            Ok(id) => {
                pin_link(program, id, pin)?;
                if let Some(why) = refused {
                    tracing::warn!("{}: native mode refused ({why}), so it is filtered in generic mode", link.name);
                }
                return Ok(());
            }
            Err(error) if is_permission(&error) => {
                return Err(Failure::forbidden(format!(
                    "the kernel does not let this process attach to {}; run as root or with CAP_NET_ADMIN and CAP_BPF",
                    link.name
                )));
            }
            Err(error) if is_busy(&error) => return Err(occupied(link, 0)),
            Err(error) => refused = Some(reason(&error)),
        }
    }
    let why = refused.unwrap_or_default();
    Err(Failure::system(format!("the program cannot be attached to {}: {why}", link.name)))
}

fn pin_link(program: &mut Xdp, id: XdpLinkId, pin: &Path) -> Result<(), Failure> {
    let what = || format!("the link cannot be pinned as {}", pin.display());
    let link: FdLink = program
        .take_link(id)
        .blame(Blame::System, what)?
        .try_into()
        .blame(Blame::System, || "the kernel is too old for XDP links (Linux 5.9)".to_owned())?;
    link.pin(pin).blame(Blame::System, what).map(drop)
}

/// The program by which libxdp runs several on one interface (xdp-tools).
const DISPATCHER: &str = "xdp_dispatcher";

fn occupied(link: &netlink::Link, program_id: u32) -> Failure {
    let id = if program_id == 0 {
        netlink::link(&link.name).ok().flatten().and_then(|link| link.xdp).map_or(0, |hook| hook.program_id)
    } else {
        program_id
    };
    let name = program_name(id);
    let remedy = remedy(name.as_deref(), &link.name);
    let name = name.map_or(String::new(), |name| format!(" `{name}`"));
    Failure::refused(format!("the XDP hook of {} is taken by program {id}{name}; {remedy}", link.name))
}

/// How the hook of an interface is freed from a program of this name.
pub fn remedy(program: Option<&str>, interface: &str) -> String {
    match program {
        Some(names::PROGRAM) => {
            "an edge with another `filter.pin_path` filters it; `edge unload` with that one's config frees it"
                .to_owned()
        }
        Some(DISPATCHER) => format!(
            "that is libxdp's, and runs what `xdp-loader status {interface}` lists; end those \
             (`xdp-loader unload {interface} --all`) or leave the interface out of `filter.interfaces`"
        ),
        _ => format!(
            "detach it (`ip link set dev {interface} xdp off`) or leave the interface out of `filter.interfaces`"
        ),
    }
}

/// The name of a loaded program, where this process may ask.
pub fn program_name(id: u32) -> Option<String> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .and_then(|info| info.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
}

fn source(error: &ProgramError) -> Option<&io::Error> {
    match error {
        ProgramError::SyscallError(call) => Some(&call.io_error),
        ProgramError::XdpError(XdpError::NetlinkError(_)) => None,
        _ => None,
    }
}

fn is_permission(error: &ProgramError) -> bool {
    source(error).is_some_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

fn is_busy(error: &ProgramError) -> bool {
    source(error).is_some_and(|error| matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)))
}

fn reason(error: &ProgramError) -> String {
    source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
