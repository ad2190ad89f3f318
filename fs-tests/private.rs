//! What a node makes is for its user alone, and what it knows does not end in a core dump.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const TORNET: &str = env!("CARGO_BIN_EXE_tornet");

struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(home: &Path) -> (Node, String) {
    let mut command = Command::new(TORNET);
    // However freely the user shares new files.
    let script = "umask 000 && exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    command.args(["node", "--listen", "127.0.0.1:0"]);
    shell.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    shell.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home);
    shell.env("TORNET_NETWORK_MDNS", "false").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Node(child), line)
}

fn open_to_others(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if metadata.permissions().mode() & 0o077 != 0 {
            found.push(format!("{} {:o}", path.display(), metadata.permissions().mode()));
        }
        if metadata.is_dir() {
            open_to_others(&path, found);
        }
    }
}

#[test]
fn nothing_that_a_node_makes_is_open_to_others_and_it_leaves_no_core() {
    let home = tempfile::tempdir().unwrap();
    let (mut node, ready) = start(home.path());
    assert!(ready.starts_with("ready tornet1"), "{ready:?}");
    let mut found = Vec::new();
    let data = home.path().join(".local/share/tornet");
    open_to_others(&data, &mut found);
    // The mount's top, which others see where the mount is for them; here nobody comes to it past the data directory.
    let tree = format!("{} 40755", data.join("tree").display());
    found.retain(|line| *line != tree);
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    let about = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", node.0.id())).unwrap();
    let limits = about("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    assert!(about("status").contains("Umask:\t0077"));
    // And it ends when it is told to.
    let stop =
        Command::new(TORNET).arg("stop").env("HOME", home.path()).env_remove("TORNET_DATA_DIR").status().unwrap();
    assert!(stop.success());
    assert!(node.0.wait().unwrap().success());
}
