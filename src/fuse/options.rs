//! The `-o` options of a mount.

use super::table::SOURCE;
use thiserror::Error;

/// How a file system is mounted. Set-user-id bits and device nodes are never honoured.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// Nothing can be changed.
    pub read_only: bool,
    /// Other users may enter; the kernel then checks their permissions.
    pub allow_other: bool,
    /// Programs in it are not run.
    pub no_exec: bool,
    /// Times of access are not updated.
    pub no_atime: bool,
    /// The mount point may have files in it, which the mount hides.
    pub non_empty: bool,
    /// The kernel gathers small writes and writes them later.
    pub writeback: bool,
    /// Every byte of the own tree passes through this process, also where the kernel could do without.
    pub no_passthrough: bool,
    /// Threads that take requests; by default as many as suit the machine.
    pub threads: Option<usize>,
    /// What the mount table names as its source.
    pub source: Option<String>,
}

/// The option in which two mounts of one file system may not differ and do, and whether the first has it.
pub(super) fn difference(first: &MountOptions, further: &MountOptions) -> Option<(bool, &'static str)> {
    let threads = further.threads.is_some() && further.threads != first.threads;
    let pairs = [
        (first.allow_other, further.allow_other, "allow_other"),
        (first.writeback, further.writeback, "writeback"),
        (first.no_passthrough, further.no_passthrough, "nopassthrough"),
        (false, threads, "that many threads"),
    ];
    pairs.into_iter().find(|(first, further, _)| first != further).map(|(first, _, option)| (first, option))
}

/// An option that cannot be followed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OptionError {
    /// Not an option at all.
    #[error(
        "unknown mount option '{0}'; known are ro, rw, allow_other, noexec, exec, noatime, nonempty, writeback, nopassthrough, threads=N"
    )]
    Unknown(String),
    /// An option whose value makes no sense.
    #[error("mount option '{0}' needs a number from 1 to 64, such as threads=4")]
    Number(String),
    /// Never done here.
    #[error("mount option '{0}' is refused: files of others could then act with your rights")]
    Unsafe(String),
}

impl MountOptions {
    /// The options of these lists, the last word on each counting.
    pub fn of(lists: &[String]) -> Result<MountOptions, OptionError> {
        let mut options = MountOptions::default();
        lists.iter().try_for_each(|list| options.add(list))?;
        Ok(options)
    }

    /// What the mount table names as its source.
    pub(super) fn source(&self) -> &str {
        self.source.as_deref().unwrap_or(SOURCE)
    }

    /// Adds the options of a comma-separated list, as `-o` and fstab give it.
    pub fn add(&mut self, list: &str) -> Result<(), OptionError> {
        for option in list.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            match option {
                "ro" => self.read_only = true,
                "rw" => self.read_only = false,
                "allow_other" => self.allow_other = true,
                "noexec" => self.no_exec = true,
                "exec" => self.no_exec = false,
                "noatime" => self.no_atime = true,
                "atime" | "relatime" => self.no_atime = false,
                "nonempty" => self.non_empty = true,
                "writeback" => self.writeback = true,
                "nopassthrough" => self.no_passthrough = true,
                // Always so; and words for mount(8) and systemd, not for us.
                "nosuid"
                | "nodev"
                | "default_permissions"
                | "defaults"
                | "async"
                | "auto"
                | "noauto"
                | "user"
                | "nouser"
                | "users"
                | "_netdev"
                | "nofail" => {}
                "suid" | "dev" => return Err(OptionError::Unsafe(option.into())),
                _ if option.starts_with("x-") || option.starts_with("comment=") => {}
                _ => match option.strip_prefix("threads=") {
                    Some(number) => {
                        let number = number.parse().ok().filter(|number| (1..=64).contains(number));
                        self.threads = Some(number.ok_or_else(|| OptionError::Number(option.into()))?);
                    }
                    None => return Err(OptionError::Unknown(option.into())),
                },
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_add_up_and_the_last_word_counts() {
        let mut options = MountOptions::default();
        options.add("ro,allow_other,noexec").unwrap();
        options.add("rw,x-systemd.automount,,threads=3").unwrap();
        assert!(!options.read_only && options.allow_other && options.no_exec);
        assert_eq!(options.threads, Some(3));
    }

    #[test]
    fn what_the_kernel_sees_to_in_each_place_may_differ_and_nothing_else() {
        let options = |list: &str| {
            let mut options = MountOptions::default();
            options.add(list).unwrap();
            options
        };
        let differs = |first: &str, further: &str| difference(&options(first), &options(further));
        assert_eq!(differs("", "ro,noexec,noatime,nonempty"), None);
        assert_eq!(differs("allow_other,threads=3", "allow_other"), None);
        assert_eq!(differs("ro,noexec", ""), None);
        assert_eq!(differs("allow_other", ""), Some((true, "allow_other")));
        assert_eq!(differs("", "writeback"), Some((false, "writeback")));
        assert!(differs("threads=3", "threads=4").is_some());
    }

    #[test]
    fn an_option_that_cannot_be_followed_is_named() {
        let refused = |list: &str| MountOptions::default().add(list).unwrap_err().to_string();
        assert!(refused("ro,bogus=1").contains("'bogus=1'"));
        assert!(refused("suid").contains("refused"));
        assert!(refused("threads=none").contains("number"));
    }
}
