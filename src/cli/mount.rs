//! `tornet-mount`: the foreground process starts the one that stays, waits until it serves, and says where things are.
//!
//! The one that stays is this program started anew rather than forked: it begins with one thread, its own session and nothing
//! inherited but the pipe on which it reports.

use super::command::MountProgram;
use super::further;
use super::node::{self, MountPlan, Report, Running};
use super::output::{self, Interrupted, Usage};
use super::process;
use super::waiting::Waiting;
use crate::config::Settings;
use crate::engine::StartError;
use crate::store::StoreError;
use crate::{fuse, telemetry};
use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The one line that the process that stays writes to the one that waits.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Ready(Report),
    /// Another node has the data directory.
    InUse(String),
    Failed(String),
}

/// Runs the whole program, which was called with `args`.
pub(super) fn run(program: &MountProgram, args: &[OsString]) -> anyhow::Result<()> {
    if program.report {
        return stay(program);
    }
    if program.foreground { foreground(program) } else { background(program, args) }
}

fn plan(program: &MountProgram) -> anyhow::Result<MountPlan> {
    let mut options = fuse::MountOptions::of(&program.options).map_err(Usage::because)?;
    options.source.clone_from(&program.source);
    let point = std::path::absolute(&program.mountpoint)?;
    Ok(MountPlan { point, options })
}

/// A first mount that cannot be leaves no data directory.
fn first(settings: &Settings, plan: &MountPlan) -> anyhow::Result<()> {
    let data_dir = std::path::absolute(&settings.data_dir.value)?;
    if !data_dir.exists() {
        fuse::check(&plan.point, &plan.options, &data_dir)?;
    }
    Ok(())
}

/// The directory to mount on, if it was made for this mount: gone again unless that succeeds.
struct MadePoint(Option<PathBuf>);

impl MadePoint {
    /// The first mount should not fail for want of a directory.
    fn make(plan: &MountPlan) -> anyhow::Result<MadePoint> {
        match std::fs::create_dir(&plan.point) {
            Ok(()) => Ok(MadePoint(Some(plan.point.clone()))),
            // Something of that name, or no parent: mounting says what.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::AlreadyExists | ErrorKind::NotFound | ErrorKind::NotADirectory
                ) =>
            {
                Ok(MadePoint(None))
            }
            Err(error) => Err(anyhow!("cannot make the mount point {}: {error}", plan.point.display())),
        }
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for MadePoint {
    fn drop(&mut self) {
        if let Some(point) = &self.0 {
            let _ = std::fs::remove_dir(point);
        }
    }
}

fn foreground(program: &MountProgram) -> anyhow::Result<()> {
    let settings = node::settings(&program.place, &program.meet)?;
    node::log(telemetry::Target::Stderr, program.meet.verbose)?;
    let plan = plan(program)?;
    let point = MadePoint::make(&plan)?;
    first(&settings, &plan)?;
    let further = match further::add(&settings, program, &plan)? {
        Some(further) => further,
        None => match Running::start(&settings, &program.meet, Some(plan.clone())) {
            Ok(running) => {
                point.keep();
                output::line(format_args!("ready {}", running.report.address))?;
                return running.serve();
            }
            // Started at the same moment, as systemd does with the lines of fstab.
            Err(error) if is_in_use(&error) => further::add(&settings, program, &plan)?.ok_or(error)?,
            Err(error) => return Err(error),
        },
    };
    point.keep();
    output::line(format_args!("ready {}", further.address))?;
    further.stay()
}

/// The process that stays. Its standard output is the pipe, its standard error the log.
fn stay(program: &MountProgram) -> anyhow::Result<()> {
    let start = || {
        let settings = node::settings(&program.place, &program.meet)?;
        let data_dir = node::data_dir(&settings)?;
        node::log(telemetry::Target::File(&data_dir), program.meet.verbose)?;
        let plan = plan(program)?;
        // Nothing is held that others may want to unmount, and no terminal ends it.
        rustix::process::setsid()?;
        let mut running = Running::start(&settings, &program.meet, Some(plan))?;
        running.count_peers(!settings.bootstrap.value.is_empty());
        std::env::set_current_dir("/")?;
        anyhow::Ok(running)
    };
    match start() {
        Ok(running) => {
            // Whether or not anybody still waits for it, the mount serves.
            let _ = output::json(&Outcome::Ready(running.report.clone()));
            running.serve()
        }
        Err(error) if error.is::<Interrupted>() => Err(error),
        Err(error) if is_in_use(&error) => Ok(output::json(&Outcome::InUse(output::reasons(&error)))?),
        Err(error) => Ok(output::json(&Outcome::Failed(output::reasons(&error)))?),
    }
}

fn background(program: &MountProgram, args: &[OsString]) -> anyhow::Result<()> {
    let ward = process::Ward::new()?;
    let interrupted = || Interrupted("nothing is mounted");
    // What can be told at once is told by this process.
    let settings = node::settings(&program.place, &program.meet)?;
    let plan = plan(program)?;
    let point = MadePoint::make(&plan)?;
    first(&settings, &plan)?;
    if let Some(further) = further::add(&settings, program, &plan)? {
        point.keep();
        return Ok(further.tell()?);
    }
    let data_dir = node::data_dir(&settings)?;
    let log = data_dir.join(telemetry::LOG_NAME);
    let errors = OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
    let errors = errors.with_context(|| format!("cannot open the log {}", log.display()))?;
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(own);
    command
        // It may be called by the name that mount(8) calls it by, but its arguments are not mount(8)'s any more.
        .arg0("tornet-mount")
        .arg("--report")
        .args(args.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors);
    let started = ward.start(&mut command).context("cannot start the node")?;
    let mut child = started.ok_or_else(interrupted)?;
    let mut line = String::new();
    let waiting = Waiting::begin(format!("the node starts; its log is {}", log.display()));
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    drop(waiting);
    if !ward.release() {
        // It ends as it does whenever it is asked to: in order.
        child.wait()?;
        bail!(interrupted());
    }
    match serde_json::from_str(&line) {
        Ok(Outcome::Ready(report)) => {
            point.keep();
            Ok(tell(&report)?)
        }
        // Started at the same moment, as systemd does with the lines of fstab.
        Ok(Outcome::InUse(message)) => {
            let _ = child.wait();
            let further = further::add(&settings, program, &plan)?.ok_or_else(|| anyhow!(message))?;
            point.keep();
            Ok(further.tell()?)
        }
        Ok(Outcome::Failed(message)) => {
            let _ = child.wait();
            Err(anyhow!(message))
        }
        Err(_) => {
            let status = child.wait()?;
            // A terminal sends its signal to both.
            if process::was_asked_to_end(status) {
                bail!(interrupted());
            }
            bail!("the node ended before it served ({status}); its log is {}", log.display())
        }
    }
}

/// Whether another node has the data directory.
fn is_in_use(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StartError::Store(StoreError::InUse { .. })))
}

fn tell(report: &Report) -> std::io::Result<()> {
    let data = report.data_dir.0.display();
    let made = if report.identity_made { "made now, kept in" } else { "kept in" };
    output::line(format_args!("node       {} ({made} {data}/identity)", report.peer.get(..16).unwrap_or_default()))?;
    output::line(format_args!("data       {data}"))?;
    let found = if report.config_found { "" } else { " (not there: defaults hold)" };
    output::line(format_args!("settings   {}{found}", report.config.0.display()))?;
    output::line(format_args!("address    {}", report.address))?;
    let peers = match report.peers {
        0 if report.mdns => {
            "none answered yet; --bootstrap ADDR or the settings name some, the local network is searched".to_string()
        }
        0 => "none answered yet; --bootstrap ADDR or the settings name some, mdns is off".to_string(),
        1 => "1 answered".to_string(),
        count => format!("{count} answered"),
    };
    output::line(format_args!("peers      {peers}"))?;
    output::line("reachable  not known: this version does not test it from outside")?;
    let spending =
        if report.spending { "on, within the limits of [payments]" } else { "off; payments.enabled turns it on" };
    output::line(format_args!("spending   {spending}"))?;
    if let Some(point) = &report.mountpoint {
        output::line(format_args!("mounted    {}", point.0.display()))?;
    }
    Ok(())
}
