//! `tornet get`: names the copy, shows its progress.

use super::output;
use crate::base::text::escape;
use crate::base::units::Size;
use crate::content::reference::RootRef;
use crate::control::client::Client;
use crate::control::message::{Answer, PathText, Progress, Request};
use anyhow::{anyhow, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Letters of a reference that name its copy when the user names none: enough to tell one from another.
const NAME_CHARS: usize = 20;

/// Fetches `reference` to `dest`.
pub(super) fn get(client: &mut Client, reference: &str, dest: &Path, json: bool) -> anyhow::Result<()> {
    let request = Request::Get { reference: reference.to_string(), dest: PathText::from(dest) };
    match ask(client, &request)? {
        Answer::Fetched(done) if json => Ok(output::json(&done)?),
        Answer::Fetched(done) => {
            output::note(format_args!("{}: {}", escape(dest.as_os_str().as_bytes()), Size(done.bytes)));
            Ok(())
        }
        other => Err(output::strange(&other)),
    }
}

/// Refuses what is no reference to read by.
pub(super) fn check(reference: &str) -> anyhow::Result<()> {
    let parsed: Result<RootRef, _> = reference.trim().parse();
    parsed.map(|_| ()).map_err(|e| anyhow!("{}: {e}", escape(reference.as_bytes())))
}

/// Where the copy goes, as an absolute path.
pub(super) fn place(reference: &str, dest: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let dest = dest.unwrap_or_else(|| reference.chars().take(NAME_CHARS).collect::<String>().into());
    let dest = std::path::absolute(dest)?;
    let Some(name) = dest.file_name() else { bail!("{} cannot be written to: it is no name", dest.display()) };
    // A parent with a link in it may lead into the mount.
    let parent = dest.parent().unwrap_or(Path::new("/"));
    let parent = parent.canonicalize().map_err(|e| anyhow!("cannot write to {}: {e}", parent.display()))?;
    let place = parent.join(name);
    // The node would write through its own mount, and wait for itself.
    if super::holder::mounts()?.iter().any(|mount| place.starts_with(&mount.point)) {
        bail!("{} lies in a tornet mount: copy from ref/ there, with `cp -r`", place.display());
    }
    Ok(place)
}

/// Asks something that may take long, with a progress bar when somebody looks.
pub(super) fn ask(client: &mut Client, request: &Request) -> anyhow::Result<Answer> {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
    bar.set_style(style("bytes"));
    let mut unit = String::new();
    let answer = client.ask_with(request, |progress: Progress| {
        if unit != progress.unit {
            bar.set_style(style(&progress.unit));
            unit.clone_from(&progress.unit);
        }
        bar.set_message(progress.stage.clone());
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    Ok(answer?)
}

fn style(unit: &str) -> ProgressStyle {
    let template = match unit {
        "bytes" => "{msg} {bar:30} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
        "copies" => "{msg} {bar:30} {pos} of {len} copies",
        _ => "{msg} {bar:30} {pos} of {len} chunks",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_a_name_and_a_parent_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap();
        assert_eq!(place("tornet1abc", Some(home.join("x"))).unwrap(), home.join("x"));
        assert!(place(&format!("tornet1{}", "q".repeat(90)), None).unwrap().ends_with("tornet1qqqqqqqqqqqqq"));
        assert!(place("tornet1abc", Some(home.join("none/x"))).is_err());
        assert!(place("tornet1abc", Some("/".into())).is_err());
    }
}
