//! Questions to the user at the terminal.

use anyhow::{Context, bail};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use zeroize::Zeroizing;

/// The terminal of this process, whatever its input and output are.
pub(super) struct Terminal {
    input: BufReader<File>,
    output: File,
}

/// Ends the hiding of what is typed, also after an error.
struct Hidden<'a>(&'a File, rustix::termios::Termios);

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.0, OptionalActions::Flush, &self.1);
    }
}

impl Terminal {
    /// Opens it; `purpose` says what cannot be done without one, and what to do instead.
    pub(super) fn open(purpose: &str) -> anyhow::Result<Terminal> {
        let open = || OpenOptions::new().read(true).write(true).open("/dev/tty");
        match (open(), open()) {
            (Ok(input), Ok(output)) => Ok(Terminal { input: BufReader::new(input), output }),
            _ => bail!("there is no terminal here: {purpose}"),
        }
    }

    /// Says something.
    pub(super) fn say(&mut self, text: &str) -> anyhow::Result<()> {
        writeln!(self.output, "{text}").context("cannot write to the terminal")
    }

    /// Asks, and returns the line without its end.
    pub(super) fn ask(&mut self, question: &str) -> anyhow::Result<Zeroizing<String>> {
        write!(self.output, "{question} ").context("cannot write to the terminal")?;
        let mut line = Zeroizing::new(String::with_capacity(1024));
        if self.input.read_line(&mut line).context("cannot read from the terminal")? == 0 {
            bail!("the terminal was closed before the answer");
        }
        let end = line.trim_end_matches(['\n', '\r']).len();
        line.truncate(end);
        Ok(line)
    }

    /// Asks for something that is not shown while it is typed.
    pub(super) fn ask_hidden(&mut self, question: &str) -> anyhow::Result<Zeroizing<String>> {
        let tty = self.output.try_clone()?;
        let before = tcgetattr(&tty).context("cannot ask the terminal")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&tty, OptionalActions::Flush, &silent).context("cannot hide what is typed")?;
        let _shown_again = Hidden(&tty, before);
        self.ask(question)
    }

    /// Asks for a yes.
    pub(super) fn agrees(&mut self, question: &str) -> anyhow::Result<bool> {
        Ok(matches!(self.ask(&format!("{question} [y/N]"))?.trim(), "y" | "Y" | "yes"))
    }
}
