//! The binary `edge`: the command line, or the server that the agent starts.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge_user::cli::main()
}
