//! What the user sees: lines on the standard output, messages on the standard error, exit codes.

use super::process;
use crate::control::client::{ClientError, START};
use crate::control::message::{Answer, Missing};
use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;

/// Prints one line on the standard output.
pub(super) fn line(text: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints one JSON object on a line.
pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    line(serde_json::to_string(value)?)
}

/// Says something that is not the result on the standard error.
pub(super) fn note(text: impl std::fmt::Display) {
    // Nobody to tell when that is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A command that was not used as it is meant to be: nothing was tried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Usage(pub(super) String);

impl Usage {
    /// Wrong usage, as this error tells.
    pub(super) fn because(error: impl std::fmt::Display) -> anyhow::Error {
        Usage(error.to_string()).into()
    }
}

/// The user gave it up; what that means.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: {0}")]
pub(super) struct Interrupted(pub(super) &'static str);

/// A failure, and what the user can do about it.
#[derive(Debug, thiserror::Error)]
#[error("{error}: {remedy}")]
pub(super) struct Remedied {
    pub(super) error: String,
    pub(super) remedy: String,
}

/// A tree that could not be fetched whole.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub(super) struct Incomplete {
    pub(super) failure: Remedied,
    pub(super) missing: Vec<Missing>,
}

/// A failure as `--json` prints it.
#[derive(Debug, Serialize)]
struct Failure {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<Missing>,
}

impl Failure {
    fn of(error: &anyhow::Error) -> Failure {
        let of = |Remedied { error, remedy }: &Remedied, missing: &[Missing]| Failure {
            error: error.clone(),
            remedy: Some(remedy.clone()),
            missing: missing.to_vec(),
        };
        if let Some(remedied) = error.downcast_ref() {
            return of(remedied, &[]);
        }
        if let Some(Incomplete { failure, missing }) = error.downcast_ref() {
            return of(failure, missing);
        }
        let remedy = matches!(error.downcast_ref(), Some(ClientError::NotRunning { .. })).then(|| START.to_string());
        let text = reasons(error);
        let end = remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
        Failure { error: text.strip_suffix(&end).unwrap_or(&text).to_string(), remedy, missing: Vec::new() }
    }
}

/// Says how it failed, in words or as one line of JSON; on the standard error either way, so that the standard output holds results alone.
fn fail(program: &str, failure: &Failure, json: bool) {
    match serde_json::to_string(failure) {
        Ok(line) if json => note(line),
        _ => {
            let remedy = failure.remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
            note(format_args!("{program}: {}{remedy}", failure.error));
        }
    }
}

/// The one table of exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
pub(super) fn exit(program: &str, result: anyhow::Result<()>, json: bool) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // `tornet peers | head -1` is no failure worth words.
    if !broken_pipe(&error) {
        fail(program, &Failure::of(&error), json);
    }
    ExitCode::from(match error {
        error if error.is::<Usage>() => 2,
        error if error.is::<Interrupted>() => process::INTERRUPTED,
        _ => 1,
    })
}

/// What the command line's own rules refuse, or have answered already, such as `--help`.
pub(super) fn refuse(program: &str, error: &clap::Error, json: bool) -> ExitCode {
    if !json || !error.use_stderr() {
        error.exit();
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    let first = first.split_whitespace().collect::<Vec<_>>().join(" ");
    fail(program, &Failure { error: first, remedy: Some("see --help".into()), missing: Vec::new() }, json);
    ExitCode::from(2)
}

/// An error and its causes on one line. Many of ours name their cause themselves: it is not said twice.
pub(super) fn reasons(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// An answer that does not belong to what was asked.
pub(super) fn strange(answer: &Answer) -> anyhow::Error {
    anyhow::anyhow!("the node answered something else ({answer:?}): it is of another version; restart it")
}

/// Rows as columns, the first row being the heading; the last column is not padded.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        for (place, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let last = place + 1 == row.len();
            text.push_str(cell);
            if !last {
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_is_told_once() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let told = crate::config::file::ReadError::Read { path: "x".into(), source: missing() };
        let error = anyhow::Error::from(told).context("starting");
        assert_eq!(reasons(&error), "starting: cannot read the configuration file x: entity not found");
        assert_eq!(reasons(&anyhow::Error::from(missing()).context("opening")), "opening: entity not found");
    }

    #[test]
    fn failure_for_programs_keeps_the_remedy_apart() {
        let told = |error: anyhow::Error| serde_json::to_value(Failure::of(&error)).unwrap();
        let not_running = told(ClientError::NotRunning { dir: "/d".into() }.into());
        assert_eq!(not_running["error"], "no node is running with the data directory /d");
        assert_eq!(not_running["remedy"], START);
        assert_eq!(told(anyhow::anyhow!("broken: it is")), serde_json::json!({"error": "broken: it is"}));
        let remedied = Remedied { error: "cold".into(), remedy: "heat it".into() };
        assert_eq!(told(remedied.into()), serde_json::json!({"error": "cold", "remedy": "heat it"}));
    }

    #[test]
    fn columns_stand_under_each_other() {
        let rows = vec![vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()]];
        assert_eq!(table(&rows), "a    bb\nccc  d\n");
    }
}
