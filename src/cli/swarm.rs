//! `tornet swarm`: real nodes on this machine, each a process with a data directory of its own; all end with this one.

use super::output;
use super::process;
use super::regtest::{Regtest, Variables};
use crate::config::place::make_data_dir;
use crate::control::message::PathText;
use crate::fuse;
use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal};
use serde::Serialize;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a node may take until it serves.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a node may take to end when it is asked to.
const END_MAX: Duration = Duration::from_secs(15);

/// What the user asked for.
pub(super) struct Plan {
    pub(super) count: u16,
    pub(super) mount: Option<PathBuf>,
    pub(super) dir: Option<PathBuf>,
    /// The program of a bitcoin full node that is to run besides.
    pub(super) bitcoin: Option<PathBuf>,
    pub(super) json: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Row {
    pid: u32,
    address: String,
    data_dir: PathText,
    #[serde(skip_serializing_if = "Option::is_none")]
    mountpoint: Option<PathText>,
}

/// The processes; whatever happens, they end when this does.
struct Nodes(Vec<(Child, PathBuf)>);

impl Drop for Nodes {
    fn drop(&mut self) {
        for (child, _) in &self.0 {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // One that ended already is not waited for yet, so the number is still its own.
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + END_MAX;
        for (child, _) in &mut self.0 {
            while matches!(child.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// What a node that was killed may have left mounted; nobody else takes it off. A directory that was made for the mount goes with it.
struct Left {
    mounted: Option<PathBuf>,
    made: Option<PathBuf>,
}

impl Left {
    fn clear(&self) {
        if let Some(point) = &self.mounted
            && let Err(error) = fuse::clear(point)
        {
            output::note(error);
        }
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        self.clear();
        if let Some(point) = &self.made {
            let _ = fs::remove_dir(point);
        }
    }
}

/// A directory that goes away with its owner.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs until interrupted.
pub(super) fn run(plan: &Plan) -> anyhow::Result<()> {
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if let Some(parent) = parent
        && !process::ignores_hangup()
    {
        process::die_with_parent(parent)?;
    }
    // Signals are caught before the first process is started: none of them is left behind.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut stop = runtime.block_on(async { process::Ending::new() })?;

    let (dir, _temporary) = match &plan.dir {
        Some(dir) => {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            (dir.canonicalize()?, None)
        }
        None => {
            let dir = std::env::temp_dir().join(format!("tornet-swarm-{}", process::own_number()));
            fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            (dir.clone(), Some(Temporary(dir)))
        }
    };
    let mountpoint = plan.mount.as_deref().map(std::path::absolute).transpose()?;
    let started = Instant::now();
    // Looked after when the nodes have ended: they are dropped first.
    let made = mountpoint.clone().filter(|point| point.symlink_metadata().is_err());
    let mut left = Left { mounted: None, made };
    // Ended after the nodes.
    let bitcoin = plan.bitcoin.as_deref().map(|program| Regtest::start(program, &dir.join("bitcoin"))).transpose()?;
    let mut nodes = Nodes(Vec::new());
    let (sender, ready) = mpsc::channel();
    let mut addresses = vec![String::new(); usize::from(plan.count)];

    // The first alone: the others are told its address.
    for place in 0..usize::from(plan.count) {
        let last = place + 1 == usize::from(plan.count);
        let data = dir.join(format!("node-{place}"));
        let mount = mountpoint.as_deref().filter(|_| last);
        let first = addresses.first().filter(|_| place > 0).map(String::as_str);
        make_data_dir(&data)?;
        let variables = bitcoin.as_ref().map(|bitcoin| bitcoin.equip(&data)).transpose()?.unwrap_or_default();
        let mut child = start(&data, first, mount, variables).with_context(|| format!("cannot start node {place}"))?;
        let output = child.stdout.take().ok_or_else(|| anyhow!("a node has no output"))?;
        nodes.0.push((child, data));
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("ready ") {
                    let _ = sender.send((place, Some(address.to_string())));
                }
            }
            let _ = sender.send((place, None));
        });
        if place == 0 {
            await_ready(&ready, 1, &mut addresses, &nodes, started)?;
        }
    }
    await_ready(&ready, usize::from(plan.count) - 1, &mut addresses, &nodes, started)?;
    left.mounted.clone_from(&mountpoint);

    let rows: Vec<Row> = (nodes.0.iter().zip(&addresses).enumerate())
        .map(|(place, ((child, data), address))| Row {
            pid: child.id(),
            address: address.clone(),
            data_dir: PathText(data.clone()),
            mountpoint: mountpoint.as_deref().filter(|_| place + 1 == nodes.0.len()).map(PathText::from),
        })
        .collect();
    if let Some(bitcoin) = &bitcoin {
        let all: Vec<PathBuf> = nodes.0.iter().map(|(_, data)| data.clone()).collect();
        bitcoin.fund(&all)?;
    }
    show(&rows, started.elapsed(), bitcoin.as_ref().map(Regtest::hint), plan.json)?;

    runtime.block_on(async {
        loop {
            tokio::select! {
                _ = stop.wait() => return,
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
            let running = nodes.0.len();
            nodes.0.retain_mut(|(child, data)| match child.try_wait() {
                Ok(Some(status)) => {
                    output::note(format_args!(
                        "process {} ended ({status}); its log is {}",
                        child.id(),
                        data.join("log").display()
                    ));
                    false
                }
                _ => true,
            });
            if nodes.0.len() < running {
                left.clear();
            }
            if nodes.0.is_empty() {
                return;
            }
        }
    });
    Ok(())
}

fn start(data: &Path, bootstrap: Option<&str>, mount: Option<&Path>, variables: Variables) -> anyhow::Result<Child> {
    // The user's own file is not for these.
    let config = data.join("config.toml");
    if !config.exists() {
        let payments = if variables.is_empty() { "" } else { "\n[payments]\nenabled = true\n" };
        fs::write(&config, format!("# of `tornet swarm`\n[network]\nmdns = false\n{payments}"))?;
    }
    let own = std::env::current_exe()?;
    let mut command = match mount {
        None => {
            let mut command = Command::new(own);
            command.arg("node");
            command
        }
        Some(_) => Command::new(own.with_file_name("tornet-mount")),
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("TORNET_") && name != "TORNET_LOG") {
            command.env_remove(name);
        }
    }
    command.envs(variables);
    command.arg("--data-dir").arg(data).arg("--config").arg(config).args(["--listen", "127.0.0.1:0"]);
    command.arg("--die-with-parent").arg(process::own_number().to_string());
    if let Some(address) = bootstrap {
        command.arg("--bootstrap").arg(address);
    }
    if let Some(mountpoint) = mount {
        command.arg("-f").arg(mountpoint);
    }
    let log = OpenOptions::new().create(true).append(true).open(data.join("log"))?;
    // A Ctrl-C in the terminal is for this process, which then ends them in order.
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?)
}

fn await_ready(
    ready: &mpsc::Receiver<(usize, Option<String>)>,
    count: usize,
    addresses: &mut [String],
    nodes: &Nodes,
    started: Instant,
) -> anyhow::Result<()> {
    for _ in 0..count {
        match ready.recv_timeout(READY_MAX.saturating_sub(started.elapsed())) {
            Ok((place, Some(address))) => {
                if let Some(slot) = addresses.get_mut(place) {
                    *slot = address;
                }
            }
            Ok((place, None)) => {
                let log = nodes.0.get(place).map(|(_, data)| data.join("log")).unwrap_or_default();
                let text = fs::read_to_string(&log).unwrap_or_default();
                let last = text.lines().next_back().unwrap_or("it left no message");
                bail!("node {place} ended before it was ready: {}", crate::base::text::escape(last.as_bytes()));
            }
            Err(_) => bail!("not all nodes were ready within {} s", READY_MAX.as_secs()),
        }
    }
    Ok(())
}

fn show(rows: &[Row], took: Duration, mine: Option<String>, json: bool) -> std::io::Result<()> {
    if json {
        #[derive(Serialize)]
        #[serde(rename_all = "kebab-case")]
        struct All<'a> {
            nodes: &'a [Row],
            #[serde(skip_serializing_if = "Option::is_none")]
            mine_block: Option<String>,
        }
        return output::json(&All { nodes: rows, mine_block: mine });
    }
    let mut table = vec![vec!["PID".to_string(), "DATA".to_string(), "ADDRESS".to_string()]];
    table.extend(
        rows.iter().map(|row| vec![row.pid.to_string(), row.data_dir.0.display().to_string(), row.address.clone()]),
    );
    output::line(output::table(&table).trim_end())?;
    if let Some(mountpoint) = rows.iter().find_map(|row| row.mountpoint.as_ref()) {
        output::line(format_args!("mounted at {} (the last of them)", mountpoint.0.display()))?;
    }
    if let Some(mine) = mine {
        output::line(format_args!("every wallet has bitcoin of this machine alone; to add a block: {mine}"))?;
    }
    output::line(format_args!(
        "{} nodes ready in {:.1} s; Ctrl-C ends them all. Commands: tornet --data-dir DATA ...",
        rows.len(),
        took.as_secs_f64()
    ))
}
