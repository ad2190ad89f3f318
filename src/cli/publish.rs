//! `tornet publish`: one reference on a line for each path.

use super::{get, output, show};
use crate::control::client::Client;
use crate::control::message::{Answer, PathText, Request};
use anyhow::bail;
use std::path::PathBuf;

/// What a user is told as long as nothing is sealed or found.
const WAITING: &str = "it is read and sealed, and then, with --wait, looked for on other nodes; `tornet status` tells how far publishing is";

/// What `--wait` is to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing: the running node goes on by itself.
    No,
    /// That others hold what they will hold.
    Hosted,
    /// That others hold enough of it: the node ends with this command.
    Readable,
}

/// Publishes each path and prints its reference as soon as it is as far as asked for.
pub(super) fn publish(client: &mut Client, paths: &[PathBuf], wait: Wait, json: bool) -> anyhow::Result<()> {
    let mut alone = 0;
    for path in paths {
        let request = Request::Publish { path: PathText(show::real(path)?), wait: wait != Wait::No };
        let (mut told, mut waiting) = (false, None);
        let published = loop {
            let published = match get::ask_again(client, &request, WAITING, &mut waiting)? {
                Answer::Published(published) => published,
                other => return Err(output::strange(&other)),
            };
            if wait != Wait::Readable || published.readable_elsewhere == Some(true) {
                break published;
            }
            if !told {
                output::note(format_args!(
                    "{}: that is too few to end here; serving on until others hold it. Others find this node by --bootstrap, or it finds \
                     them by `bootstrap` in its settings; Ctrl-C ends it, and what was sealed stays",
                    published.state
                ));
                told = true;
            }
        };
        if json {
            output::json(&published)?
        } else {
            output::line(&published.reference)?
        }
        if wait == Wait::Hosted && published.readable_elsewhere != Some(true) {
            output::note(format_args!("{}: the rest is had from this node only", published.state));
            alone += 1;
        }
    }
    if alone > 0 {
        bail!(
            "published, but not enough nodes are linked that would keep it: it is offered on in the background; see `tornet peers`"
        );
    }
    Ok(())
}
