//! Where things are: the data directory and the configuration file, by flag, environment and the XDG rules.

use super::{Environment, Setting, Source};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Nothing says where the user's files are.
    #[error("neither HOME nor {variable} is set: say where with {flag}")]
    NoHome {
        /// The variable that would do.
        variable: &'static str,
        /// The flag that would do.
        flag: &'static str,
    },
    /// The data directory cannot be made or looked at.
    #[error("cannot use the data directory {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a directory.
    #[error("the data directory {0} is not a directory")]
    NotDirectory(PathBuf),
    /// Others may look inside.
    #[error("the data directory {path} is open to others (mode {mode:04o}): run `chmod 700 {path}`")]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is somebody else's.
    #[error("the data directory {path} belongs to user {owner}, not to you: choose another with --data-dir")]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
}

fn place(
    flag: (Option<&Path>, &'static str),
    own_variable: &'static str,
    env: Environment<'_>,
    xdg: (&'static str, &str),
    rest: &str,
) -> Result<Setting<PathBuf>, PlaceError> {
    if let (Some(path), name) = flag {
        return Ok(Setting { value: path.to_path_buf(), source: Source::Flag(name) });
    }
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(path) = set(own_variable) {
        return Ok(Setting { value: path.into(), source: Source::Environment(own_variable) });
    }
    // The XDG rules: a relative path is to be ignored.
    let base = match set(xdg.0).map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(base) => base,
        None => match set("HOME").map(PathBuf::from).filter(|path| path.is_absolute()) {
            Some(home) => home.join(xdg.1),
            None => return Err(PlaceError::NoHome { variable: xdg.0, flag: flag.1 }),
        },
    };
    Ok(Setting { value: base.join(rest), source: Source::Default })
}

/// The data directory; not made yet.
pub fn data_dir(flag: Option<&Path>, env: Environment<'_>) -> Result<Setting<PathBuf>, PlaceError> {
    place((flag, "--data-dir"), "TORNET_DATA_DIR", env, ("XDG_DATA_HOME", ".local/share"), "tornet")
}

/// The configuration file; need not exist.
pub fn config_file(flag: Option<&Path>, env: Environment<'_>) -> Result<Setting<PathBuf>, PlaceError> {
    place((flag, "--config"), "TORNET_CONFIG", env, ("XDG_CONFIG_HOME", ".config"), "tornet/config.toml")
}

/// Makes the data directory, mode 0700, if it is not there, and returns its absolute path; refuses one that others own
/// or can look into.
pub fn make_data_dir(path: &Path) -> Result<PathBuf, PlaceError> {
    let failed = |source| PlaceError::Io { path: path.to_path_buf(), source };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| if path.exists() { PlaceError::NotDirectory(path.to_path_buf()) } else { failed(source) })?;
    let found = std::fs::metadata(path).map_err(failed)?;
    let mode = found.permissions().mode() & 0o7777;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(PlaceError::Foreign { path: path.to_path_buf(), owner: found.uid() });
    }
    if mode & 0o077 != 0 {
        return Err(PlaceError::Open { path: path.to_path_buf(), mode });
    }
    path.canonicalize().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_xdg_rules_are_followed() {
        let home = |name: &str| (name == "HOME").then(|| "/home/x".to_string());
        let xdg = |name: &str| match name {
            "HOME" => Some("/home/x".to_string()),
            "XDG_CONFIG_HOME" => Some("/etc/x".to_string()),
            "XDG_DATA_HOME" => Some("relative".to_string()),
            _ => None,
        };
        assert_eq!(config_file(None, &home).unwrap().value, Path::new("/home/x/.config/tornet/config.toml"));
        assert_eq!(config_file(None, &xdg).unwrap().value, Path::new("/etc/x/tornet/config.toml"));
        assert_eq!(data_dir(None, &xdg).unwrap().value, Path::new("/home/x/.local/share/tornet"));
        assert_eq!(data_dir(Some(Path::new("/d")), &xdg).unwrap().source, Source::Flag("--data-dir"));
        assert_eq!(
            data_dir(None, &|_| None).unwrap_err().to_string(),
            "neither HOME nor XDG_DATA_HOME is set: say where with --data-dir"
        );
    }

    #[test]
    fn a_data_directory_is_made_private_and_refused_when_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let made = make_data_dir(&path).unwrap();
        assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = make_data_dir(&path).unwrap_err().to_string();
        assert!(error.contains("is open to others (mode 0755): run `chmod 700"), "{error}");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(make_data_dir(&file), Err(PlaceError::NotDirectory(_))));
    }
}
