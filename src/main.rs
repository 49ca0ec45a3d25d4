//! Parses, runs, ends with an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    twinpi::http::prepare_process();
    twinpi::cli::run(std::env::args_os())
}
