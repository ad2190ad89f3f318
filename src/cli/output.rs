//! What the user sees: lines on the standard output, messages on the standard error, exit codes.

use crate::control::message::Answer;
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

/// The one table of exit codes: 0 done, 1 failed, 2 wrong usage (which clap answers by itself).
pub(super) fn exit(program: &str, result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // `tornet peers | head -1` is no failure worth words.
        Err(error) if broken_pipe(&error) => ExitCode::from(1),
        Err(error) => {
            note(format_args!("{program}: {}", reasons(&error)));
            ExitCode::from(1)
        }
    }
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
    fn columns_stand_under_each_other() {
        let rows = vec![vec!["a".into(), "bb".into()], vec!["ccc".into(), "d".into()]];
        assert_eq!(table(&rows), "a    bb\nccc  d\n");
    }
}
