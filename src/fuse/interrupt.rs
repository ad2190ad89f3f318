//! Callers that were killed or interrupted while they wait for us. The library (fuser 0.18) answers the kernel's own
//! notice of that with "not supported", after which the kernel sends none; so a request that takes long looks at the
//! signals of the thread that made it, as `/proc/PID/status` shows them (proc(5), signal(7)).

use std::time::Duration;

/// Answers that are here sooner are not worth a look.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two looks: one read of a small file for each request that waits.
const INTERVAL: Duration = Duration::from_millis(50);

const HUP: u64 = bit(1);
const INT: u64 = bit(2);
const QUIT: u64 = bit(3);
const KILL: u64 = bit(9);
const TERM: u64 = bit(15);
/// What users and systems send to end a program. Where it catches them it still wants to be back from its call; other caught
/// signals (timers, children that ended) are no reason to fail one.
const END: u64 = HUP | INT | QUIT | TERM;
/// Signals that do nothing, or only stop, a program that does not catch them: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH.
const HARMLESS: u64 = bit(17) | bit(18) | bit(19) | bit(20) | bit(21) | bit(22) | bit(23) | bit(28);

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Returns once the thread `pid` is gone, or about to be: it waits in vain. Never where the kernel tells no thread (0).
pub(super) async fn given_up(pid: u32) {
    if pid == 0 {
        return std::future::pending().await;
    }
    tokio::time::sleep(PATIENCE).await;
    loop {
        // From the kernel's memory: never waits for a disk.
        match std::fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) if !is_ending(&status) => {}
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return std::future::pending().await,
            Ok(_) | Err(_) => return,
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Whether a signal waits that ends this thread, or asks it to end.
fn is_ending(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = mask("SigPnd") | mask("ShdPnd");
    let heard = pending & !(mask("SigBlk") | mask("SigIgn"));
    let fatal = heard & !mask("SigCgt") & !HARMLESS;
    pending & KILL | fatal | heard & END != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, shared: u64, blocked: u64, ignored: u64, caught: u64) -> String {
        let pid = "Name:\tcat\nState:\tD (disk sleep)\n";
        format!(
            "{pid}SigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    #[test]
    fn killed_and_interrupted_threads_are_told_from_busy_ones() {
        const ALRM: u64 = bit(14);
        const CHLD: u64 = bit(17);
        assert!(!is_ending(&status(0, 0, 0, 0, 0)));
        assert!(is_ending(&status(KILL, 0, 0, 0, 0)));
        assert!(is_ending(&status(KILL, 0, u64::MAX, u64::MAX, 0)), "nothing keeps SIGKILL off");
        assert!(is_ending(&status(0, ALRM, 0, 0, 0)), "fatal unless caught");
        assert!(!is_ending(&status(0, ALRM, 0, 0, ALRM)), "a timer is no reason to fail a call");
        assert!(!is_ending(&status(0, CHLD, 0, 0, 0)));
        assert!(is_ending(&status(0, INT, 0, 0, INT)), "Ctrl-C, caught");
        assert!(!is_ending(&status(0, INT, INT, 0, 0)), "blocked");
        assert!(!is_ending(&status(0, HUP, 0, HUP, 0)), "nohup");
        assert!(!is_ending(""));
    }
}
