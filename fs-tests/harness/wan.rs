//! A long way: a reader and its sources, each a machine of its own, joined by a switch of ours that delays, holds back and loses what
//! goes between reader and sources; not every kernel has `sch_netem`. Sources reach each other at once.

// A device of the kernel is opened with an ioctl.
#![allow(unsafe_code)]

use super::machine::Machine;
use super::tree::Dice;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Packets that wait for a line; more are dropped, as by netem.
const QUEUE: usize = 1000;
/// Sources at most: a bit for each.
const SOURCES_MAX: usize = 64;
/// Bytes of Ethernet around each packet that take their time on the line, too.
const FRAME: usize = 38;

/// What the way is like.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// In each direction.
    pub delay: Duration,
    /// Bytes a second from each source.
    pub rate: f64,
    /// How much of what a source sends is lost, in ten thousandths.
    pub loss: u64,
}

#[derive(Debug)]
struct Control {
    shaped: AtomicBool,
    /// Bit n: nothing passes to or from source n.
    cut: AtomicU64,
    end: AtomicBool,
    /// Bytes that reached the reader, by source; and packets for which a line had no room.
    carried: [AtomicU64; SOURCES_MAX],
    crowded: AtomicU64,
}

/// The machines and the switch between them, until it is dropped.
pub struct Wan {
    machines: Vec<Machine>,
    control: Arc<Control>,
    switch: Option<JoinHandle<()>>,
}

impl Wan {
    /// A reader and `sources` sources, not shaped yet. Takes root and `/dev/net/tun`.
    pub fn new(line: Line, sources: usize) -> Wan {
        let machines: Vec<Machine> = (0..=sources).map(|_| Machine::new()).collect();
        let mut devices = Vec::new();
        for (place, machine) in machines.iter().enumerate() {
            let network = File::open(machine.network()).unwrap();
            // A thread for each: it does not come back from where it went.
            devices.push(thread::spawn(move || device(&network)).join().unwrap());
            machine.ip("link set lo up");
            machine.ip(&format!("addr add {}/24 dev way", address(place)));
            machine.ip("link set way up mtu 1500");
        }
        let control = Arc::new(Control {
            shaped: AtomicBool::new(false),
            cut: AtomicU64::new(0),
            end: AtomicBool::new(false),
            carried: [const { AtomicU64::new(0) }; SOURCES_MAX],
            crowded: AtomicU64::new(0),
        });
        let switch = {
            let control = control.clone();
            thread::spawn(move || Switch::new(line, devices).run(&control))
        };
        Wan { machines, control, switch: Some(switch) }
    }

    /// From now on packets are delayed, held back and lost, or not.
    pub fn shape(&self, shaped: bool) {
        self.control.shaped.store(shaped, Ordering::Relaxed);
    }

    /// From now on nothing comes from, or gets to, these sources (counted from 0), and nobody is told.
    pub fn cut(&self, sources: &[usize]) {
        let cut = sources.iter().fold(0, |cut, source| cut | 1 << source);
        self.control.cut.store(cut, Ordering::Relaxed);
    }

    /// Bytes that have reached the reader from each source so far, headers and all; and packets that were dropped because a line's queue
    /// was full.
    pub fn carried(&self) -> (Vec<u64>, u64) {
        let carried = self.control.carried.iter().take(self.machines.len() - 1);
        (carried.map(|bytes| bytes.load(Ordering::Relaxed)).collect(), self.control.crowded.load(Ordering::Relaxed))
    }

    /// Network and address of the reader.
    pub fn reader(&self) -> (PathBuf, String) {
        (self.machines[0].network(), address(0))
    }

    /// Network and address of a source, counted from 0.
    pub fn source(&self, number: usize) -> (PathBuf, String) {
        (self.machines[number + 1].network(), address(number + 1))
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.control.end.store(true, Ordering::Relaxed);
        if let Some(switch) = self.switch.take() {
            let _ = switch.join();
        }
    }
}

fn address(place: usize) -> String {
    format!("10.77.0.{}", place + 1)
}

/// A network device called `way`, in that network, whose packets are read and written here.
fn device(network: &File) -> File {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").unwrap();
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"way") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &mut request) };
    assert_eq!(result, 0, "a network device: {}", std::io::Error::last_os_error());
    file
}

/// Packets on their way in one direction, each with the moment at which it arrives.
#[derive(Default)]
struct Way {
    packets: VecDeque<(Instant, Vec<u8>)>,
    /// When the line has sent what it was given.
    free: Option<Instant>,
}

struct Switch {
    line: Line,
    /// The reader's first.
    devices: Vec<File>,
    /// To each source, and from it.
    ways: Vec<[Way; 2]>,
    dice: Dice,
}

impl Switch {
    fn new(line: Line, devices: Vec<File>) -> Switch {
        let ways = devices.iter().skip(1).map(|_| Default::default()).collect();
        Switch { line, devices, ways, dice: Dice(7) }
    }

    fn run(&mut self, control: &Control) {
        let mut buffer = vec![0; 65_536];
        while !control.end.load(Ordering::Relaxed) {
            let wait = self.deliver(control).min(Duration::from_millis(50));
            let mut ready: Vec<PollFd> = self.devices.iter().map(|file| PollFd::new(file, PollFlags::IN)).collect();
            let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
            let _ = poll(&mut ready, Some(&wait));
            let ready: Vec<bool> = ready.iter().map(|one| one.revents().contains(PollFlags::IN)).collect();
            for from in (0..ready.len()).filter(|from| ready[*from]) {
                for _ in 0..64 {
                    let Ok(length) = (&self.devices[from]).read(&mut buffer) else { break };
                    self.take(control, from, &buffer[..length]);
                }
            }
        }
    }

    /// A packet of the machine `from`.
    fn take(&mut self, control: &Control, from: usize, packet: &[u8]) {
        // IPv4 to one of ours; a kernel without much to do asks for routers by IPv6.
        let Some([10, 77, 0, to]) = packet.get(16..20).filter(|_| packet[0] >> 4 == 4) else { return };
        let to = usize::from(*to).wrapping_sub(1);
        if to >= self.devices.len() || to == from {
            return;
        }
        if from != 0 && to != 0 {
            let _ = (&self.devices[to]).write(packet);
            return;
        }
        let (source, up) = (from.max(to) - 1, from != 0);
        let way = &mut self.ways[source][usize::from(up)];
        let now = Instant::now();
        let mut at = now;
        if control.shaped.load(Ordering::Relaxed) {
            if way.packets.len() >= QUEUE {
                control.crowded.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if up && self.dice.below(10_000) < self.line.loss {
                return;
            }
            if up {
                let takes = Duration::from_secs_f64((packet.len() + FRAME) as f64 / self.line.rate);
                at = way.free.unwrap_or(now).max(now) + takes;
                way.free = Some(at);
            }
            at += self.line.delay;
        }
        way.packets.push_back((at, packet.to_vec()));
    }

    /// Hands over what has arrived; how long until the next does.
    fn deliver(&mut self, control: &Control) -> Duration {
        let now = Instant::now();
        let cut = control.cut.load(Ordering::Relaxed);
        let mut next = Duration::MAX;
        for (source, ways) in self.ways.iter_mut().enumerate() {
            for (up, way) in ways.iter_mut().enumerate() {
                while let Some((at, packet)) = way.packets.front() {
                    if *at > now {
                        next = next.min(*at - now);
                        break;
                    }
                    if cut >> source & 1 == 0 {
                        let to = if up == 1 { 0 } else { source + 1 };
                        let _ = (&self.devices[to]).write(packet);
                        if up == 1 {
                            control.carried[source].fetch_add(packet.len() as u64, Ordering::Relaxed);
                        }
                    }
                    way.packets.pop_front();
                }
            }
        }
        next
    }
}
