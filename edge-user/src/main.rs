//! The binary `edge`: the command line, or the server and its fetcher, which the agent starts.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(first) if first == "server" => edge_user::server::main(args),
        Some(first) if first == "fetcher" => edge_user::fetch::main(args),
        _ => edge_user::cli::main(),
    }
}
