//! `tornet name`.

use super::command::NameCommand;
use super::{get, output};
use crate::base::text::escape;
use crate::base::units::{Span, count};
use crate::content::head::HeadRef;
use crate::control::client::Client;
use crate::control::message::{Answer, NameRequest, NameStatus, PathText, Request};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// Letters of a reference that are shown in a table.
const REFERENCE_SHOWN: usize = 20;

pub(super) fn run(client: &mut Client, command: NameCommand, json: bool) -> anyhow::Result<()> {
    // Of which name the answer is about, and whether its reference is news to the user.
    let (about, created) = match &command {
        NameCommand::Create { name, .. } => (Some(name.clone()), true),
        NameCommand::Follow { name, .. } => (Some(name.clone()), false),
        NameCommand::Remove { .. } | NameCommand::List => (None, false),
    };
    let listing = matches!(command, NameCommand::List);
    let request = match command {
        NameCommand::Create { name, path } => {
            let path = path.map(|path| std::path::absolute(&path)).transpose()?;
            // The mount point as the node knows it; the last part may be a link, which is no file of its own.
            let path = path.map(|path| {
                match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
                    (Some(parent), Some(name)) => parent.join(name),
                    _ => path,
                }
            });
            NameRequest::Create { name, path: path.map(PathText) }
        }
        NameCommand::Follow { name, reference } => {
            NameRequest::Follow { name, reference: get::reference::<HeadRef>(&reference)? }
        }
        NameCommand::Remove { name } => NameRequest::Remove { name },
        NameCommand::List => NameRequest::List,
    };
    let names = match client.ask(&Request::Name(request))? {
        Answer::Names(names) => names,
        other => return Err(output::strange(&other)),
    };
    if let Some(about) = about {
        let Some(name) = names.iter().find(|name| name.name == about) else { anyhow::bail!("it was removed again") };
        return match (json, created) {
            (true, _) => Ok(output::json(name)?),
            (false, true) => Ok(output::line(&name.reference)?),
            (false, false) => Ok(()),
        };
    }
    if !listing {
        return Ok(());
    }
    if json {
        return Ok(output::json(&names)?);
    }
    if names.is_empty() {
        output::note("no names: `tornet name create` makes one, `tornet name follow` follows somebody's");
        return Ok(());
    }
    let mut rows = vec![["NAME", "STANDS FOR", "MOVED", "LEADS TO", "STATE"].map(String::from).to_vec()];
    rows.extend(names.iter().map(row));
    Ok(output::line(output::table(&rows).trim_end())?)
}

fn row(name: &NameStatus) -> Vec<String> {
    let stands = match &name.path {
        None => "followed".to_string(),
        Some(path) if path.0.as_os_str().is_empty() => "the own tree".to_string(),
        Some(path) => escape(path.0.as_os_str().as_bytes()).to_string(),
    };
    let leads = name
        .tree
        .as_ref()
        .map_or("-".to_string(), |tree| format!("{}...", tree.chars().take(REFERENCE_SHOWN).collect::<String>()));
    let state = match (&name.trouble, name.asked, &name.path) {
        (Some(trouble), _, _) => trouble.clone(),
        (None, None, Some(_)) => "being published".to_string(),
        (None, None, None) => "not asked yet".to_string(),
        (None, Some(_), Some(_)) => format!("kept by {}", count(name.peers, "peer")),
        (None, Some(asked), None) => format!("asked {} ago", Span(Duration::from_secs(asked.max(1)))),
    };
    vec![escape(name.name.as_bytes()).to_string(), stands, count(name.number, "time"), leads, state]
}
