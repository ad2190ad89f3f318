//! The command `tornet`.

fn main() -> std::process::ExitCode {
    tornet::cli::tornet()
}
