//! Clocks and counters: seconds, CPU seconds and resident memory of processes, medians.

use std::fs;
use std::process::Command;
use std::time::Instant;

/// Clock ticks of `/proc/PID/stat` in a second: fixed by the kernel's interface.
const TICKS: f64 = 100.0;

/// CPU seconds of a process so far.
pub fn cpu_of(pid: u32) -> f64 {
    stat(&pid.to_string(), 11)
}

/// CPU seconds of all children of ours that have ended.
pub fn cpu_of_ended() -> f64 {
    stat("self", 13)
}

/// Two neighbouring fields of `/proc/PID/stat`, counted after the program's name.
fn stat(pid: &str, field: usize) -> f64 {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    let Some((_, rest)) = text.rsplit_once(") ") else { return 0.0 };
    let ticks: f64 = rest.split(' ').skip(field).take(2).filter_map(|word| word.parse::<f64>().ok()).sum();
    ticks / TICKS
}

/// Most resident memory that a process has had, in MiB.
pub fn memory_of(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

/// Runs a program to its end, which must be a good one: seconds and CPU seconds.
pub fn run(command: &mut Command) -> (f64, f64) {
    let cpu = cpu_of_ended();
    let start = Instant::now();
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let took = start.elapsed().as_secs_f64();
    assert!(output.status.success(), "{command:?}: {}", crate::harness::printed(&output));
    (took, cpu_of_ended() - cpu)
}

/// Seconds that `work` takes.
pub fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// The middle one; not a number when there is none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Forgets what the kernel has cached of files, where we may.
pub fn drop_caches() {
    let _ = fs::write("/proc/sys/vm/drop_caches", "1");
}

/// Forgets what the kernel has cached of files, names and attributes, where we may.
pub fn forget_all() {
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
}
