//! Manual pages and completions, made from the definitions of the commands.

use super::command::{MountProgram, Program};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use std::io::{self, Write};

/// How an apostrophe is written, for the two kinds of troff.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// The same for every command: `output::exit` is the table, `process` ends what is interrupted.
const EXIT_STATUS: &str = "\
.SH EXIT STATUS
.TP
.B 0
Done.
.TP
.B 1
It failed; the standard error says what, why, and what to do.
.TP
.B 2
Wrong usage, and nothing was tried: an unknown command, flag or mount option, a flag's value that makes no sense, a text that is no reference.
.TP
.B 130
Interrupted before it was done.
";

/// What `--json` means where it stands.
const JSON: &str = "\
.PP
With
.B \\-\\-json
a failure is an object on one line too, the last of the standard error: its field
.I error
says what failed and why, and
.IR remedy ,
where there is one, what to do.
";

/// Every generated page: its file name and its text.
pub fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut program = Program::command().disable_help_subcommand(true);
    program.build();
    page(&program, "tornet", &mut found)?;
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("tornet-{}", command.get_name());
        page(command, &name, &mut found)?;
        for part in command.get_subcommands().filter(|part| part.get_name() != "help") {
            page(part, &format!("{name}-{}", part.get_name()), &mut found)?;
        }
    }
    page(&MountProgram::command(), "tornet-mount", &mut found)?;
    Ok(found)
}

fn page(command: &Command, name: &str, found: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let source = concat!("tornet ", env!("CARGO_PKG_VERSION"));
    let page = clap_mangen::Man::new(command.clone()).title(name).date("").source(source).manual("tornet");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    // As --help has it, with the names of values.
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").replace('-', "\\-");
    writeln!(text, ".SH SYNOPSIS\n.B {}", usage.trim())?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    if command.get_after_help().is_some() {
        page.render_extra_section(&mut text)?;
    }
    text.extend(EXIT_STATUS.as_bytes());
    if command.get_arguments().any(|argument| argument.get_id() == "json") {
        text.extend(JSON.as_bytes());
    }
    writeln!(text, ".SH SEE ALSO\n.BR tornet (1),\n.BR tornet\\-mount (1),\n.BR tornet.toml (5),\n.BR tornet (7)")?;
    // Each section brings the same two lines before it; they are needed once.
    let text = String::from_utf8_lossy(&text).replace(PREAMBLE, "").replace(".SH EXTRA\n", ".SH NOTES\n");
    found.push((format!("{name}.1"), format!("{PREAMBLE}{text}").into_bytes()));
    Ok(())
}

/// Writes the completion script of `shell`, for both programs.
pub fn completions(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    for (command, name) in [(Program::command(), "tornet"), (MountProgram::command(), "tornet-mount")] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut shown(&command), name, &mut text);
        out.write_all(&text)?;
    }
    Ok(())
}

/// A command without what `--help` does not name: completions would offer it.
fn shown(command: &Command) -> Command {
    Command::new(command.get_name().to_string())
        .about(command.get_about().cloned().unwrap_or_default())
        .version(command.get_version().unwrap_or_default().to_string())
        .disable_version_flag(command.get_version().is_none())
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()))
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).map(shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// With TORNET_UPDATE=1 in the environment the pages are written instead of compared.
    #[test]
    fn the_manual_says_what_help_says() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
        let mut expected: Vec<String> = Vec::new();
        for (name, text) in pages().unwrap() {
            let path = dir.join(&name);
            if std::env::var_os("TORNET_UPDATE").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let found = std::fs::read(&path).unwrap_or_default();
            assert!(
                found == text,
                "man/{name} is not what the definitions say: run `cargo run --bin tornet -- man man`"
            );
            expected.push(name);
        }
        for entry in std::fs::read_dir(&dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.ends_with(".1") || expected.contains(&name), "man/{name} belongs to no command");
        }
    }

    #[test]
    fn completions_know_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            completions(shell, &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("umount") && text.contains("tornet-mount"), "{shell}");
            assert!(text.contains("data-dir") && text.contains("bootstrap") && text.contains("version"), "{shell}");
            for hidden in ["die-with-parent", "--report", "Write the manual"] {
                assert!(!text.contains(hidden), "{shell} offers {hidden}");
            }
        }
    }
}
