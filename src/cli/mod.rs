//! Floor 9: commands: assembly and talk with the user.

pub mod command;
mod further;
mod get;
mod helper;
mod holder;
pub mod manual;
mod money;
mod mount;
mod name;
mod node;
mod output;
mod process;
mod prompt;
mod publish;
mod regtest;
mod reload;
mod show;
mod swarm;
mod umount;
mod waiting;
mod wallet;

use crate::config::place;
use crate::content::head::Readable;
use crate::content::reference::{RootRef, VerifyRef};
use crate::control::client::{Client, ClientError, START};
use crate::control::message::{Answer, Request, Setting};
use anyhow::Context;
use clap::Parser;
use command::{Command, Meet, MountProgram, Place, Program};
use output::{Remedied, Usage};
use publish::Wait;
use std::path::PathBuf;
use std::process::ExitCode;

/// The whole of the program `tornet`.
pub fn tornet() -> ExitCode {
    process::harden();
    match Program::try_parse() {
        Ok(program) => {
            let json = program.json;
            output::exit("tornet", run(program), json)
        }
        Err(error) => output::refuse("tornet", &error, std::env::args_os().any(|arg| arg == "--json")),
    }
}

/// The whole of the program `tornet-mount`.
pub fn tornet_mount() -> ExitCode {
    process::harden();
    let mounted = match helper::call(std::env::args_os().collect()) {
        Ok(helper::Call::Mount(args)) => mount::run(&MountProgram::parse_from(&args), &args),
        Ok(helper::Call::Nothing) => Ok(()),
        Err(usage) => Err(output::Usage::because(usage)),
    };
    output::exit("tornet-mount", mounted, false)
}

fn run(program: Program) -> anyhow::Result<()> {
    let Program { place, json, command } = program;
    let client = || Ok::<_, anyhow::Error>(Client::connect(&data_dir(&place)?)?);
    match command {
        Command::Ref { path, verify } => show::reference(&mut client()?, &path, verify, json),
        Command::Publish { paths, wait, meet } => publish(&place, &meet, &paths, wait, json),
        Command::Get { reference, dest, meet } => {
            // Before a node is started for it.
            let reference = get::reference::<Readable>(&reference)?;
            let dest = get::place(&reference, dest)?;
            process::end_when_interrupted("interrupted: the same command goes on where it stopped")?;
            with_node(&place, &meet, |client| get::get(client, &reference, &dest, json))
        }
        Command::Pin { reference } => {
            let reference = get::reference::<RootRef>(&reference)?;
            match get::ask(&mut client()?, &Request::Pin { reference }, get::SEEKING)? {
                Answer::Pinned(pinned) if json => output::json(&pinned)?,
                Answer::Pinned(pinned) => {
                    let bytes = crate::base::units::Size(pinned.bytes);
                    output::line(format_args!("kept: {bytes} in {} chunks", pinned.chunks))?
                }
                other => return Err(output::strange(&other)),
            }
            Ok(())
        }
        Command::Unpin { reference } => {
            let reference = get::reference::<RootRef>(&reference)?;
            match client()?.ask(&Request::Unpin { reference })? {
                Answer::Unpinned(unpinned) if json => output::json(&unpinned)?,
                Answer::Unpinned(unpinned) if !unpinned.was_pinned => {
                    output::note("it was not pinned: nothing changed")
                }
                Answer::Unpinned(_) => {}
                other => return Err(output::strange(&other)),
            }
            Ok(())
        }
        Command::Verify { reference } => {
            let reference = get::reference::<VerifyRef>(&reference)?;
            show::verify(&mut client()?, reference, false, json)
        }
        Command::Repair { reference } => {
            let reference = get::reference::<VerifyRef>(&reference)?;
            show::verify(&mut client()?, reference, true, json)
        }
        Command::Status { watch } => show::status(&mut client()?, json, watch),
        Command::Peers => show::peers(&mut client()?, json),
        Command::Balances => show::balances(&mut client()?, json),
        Command::Pay { peer, amount } => money::pay(&mut client()?, peer, amount, json),
        Command::Allow { reference, amount, .. } => {
            let reference = get::reference::<RootRef>(&reference)?;
            money::allow(&mut client()?, reference, amount, json)
        }
        Command::Payments => money::payments(&mut client()?, json),
        Command::Audit { csv } => money::audit(&mut client()?, csv, json),
        Command::Why { path } => show::why(&mut client()?, &path, json),
        Command::Node { meet } => node::node(&place, &meet),
        Command::Umount { mountpoint, wait } => umount::umount(&data_dir(&place)?, mountpoint, wait.0),
        Command::Stop => umount::stop(&data_dir(&place)?),
        Command::Swarm { data_dir, config, .. }
            if [&place.data_dir, &place.config, &data_dir, &config].into_iter().any(Option::is_some) =>
        {
            Err(Usage::because(
                "each node of a swarm has a data directory and settings of its own: leave --data-dir and --config out, --dir says where they are kept",
            ))
        }
        Command::Swarm { count, mount, dir, bitcoin, .. } => {
            swarm::run(&swarm::Plan { count, mount, dir, bitcoin, json })
        }
        Command::Name { command } => name::run(&mut client()?, command, json),
        Command::Wallet { command } => wallet::run(&place, command, json),
        Command::Config => settings(&place, json),
        Command::Completions { shell } => Ok(manual::completions(shell, &mut std::io::stdout().lock())?),
        Command::Along { parent, program, args } => {
            let error = process::become_along(parent, &program, &args);
            Err(error).with_context(|| format!("cannot start {}", program.display()))
        }
        Command::Man { dir } => {
            for (name, text) in manual::pages()? {
                let path = dir.join(name);
                std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
            Ok(())
        }
    }
}

/// Commands that talk with a node need no more of the settings than where it is.
fn data_dir(place: &Place) -> anyhow::Result<PathBuf> {
    Ok(place::data_dir(place.data_dir.as_deref(), &node::environment)?.value)
}

/// Runs `work` with the node that is running, or else with one of this process that ends with it.
fn with_node(place: &Place, meet: &Meet, work: impl FnOnce(&mut Client) -> anyhow::Result<()>) -> anyhow::Result<()> {
    match Client::connect(&data_dir(place)?) {
        Ok(mut client) => return work(&mut client),
        Err(ClientError::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let settings = node::settings(place, meet)?;
    let dir = node::data_dir(&settings)?;
    node::log(crate::telemetry::Target::File(&dir), meet.verbose)?;
    let running = node::Running::start(&settings, meet, None)?;
    let result = Client::connect(&dir).map_err(anyhow::Error::from).and_then(|mut client| work(&mut client));
    let ended = running.end();
    result.and(ended)
}

fn publish(place: &Place, meet: &Meet, paths: &[PathBuf], wait: bool, json: bool) -> anyhow::Result<()> {
    match Client::connect(&data_dir(place)?) {
        Ok(mut client) => publish::publish(&mut client, paths, if wait { Wait::Hosted } else { Wait::No }, json),
        Err(ClientError::NotRunning { .. }) if wait => {
            process::end_when_interrupted(
                "interrupted: other nodes may not hold all of it; the same command goes on where it stopped",
            )?;
            with_node(place, meet, |client| publish::publish(client, paths, Wait::Readable, json))
        }
        Err(ClientError::NotRunning { dir }) => Err(Remedied {
            error: format!("no node is running with the data directory {}", dir.display()),
            remedy: format!(
                "{START}; or use --wait: this command then serves by itself until others hold what it published"
            ),
        }
        .into()),
        Err(error) => Err(error.into()),
    }
}

/// `tornet config`: of the node that runs, which may have been started from another shell or before the file was changed; else those with
/// which one would start.
fn settings(place: &Place, json: bool) -> anyhow::Result<()> {
    let here = |config: Option<PathBuf>| {
        let place = Place { config: place.config.clone().or(config), ..place.clone() };
        node::settings(&place, &Meet::default()).map(|settings| node::in_force(&settings))
    };
    let rows = match Client::connect(&data_dir(place)?) {
        Ok(mut client) => match client.ask(&Request::Settings)? {
            Answer::Settings(rows) => {
                let file = rows.iter().find(|row| row.key == "config").map(|row| PathBuf::from(&row.value));
                output::note(compared(&rows, &here(file.filter(|file| file.exists()))));
                rows
            }
            other => return Err(output::strange(&other)),
        },
        Err(ClientError::NotRunning { .. }) => here(None)?,
        Err(error) => return Err(error.into()),
    };
    if json {
        let object: serde_json::Map<String, serde_json::Value> = (rows.into_iter())
            .map(|Setting { key, value, source }| (key, serde_json::json!({"value": value, "source": source})))
            .collect();
        return Ok(output::json(&object)?);
    }
    let mut table = vec![["SETTING", "VALUE", "FROM"].map(String::from).to_vec()];
    table.extend(rows.into_iter().map(|Setting { key, value, source }| vec![key, value, source]));
    Ok(output::line(output::table(&table).trim_end())?)
}

/// Whose settings are shown, and what would be otherwise if the node were started here and now. What flags said then is not known here.
fn compared(running: &[Setting], here: &anyhow::Result<Vec<Setting>>) -> String {
    let mut text = "these are the settings of the running node".to_string();
    match here {
        Ok(here) => {
            for Setting { key, value, source } in here {
                let other = running.iter().find(|row| row.key == *key && row.value != *value);
                if other.is_some_and(|row| !row.source.starts_with("flag ")) {
                    text.push_str(&format!(
                        "\nstarted anew from here without flags it would have {key} = {value} ({source})"
                    ));
                }
            }
        }
        Err(error) => text.push_str(&format!("\nstarted anew from here it would fail: {}", output::reasons(error))),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_would_be_others_now_are_named() {
        let row = |key: &str, value: &str, source: &str| Setting {
            key: key.into(),
            value: value.into(),
            source: source.into(),
        };
        let running = [row("a", "1", "default"), row("b", "2", "flag --b"), row("c", "3", "default")];
        let here = Ok(vec![row("a", "1", "default"), row("b", "9", "default"), row("c", "4", "FILE:1:1")]);
        assert_eq!(
            compared(&running, &here),
            "these are the settings of the running node\nstarted anew from here without flags it would have c = 4 (FILE:1:1)"
        );
        assert!(compared(&running, &Err(anyhow::anyhow!("no"))).ends_with("it would fail: no"));
    }
}
