//! The part of `edge doctor` that looks at interfaces: whether each is there and fit, which XDP modes its driver has, and
//! whose program sits at its hook.

use serde::Serialize;

use super::{Finding, Grade, bad, hint};
use crate::{
    config::{Attach, Config, Interfaces},
    datapath,
    netlink::{self, Link, XdpAttached},
};

const CHECK: &str = "interface";

/// What is known of an interface that can be filtered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    name: String,
    /// Whether the driver runs XDP programs itself; `None`: the kernel does not say. Generic mode is there always.
    native: Option<bool>,
    attached: Option<Program>,
}

/// The program at an interface's hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Program {
    id: u32,
    /// `None` where this process may not ask, or it has none.
    name: Option<String>,
    mode: &'static str,
    edge: bool,
}

/// A finding for each interface that the config asks for; one of `own_programs` at its hook is edge's.
pub fn all(config: &Config, own_programs: &[u32]) -> Vec<Finding> {
    let failed = |error: netlink::NetlinkError| vec![bad(CHECK, format!("{error}; run in a namespace that allows it"))];
    let links = match netlink::links() {
        Ok(links) => links,
        Err(error) => return failed(error),
    };
    let attach = config.filter.attach;
    let look = |name: &String| {
        fit(name, links.iter().find(|link| link.name == *name)).map(|link| told(known(link, own_programs), attach))
    };
    match &config.filter.interfaces {
        Interfaces::Named(names) => names.iter().map(|name| look(name).unwrap_or_else(|why| bad(CHECK, why))).collect(),
        Interfaces::Auto => match netlink::default_route_interfaces() {
            Ok(names) => automatic(names.iter().map(look).collect()),
            Err(error) => failed(error),
        },
    }
}

/// With `["auto"]`, an interface that cannot be filtered is left out, and where there is none yet edge waits for one:
/// neither hinders a start.
fn automatic(looks: Vec<Result<Finding, String>>) -> Vec<Finding> {
    let any = looks.iter().any(Result::is_ok);
    let mut findings: Vec<Finding> =
        looks.into_iter().map(|look| look.unwrap_or_else(|why| hint(CHECK, why))).collect();
    if !any {
        findings.push(hint(
            CHECK,
            "none with Ethernet headers carries a default route, so none is filtered before one does; or name those to \
             filter in `filter.interfaces`",
        ));
    }
    findings
}

/// The interface, or why it cannot be filtered.
fn fit<'a>(name: &str, link: Option<&'a Link>) -> Result<&'a Link, String> {
    let link = link.ok_or_else(|| format!("{name} does not exist; name one that `ip link` lists, or [\"auto\"]"))?;
    if link.ethernet {
        return Ok(link);
    }
    Err(format!("{name} has no Ethernet headers; name the interface that carries its packets"))
}

fn known(link: &Link, own_programs: &[u32]) -> Interface {
    let program = |hook: netlink::XdpHook| Program {
        id: hook.program_id,
        name: datapath::program_name(hook.program_id),
        mode: mode(hook.mode),
        edge: own_programs.contains(&hook.program_id),
    };
    // What cannot be asked is not known.
    let native = netlink::native_xdp(link.index).ok().flatten();
    Interface { name: link.name.clone(), native, attached: link.xdp.map(program) }
}

fn told(interface: Interface, attach: Attach) -> Finding {
    let Interface { name, native, attached } = &interface;
    let modes = match native {
        Some(true) => "native and generic mode",
        Some(false) => "generic mode alone",
        None => "generic mode, and perhaps native (kernels before 6.3 do not say)",
    };
    let (grade, rest) = match attached {
        Some(program) if program.edge => {
            (Grade::Good, format!("it is filtered by edge ({}, program {})", program.mode, program.id))
        }
        Some(Program { id, name: program, mode, .. }) => {
            let remedy = datapath::remedy(program.as_deref(), name);
            let program = program.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default();
            let taken = format!("its hook holds program {id}{program} ({mode}); {remedy}");
            (Grade::Bad, taken)
        }
        None => match (attach, native) {
            (Attach::Native, Some(false)) => {
                (Grade::Bad, "`filter.attach` asks for native; write attach = \"auto\"".to_owned())
            }
            (Attach::Auto, Some(false)) => {
                (Grade::Hint, "its hook is free; native mode would cost less a packet".to_owned())
            }
            _ => (Grade::Good, "its hook is free".to_owned()),
        },
    };
    let message = format!("{name} has {modes}; {rest}");
    Finding { interface: Some(interface), ..Finding::new(CHECK, grade, message) }
}

const fn mode(attached: XdpAttached) -> &'static str {
    match attached {
        XdpAttached::Native => "native",
        XdpAttached::Generic => "generic",
        XdpAttached::Offloaded => "offloaded",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ethernet: bool) -> Link {
        Link { index: 2, name: "eth0".to_owned(), up: true, ethernet, xdp: None }
    }

    fn interface(native: Option<bool>, attached: Option<Program>) -> Interface {
        Interface { name: "eth0".to_owned(), native, attached }
    }

    fn program(edge: bool) -> Program {
        Program { id: 7, name: Some("foreign".to_owned()), mode: "generic", edge }
    }

    #[test]
    fn an_interface_must_exist_with_ethernet() {
        assert!(fit("eth0", None).unwrap_err().starts_with("eth0 does not exist; name"));
        assert!(fit("eth0", Some(&link(false))).unwrap_err().contains("no Ethernet headers"));
        assert!(fit("eth0", Some(&link(true))).is_ok());
    }

    #[test]
    fn a_hook_is_free_or_edge_s_or_somebody_else_s() {
        let free = told(interface(Some(true), None), Attach::Auto);
        assert_eq!(free.message, "eth0 has native and generic mode; its hook is free");
        assert_eq!(free.result, Grade::Good);
        let own = told(interface(None, Some(program(true))), Attach::Native);
        assert!(own.message.ends_with("it is filtered by edge (generic, program 7)"), "{}", own.message);
        assert_eq!(own.result, Grade::Good);
        let foreign = told(interface(Some(false), Some(program(false))), Attach::Auto);
        assert!(foreign.message.contains("its hook holds program 7 `foreign` (generic)"), "{}", foreign.message);
        assert_eq!(foreign.result, Grade::Bad);
    }

    #[test]
    fn a_driver_without_native_mode_fails_only_where_that_is_asked_for() {
        for (native, attach, grade) in [
            (Some(false), Attach::Native, Grade::Bad),
            (Some(false), Attach::Auto, Grade::Hint),
            (Some(false), Attach::Generic, Grade::Good),
            (None, Attach::Native, Grade::Good),
            (Some(true), Attach::Native, Grade::Good),
        ] {
            assert_eq!(told(interface(native, None), attach).result, grade, "{native:?} {attach:?}");
        }
    }

    #[test]
    fn with_auto_none_has_to_be_fit() {
        let fit = || Ok(told(interface(Some(true), None), Attach::Auto));
        let unfit = || Err("tun0 has no Ethernet headers".to_owned());
        let grades = |looks| automatic(looks).iter().map(|finding| finding.result).collect::<Vec<_>>();
        assert_eq!(grades(vec![unfit(), fit()]), [Grade::Hint, Grade::Good]);
        assert_eq!(grades(vec![unfit()]), [Grade::Hint, Grade::Hint]);
        assert_eq!(grades(vec![]), [Grade::Hint]);
    }
}
