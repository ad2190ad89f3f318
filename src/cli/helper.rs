//! `mount.tornet SOURCE MOUNTPOINT [-sfnv] [-o OPTIONS]`: how mount(8), and with it fstab and systemd, call a file system's own program.
//! It is `tornet-mount` under another name, and becomes a call of that.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// What mount(8) looks for in `/sbin`.
const NAME: &str = "mount.tornet";

/// Options of ours that are arguments of `tornet-mount`, not mount options.
const VALUES: [&str; 4] = ["data-dir", "config", "listen", "bootstrap"];

/// The settings of a mount that has its data directory for a source.
const SYSTEM_CONFIG: &str = "/etc/tornet/config.toml";

/// What a call comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// These are arguments of `tornet-mount`, with the program's name.
    Mount(Vec<OsString>),
    /// Nothing is to be mounted: mount(8) was only trying (`-f`).
    Nothing,
}

/// What the program was called to do.
pub(super) fn call(args: Vec<OsString>) -> Result<Call, String> {
    let called = args.first().and_then(|name| Path::new(name).file_name()).is_some_and(|name| name == NAME);
    if called { translate(args.into_iter().skip(1)) } else { Ok(Call::Mount(args)) }
}

fn translate(args: impl Iterator<Item = OsString>) -> Result<Call, String> {
    let usage = || format!("usage: {NAME} SOURCE MOUNTPOINT [-sfnv] [-o OPTIONS]");
    let (mut plain, mut given, mut kept) = (Vec::new(), vec![OsString::from("tornet-mount")], Vec::new());
    let (mut args, mut fake) = (args, false);
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        match bytes {
            b"-o" => {
                let list = args.next().ok_or_else(usage)?;
                for option in list.as_bytes().split(|byte| *byte == b',') {
                    let value = VALUES.iter().find_map(|name| {
                        Some((name, option.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.to_vec()))
                    });
                    match value {
                        Some((name, value)) => {
                            given.extend([format!("--{name}").into(), OsString::from_vec(value)]);
                        }
                        None => kept.push(option.to_vec()),
                    }
                }
            }
            // The kind of file system and the name space of the mount, which mount(8) has seen to.
            b"-t" | b"-N" => drop(args.next().ok_or_else(usage)?),
            [b'-', letters @ ..] if !letters.is_empty() && letters.iter().all(|letter| b"sfnv".contains(letter)) => {
                fake |= letters.contains(&b'f');
            }
            [b'-', ..] => return Err(format!("{}: {}", usage(), arg.to_string_lossy())),
            _ => plain.push(arg),
        }
    }
    let [source, point]: [OsString; 2] = plain.try_into().map_err(|_| usage())?;
    // By its source mount(8) knows a line of fstab that is mounted already.
    if source.to_str().is_some() {
        given.extend(["--source".into(), source.clone()]);
    }
    // A source that is a path is the data directory, and the mount the system's, not a user's; any other word, such as `none`, says nothing.
    if source.as_bytes().starts_with(b"/") {
        if !given.iter().any(|arg| arg == "--config") {
            given.extend(["--config".into(), SYSTEM_CONFIG.into()]);
        }
        given.extend(["--data-dir".into(), source]);
    }
    given.extend(["-o".into(), OsString::from_vec(kept.join(&b','))]);
    given.extend(["--".into(), point]);
    Ok(if fake { Call::Nothing } else { Call::Mount(given) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(line: &str) -> Result<Call, String> {
        call(line.split(' ').map(OsString::from).collect())
    }

    fn mounts(line: &str) -> String {
        let Call::Mount(args) = called(line).unwrap() else { panic!("nothing is mounted") };
        args.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn a_call_of_mount_becomes_one_of_tornet_mount() {
        assert_eq!(
            mounts("/sbin/mount.tornet /srv/tornet /mnt/net -o rw,allow_other,config=/etc/tornet.toml,_netdev"),
            "tornet-mount --config /etc/tornet.toml --source /srv/tornet --data-dir /srv/tornet -o rw,allow_other,_netdev -- /mnt/net"
        );
        assert_eq!(
            mounts("mount.tornet /srv /mnt -o defaults"),
            "tornet-mount --source /srv --config /etc/tornet/config.toml --data-dir /srv -o defaults -- /mnt"
        );
        assert_eq!(mounts("mount.tornet none /mnt -nv -t tornet -o ro"), "tornet-mount --source none -o ro -- /mnt");
    }

    #[test]
    fn other_names_leave_the_arguments_alone() {
        assert_eq!(mounts("tornet-mount -f /mnt"), "tornet-mount -f /mnt");
    }

    #[test]
    fn trying_mounts_nothing_and_a_wrong_call_says_how() {
        assert_eq!(called("mount.tornet none /mnt -f -o rw"), Ok(Call::Nothing));
        for line in
            ["mount.tornet none", "mount.tornet none /mnt -o", "mount.tornet none /mnt -x", "mount.tornet a b c"]
        {
            assert!(called(line).unwrap_err().starts_with("usage"), "{line}");
        }
    }
}
