//! Every module imports only from lower floors, whatever the day.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

const FLOORS: &[&[&str]] = &[
    &["base"],
    &["content", "wire"],
    &["routing", "ledger", "market", "fetch", "publish", "wallet"],
    &["node"],
    &["store", "net", "chain"],
    &["engine", "sim"],
    &["vfs"],
    &["fuse", "control"],
    &["config", "telemetry"],
    &["cli"],
];

/// Crates that pure floors (0 to 3) may not touch, by the text that would name them.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net::Udp",
    "std::net::Tcp",
    "std::thread",
    "std::env",
    "SystemTime",
    "std::time::Instant",
    "tokio::",
    "getrandom::",
    "rustix::",
    "HashMap::new",
    "HashSet::new",
    "RandomState",
];

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file without its comments and without its test module at the foot.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_string();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Modules named after `crate::` in `code`, also inside braces: `use crate::{base::x, net}`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in code.split("crate::").skip(1) {
        if let Some(group) = part.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut item)),
                    c if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            found.push(item);
        } else {
            found.push(part.to_string());
        }
    }
    found
        .iter()
        .map(|item| item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>())
        .filter(|name| !name.is_empty())
        .collect()
}

fn source() -> Vec<(String, PathBuf)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&src, &mut found);
    found
        .into_iter()
        .filter_map(|path| {
            let module = path.strip_prefix(&src).unwrap().components().next()?.as_os_str().to_str()?.to_string();
            (module != "bin" && module != "lib.rs").then_some((module, path))
        })
        .collect()
}

#[test]
fn modules_import_only_from_lower_floors() {
    let mut faults = Vec::new();
    for (module, path) in source() {
        let Some(here) = floor_of(&module) else {
            faults.push(format!("{} is on no floor", path.display()));
            continue;
        };
        for name in imports(&code(&path)) {
            if let Some(there) = floor_of(&name)
                && name != module
                && there >= here
            {
                faults.push(format!("{}: {module} (floor {here}) imports {name} (floor {there})", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn cores_know_no_clock_socket_file_thread_or_random_order() {
    let mut faults = Vec::new();
    for (module, path) in source() {
        if floor_of(&module).is_some_and(|floor| floor <= 3) {
            let code = code(&path);
            faults.extend(
                IMPURE.iter().filter(|word| code.contains(**word)).map(|word| format!("{}: {word}", path.display())),
            );
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn below_the_engine_nobody_holds_a_key() {
    let mut faults = Vec::new();
    for (module, path) in source() {
        if floor_of(&module).is_some_and(|floor| (2..=4).contains(&floor)) {
            let code = code(&path);
            for word in ["ReadKey", "content::cipher", "ConvergenceSecret"] {
                if code.contains(word) {
                    faults.push(format!("{}: {word}", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_scan_sees_what_it_should() {
    assert_eq!(imports("use crate::{net::x, base::{a, b}, store};"), ["net", "base", "store"]);
    assert_eq!(imports("let x = crate::engine::Engine::start();"), ["engine"]);
    assert!(source().len() > 10);
}
