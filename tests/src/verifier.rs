//! What the kernel says of edge's programs when every feature is on: how long the verifier walked, how much stack they
//! take, and what their maps weigh. The test of the bytecode and `cargo xtask check` share it.

use std::{fmt, path::Path};

use anyhow::{Result, ensure};

use crate::{
    agent::Edge,
    bpf::{all_map_bytes, pinned_programs},
    net::Lab,
};

/// The verifier gives up at a million instructions; a program that comes near breaks on the next kernel.
pub const MOST_INSTRUCTIONS: u64 = 250_000;
/// The kernel's own limit, for a chain of calls.
pub const MOST_STACK: u32 = 512;

/// An edge that filters and serves nothing, with every feature of the kernel side on and the default capacities.
pub fn start_with_everything(lab: &Lab) -> Result<Edge> {
    let mut edge = Edge::bare(lab)?;
    edge.config.without("server").without("auth");
    edge.config.unset("filter", "max_blocked").unset("filter", "max_prefixes");
    edge.config.set("filter", "dry_run", "true").text("filter", "fragments", "drop");
    edge.config.set("filter", "exposed_ports", "[\"443/tcp\", \"esp\"]");
    edge.config.set("filter.limits", "connections", "100");
    edge.config.set("filter.limits", "syns", "{ per_second = 50, burst = 100 }");
    edge.config.set("filter.limits", "packets", "{ per_second = 20000, burst = 40000 }");
    // Its trace is a part of the program, too.
    edge.arguments.push("-vv".to_owned());
    edge.run()?;
    Ok(edge)
}

/// Of all that is pinned.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub programs: Vec<ProgramFigures>,
    pub map_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct ProgramFigures {
    /// As the kernel has it, at most 15 letters.
    pub name: String,
    /// Walked by the verifier, each path anew.
    pub instructions: u64,
    /// In the deepest chain of calls.
    pub stack_bytes: u32,
}

impl Figures {
    pub fn of(pin_path: &Path) -> Result<Figures> {
        let mut figures = Figures { map_bytes: all_map_bytes(pin_path)?, ..Figures::default() };
        for program in pinned_programs(pin_path)? {
            figures.programs.push(ProgramFigures {
                name: program.name()?,
                instructions: program.verified_instructions()?,
                stack_bytes: program.stack_bytes()?,
            });
        }
        ensure!(!figures.programs.is_empty(), "no program is pinned below {}", pin_path.display());
        Ok(figures)
    }

    /// An error that names the first program over a limit.
    pub fn within_patience(&self) -> Result<()> {
        for ProgramFigures { name, instructions, stack_bytes } in &self.programs {
            ensure!(
                *instructions <= MOST_INSTRUCTIONS,
                "{name}: the verifier walked {instructions} instructions, and {MOST_INSTRUCTIONS} is the most"
            );
            ensure!(*stack_bytes <= MOST_STACK, "{name}: {stack_bytes} bytes of stack, and {MOST_STACK} is the most");
        }
        Ok(())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ProgramFigures { name, instructions, stack_bytes } in &self.programs {
            writeln!(
                f,
                "{name}: {instructions} instructions verified (at most {MOST_INSTRUCTIONS}), \
                 {stack_bytes} bytes of stack (at most {MOST_STACK})"
            )?;
        }
        write!(f, "maps: {:.1} MiB", self.map_bytes as f64 / f64::from(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_over_a_limit_is_named() {
        let figures = |instructions, stack_bytes| Figures {
            programs: vec![ProgramFigures { name: "edge".to_owned(), instructions, stack_bytes }],
            map_bytes: 0,
        };
        assert!(figures(MOST_INSTRUCTIONS, MOST_STACK).within_patience().is_ok());
        for over in [figures(MOST_INSTRUCTIONS + 1, 0), figures(0, MOST_STACK + 1)] {
            assert!(over.within_patience().unwrap_err().to_string().starts_with("edge: "));
        }
    }
}
