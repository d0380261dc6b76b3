//! The program `volvelle`: everything is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    volvelle::cli::main()
}
