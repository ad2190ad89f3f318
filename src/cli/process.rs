//! What a process does before anything else: nobody reads its files, nobody reads its memory, it ends with its parent.

use crate::base::sync::lock;
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal};
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use tokio::signal::unix::{Signal as Caught, SignalKind, signal};

/// Exit status of what was interrupted.
pub(super) const INTERRUPTED: u8 = 130;

/// The first thing in `main`: files are made for their user alone, and keys stay out of core dumps and other debuggers.
pub(super) fn harden() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // Both are allowed to everybody; a kernel that refuses leaves us no worse than before.
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// From now on this process is sent SIGTERM when its parent, which has this number, ends.
pub(super) fn die_with_parent(parent: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    // It may have ended before we asked.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Err(io::Error::other("the process that started this one is gone"));
    }
    Ok(())
}

/// Starts a program that knows nothing of us so that it is sent SIGTERM when this process ends: by way of `tornet along`, which becomes it.
/// Must be started by the thread that lives longest.
pub(super) fn along(program: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("along").arg(own_number().to_string()).arg(program);
    Ok(command)
}

/// `tornet along`: becomes the program, which ends with the process of this number, its parent. Returns only when it cannot.
pub(super) fn become_along(parent: i32, program: &Path, args: &[OsString]) -> io::Error {
    match die_with_parent(parent) {
        Ok(()) => Command::new(program).args(args).exec(),
        Err(error) => error,
    }
}

/// The number of this process.
pub(super) fn own_number() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The signals that ask a process to end: SIGINT, SIGTERM, SIGQUIT, and SIGHUP unless whoever started it ignores that (nohup).
pub(super) struct Ending([Caught; 4]);

impl Ending {
    /// Catches them from now on. Must be called within a tokio runtime.
    pub(super) fn new() -> io::Result<Ending> {
        let last = if ignores_hangup() { SignalKind::terminate() } else { SignalKind::hangup() };
        let [interrupt, terminate, quit] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::quit()].map(signal);
        Ok(Ending([interrupt?, terminate?, quit?, signal(last)?]))
    }

    /// Returns when one of them came; says which.
    pub(super) async fn wait(&mut self) -> &'static str {
        let [interrupt, terminate, quit, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => "interrupted",
            _ = quit.recv() => "interrupted",
            _ = terminate.recv() => "asked to end by a signal",
            _ = hangup.recv() => "the terminal is gone",
        }
    }
}

/// From now on a signal that asks this process to end makes it say `words` and end, with the status that shells give to what was interrupted.
pub(super) fn end_when_interrupted(words: &'static str) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ending = runtime.block_on(async { Ending::new() })?;
    std::thread::spawn(move || {
        runtime.block_on(ending.wait());
        // Below what a progress bar left on the line.
        let start = if io::stderr().is_terminal() { "\n" } else { "" };
        super::output::note(format_args!("{start}{words}"));
        std::process::exit(INTERRUPTED.into());
    });
    Ok(())
}

/// The process that this one starts and waits for: what asks this one to end ends both, or neither.
pub(super) struct Ward(Arc<Mutex<Care>>);

enum Care {
    /// Not started, or started.
    Waits(Option<Pid>),
    /// It needs nobody any more.
    Alone,
    /// This process was asked to end.
    Interrupted,
}

impl Ward {
    /// Catches the signals from now on.
    pub(super) fn new() -> io::Result<Ward> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut ending = runtime.block_on(async { Ending::new() })?;
        let care = Arc::new(Mutex::new(Care::Waits(None)));
        let shared = care.clone();
        std::thread::spawn(move || {
            runtime.block_on(ending.wait());
            let mut care = lock(&shared);
            if let Care::Waits(child) = *care {
                // It has not been waited for, so its number is still its own.
                let _ = child.map(|pid| rustix::process::kill_process(pid, Signal::TERM));
                *care = Care::Interrupted;
            }
        });
        Ok(Ward(care))
    }

    /// Starts it, unless this process was asked to end before.
    pub(super) fn start(&self, command: &mut Command) -> io::Result<Option<Child>> {
        let mut care = lock(&self.0);
        if let Care::Interrupted = *care {
            return Ok(None);
        }
        let child = command.spawn()?;
        *care = Care::Waits(Some(Pid::from_child(&child)));
        Ok(Some(child))
    }

    /// From now on it is left alone; whether this process was not asked to end before.
    pub(super) fn release(&self) -> bool {
        let mut care = lock(&self.0);
        match *care {
            Care::Interrupted => false,
            _ => {
                *care = Care::Alone;
                true
            }
        }
    }
}

/// Whether a process ended because a signal asked it to.
pub(super) fn was_asked_to_end(status: ExitStatus) -> bool {
    let asking = [Signal::INT, Signal::QUIT, Signal::TERM, Signal::HUP];
    let killed = status.signal().is_some_and(|number| asking.iter().any(|signal| signal.as_raw() == number));
    killed || status.code() == Some(INTERRUPTED.into())
}

/// Whether nohup(1) or the like started this process.
pub(super) fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}
