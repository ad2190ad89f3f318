//! `tornet get`: names the copy, shows its progress.

use super::output::{self, Incomplete, Remedied, Usage};
use super::waiting::Waiting;
use crate::base::text::{TextError, canonical, escape};
use crate::base::units::{Size, count};
use crate::control::client::Client;
use crate::control::message::{Answer, Fetched, PathText, Progress, Request};
use anyhow::{anyhow, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Letters of a reference that name its copy when the user names none: enough to tell one from another.
const NAME_CHARS: usize = 20;
/// What a user who waits for the swarm is told.
pub(super) const SEEKING: &str = "peers that hold it are looked for; Ctrl-C gives up, and where none answers in time it fails by itself; \
    `tornet peers` lists who is linked";

/// Missing parts of a tree that are told in words.
const MISSING_SHOWN: usize = 10;
/// What reads a file as a stream.
const NO_STREAM: &str = "`cat` it below ref/ of a mount";

/// Fetches `reference` to `dest`.
pub(super) fn get(client: &mut Client, reference: &str, dest: &Path, json: bool) -> anyhow::Result<()> {
    let request = Request::Get { reference: reference.to_string(), dest: PathText::from(dest) };
    match ask(client, &request, SEEKING)? {
        Answer::Fetched(done) if !done.missing.is_empty() => Err(incomplete(done).into()),
        Answer::Fetched(done) if json => Ok(output::json(&done)?),
        Answer::Fetched(done) => {
            output::note(format_args!("{}: {}", escape(dest.as_os_str().as_bytes()), Size(done.bytes)));
            Ok(())
        }
        other => Err(output::strange(&other)),
    }
}

fn incomplete(done: Fetched) -> Incomplete {
    let shown = |path: &PathText| escape(path.0.as_os_str().as_bytes()).to_string();
    let named = done.missing.iter().take(MISSING_SHOWN);
    let mut list: Vec<String> = named.map(|lost| format!("{}: {}", shown(&lost.path), lost.error)).collect();
    let more = done.missing_count.saturating_sub(list.len() as u64);
    if more > 0 {
        list.push(format!("and {more} more"));
    }
    let failure = Remedied {
        error: format!("{} of the tree could not be fetched: {}", count(done.missing_count, "part"), list.join("; ")),
        remedy: format!("the rest is in {}, and the same command tries again what is missing", shown(&done.dest)),
    };
    Incomplete { failure, missing: done.missing }
}

/// A reference of kind `R` in its usual form; anything else is wrong usage.
pub(super) fn reference<R: FromStr<Err = TextError>>(text: &str) -> anyhow::Result<String> {
    // As the shell completes it below ref/.
    let plain = canonical(text.trim().trim_end_matches('/'));
    match plain.parse::<R>() {
        Ok(_) => Ok(plain.into_owned()),
        Err(error) => Err(Usage::because(format_args!("{}: {error}", escape(text.as_bytes())))),
    }
}

/// Where the copy goes, as an absolute path.
pub(super) fn place(reference: &str, dest: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if dest.as_deref() == Some(Path::new("-")) {
        return Err(Usage::because(format_args!(
            "a file is not fetched to the standard output: {NO_STREAM} (./- is a file named -)"
        )));
    }
    let dest = dest.unwrap_or_else(|| reference.chars().take(NAME_CHARS).collect::<String>().into());
    let dest = std::path::absolute(dest)?;
    let Some(name) = dest.file_name() else { bail!("{} cannot be written to: it is no name", dest.display()) };
    // A parent with a link in it may lead into the mount.
    let parent = dest.parent().unwrap_or(Path::new("/"));
    let parent = parent.canonicalize().map_err(|e| anyhow!("cannot write to {}: {e}", parent.display()))?;
    let place = followed(parent.join(name))?;
    // The node would write through its own mount, and wait for itself.
    if super::holder::mounts()?.iter().any(|mount| place.starts_with(&mount.point)) {
        bail!("{} lies in a tornet mount: copy from ref/ there, with `cp -r`", place.display());
    }
    Ok(place)
}

/// Where a symbolic link at `place` leads, which may be something that is not there yet: a copy must not take the link's place.
fn followed(place: PathBuf) -> anyhow::Result<PathBuf> {
    if !place.is_symlink() {
        return Ok(place);
    }
    let shown = escape(place.as_os_str().as_bytes()).to_string();
    match place.metadata() {
        // Some links, such as /dev/stdout, name what has no path.
        Ok(there) if !there.is_file() && !there.is_dir() => Err(Remedied {
            error: format!("{shown} leads to a device, pipe or socket, which is not replaced by a file"),
            remedy: NO_STREAM.into(),
        }
        .into()),
        Ok(_) => place.canonicalize().map_err(|e| anyhow!("cannot write to {shown}: {e}")),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(anyhow!("cannot write to {shown}: {error}")),
        Err(_) => {
            // The system itself goes round no circle of links, so each step leads nearer to the missing name.
            let target = place.parent().unwrap_or(Path::new("/")).join(place.read_link()?);
            let missing = || anyhow!("{shown} leads to {}, which cannot be made", target.display());
            let (parent, name) = (target.parent().ok_or_else(missing)?, target.file_name().ok_or_else(missing)?);
            followed(parent.canonicalize().map_err(|_| missing())?.join(name))
        }
    }
}

/// Asks something that may take long. Who looks sees a progress bar, others now and then how far it is; until anything is known
/// of that, both are told `words`.
pub(super) fn ask(client: &mut Client, request: &Request, words: &str) -> anyhow::Result<Answer> {
    ask_again(client, request, words, &mut None)
}

/// The same for one of several requests during which the user waits for one thing: `waiting` goes from one to the next.
pub(super) fn ask_again(
    client: &mut Client,
    request: &Request,
    words: &str,
    waiting: &mut Option<Waiting>,
) -> anyhow::Result<Answer> {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
    if bar.is_hidden() && waiting.is_none() {
        *waiting = Some(Waiting::begin(words));
    }
    let mut shown = None;
    let answer = client.ask_with(request, |progress: Progress| {
        let unit = (progress.total > 0).then(|| progress.unit.clone());
        if shown.as_ref() != Some(&unit) {
            bar.set_style(style(unit.as_deref()));
            shown = Some(unit.clone());
        }
        if unit.is_none() {
            bar.set_message(words.to_string());
            bar.tick();
            return;
        }
        if let Some(waiting) = waiting {
            waiting.change(far(&progress));
        }
        bar.set_message(progress.stage.clone());
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    Ok(answer?)
}

fn far(progress: &Progress) -> String {
    let Progress { stage, done, total, unit } = progress;
    match unit.as_str() {
        "bytes" => format!("{stage}, {} of {} so far", Size(*done), Size(*total)),
        unit => format!("{stage}, {done} of {total} {unit} so far"),
    }
}

/// Without a unit nothing is known yet of how much there is.
fn style(unit: Option<&str>) -> ProgressStyle {
    let template = match unit {
        None => "{spinner} {wide_msg}",
        Some("bytes") => "{msg} {bar:30} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left",
        Some("copies") => "{msg} {bar:30} {pos} of {len} copies",
        Some(_) => "{msg} {bar:30} {pos} of {len} chunks",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::reference::RootRef;

    #[test]
    fn reference_is_read_as_people_paste_it() {
        let good = crate::base::text::encode(crate::base::text::TextKind::File, &[1; 67]);
        assert_eq!(reference::<RootRef>(&format!(" {}/\n", good.to_uppercase())).unwrap(), good);
        assert!(reference::<RootRef>("TORNET1QQ").unwrap_err().is::<Usage>());
    }

    #[test]
    fn how_far_it_is_has_its_unit() {
        let progress =
            |unit: &str| Progress { stage: "fetching".into(), done: 1 << 20, total: 3 << 20, unit: unit.into() };
        assert_eq!(far(&progress("bytes")), "fetching, 1 MiB of 3 MiB so far");
        assert_eq!(far(&progress("chunks")), "fetching, 1048576 of 3145728 chunks so far");
    }

    #[test]
    fn a_copy_has_a_name_and_a_parent_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap();
        assert_eq!(place("tornet1abc", Some(home.join("x"))).unwrap(), home.join("x"));
        assert!(place(&format!("tornet1{}", "q".repeat(90)), None).unwrap().ends_with("tornet1qqqqqqqqqqqqq"));
        assert!(place("tornet1abc", Some(home.join("none/x"))).is_err());
        assert!(place("tornet1abc", Some("/".into())).is_err());
        assert!(place("tornet1abc", Some("-".into())).unwrap_err().is::<Usage>());
        assert!(place("tornet1abc", Some("./-".into())).unwrap().ends_with("-"));
    }

    #[test]
    fn a_link_is_followed_to_what_it_names_unless_that_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap();
        let link = |name: &str, target: &str| std::os::unix::fs::symlink(target, home.join(name)).unwrap();
        let placed = |name: &str| place("tornet1abc", Some(home.join(name)));
        std::fs::write(home.join("file"), "x").unwrap();
        for (name, target) in [
            ("there", "file"),
            ("twice", "there"),
            ("new", "none"),
            ("farther", "new"),
            ("lost", "no/parent"),
            ("round", "round"),
            ("dots", "none/.."),
            ("null", "/dev/null"),
        ] {
            link(name, target);
        }
        assert_eq!(placed("twice").unwrap(), home.join("file"));
        assert_eq!(placed("farther").unwrap(), home.join("none"));
        for name in ["lost", "round", "dots"] {
            assert!(placed(name).unwrap_err().to_string().contains(name));
        }
        // What a shell's pipe looks like.
        let (_reader, writer) = std::io::pipe().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&writer);
        link("stdout", &format!("/proc/self/fd/{number}"));
        for name in ["null", "stdout"] {
            let said = placed(name).unwrap_err().to_string();
            assert!(said.contains("device, pipe or socket") && said.contains("ref/"), "{said}");
        }
    }
}
