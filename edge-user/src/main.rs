//! The binary `edge`: the command line, or the server that the agent starts.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "server") {
        return edge_user::server::main(args);
    }
    edge_user::cli::main()
}
