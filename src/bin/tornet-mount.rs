//! The command `tornet-mount`.

fn main() -> std::process::ExitCode {
    tornet::cli::tornet_mount()
}
