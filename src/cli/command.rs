//! The one definition of both programs' commands: `--help`, the manual pages and the completions are made from it.

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where things are.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Identity, own tree, store and control socket lie here [default: ~/.local/share/tornet]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, global = true)]
    pub data_dir: Option<PathBuf>,
    /// Configuration file [default: ~/.config/tornet/config.toml]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    pub config: Option<PathBuf>,
}

/// How a node meets others.
#[derive(Debug, Clone, Args, Default)]
pub struct Meet {
    /// UDP address to listen at; port 0 takes any free one
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Address of a node to begin with, as another node prints it; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub bootstrap: Vec<String>,
    /// Log decisions too, not only events
    #[arg(short, long)]
    pub verbose: bool,
    /// End when the process of this number, which started this one, ends
    #[arg(long, hide = true, value_name = "PID")]
    pub die_with_parent: Option<i32>,
}

/// Mount the swarm as a folder: what is copied into it is published; any reference opens under ref/.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "tornet-mount",
    version,
    max_term_width = 100,
    after_help = "\
Returns once the mount serves; the node then runs in the background until it is unmounted. \
If a node with this data directory runs already, it is mounted here as well. \
Everything else is `tornet COMMAND`; see tornet(1) and tornet(7)."
)]
pub struct MountProgram {
    #[command(flatten)]
    /// Where things are.
    pub place: Place,
    #[command(flatten)]
    /// How a node meets others.
    pub meet: Meet,
    /// Stay in the foreground, log to the standard error, and print `ready ADDR` once the mount serves
    #[arg(short, long)]
    pub foreground: bool,
    /// Mount options, separated by commas
    #[arg(
        short,
        value_name = "OPTS",
        value_hint = ValueHint::Other,
        long_help = "\
Mount options, separated by commas: ro, noexec, noatime, nonempty (the mount point may hold files, which are hidden), allow_other (other users may \
enter; the kernel checks permissions), writeback (the kernel gathers small writes), threads=N, nopassthrough (the kernel does \
not read own files by itself); and those that need no action here (rw, exec, nosuid, nodev, auto, noauto, user, nofail, _netdev, defaults, x-*)."
    )]
    pub options: Vec<String>,
    /// An empty directory; made if it is not there
    #[arg(value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath)]
    pub mountpoint: PathBuf,
    /// The process that the foreground one left behind: reports to it over the standard output.
    #[arg(long, hide = true)]
    pub report: bool,
    /// What the mount table is to name as the source: as fstab has it, so that mount(8) knows its line again.
    #[arg(long, hide = true)]
    pub source: Option<String>,
}

/// Publish, fetch and look after files in the tornet swarm.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "tornet",
    version,
    max_term_width = 100,
    after_help = "\
The folder itself is made by tornet-mount(1). Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. See tornet(7)."
)]
pub struct Program {
    #[command(flatten)]
    /// Where things are.
    pub place: Place,
    /// Print JSON for programs to read, one value on a line
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `tornet` does.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Print the reference of a file or directory in the mount
    ///
    /// Whoever has the reference can read the tree. Waits until the file is sealed, if it was changed just now.
    Ref {
        /// In the own tree or under ref/
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
        /// Print its verify reference instead: whoever has that can find and count the chunks, but read nothing
        #[arg(long)]
        verify: bool,
    },
    /// Publish files or directories without copying them into the mount
    ///
    /// Prints the reference of each, alone on a line (with --json an object on a line for each). Without a running node, use --wait: this command then serves by
    /// itself until other nodes host what it published.
    Publish {
        /// Files or directories
        #[arg(required = true, value_hint = ValueHint::AnyPath)]
        paths: Vec<PathBuf>,
        /// Return only when other nodes hold it and find it, as far as there are enough of them; fail where they are too
        /// few to read it without this node
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        /// How a node meets others, when none is running.
        meet: Meet,
    },
    /// Fetch a file or directory
    ///
    /// An interrupted fetch goes on where it stopped when it is repeated with the same DEST. A file that is there is replaced once the new one is whole. Works without a running node.
    Get {
        /// A reference of a file, a directory or a name: tornet1...
        reference: String,
        /// Name that it gets here; a symbolic link is followed [default: the reference's first letters]
        #[arg(value_hint = ValueHint::AnyPath)]
        dest: Option<PathBuf>,
        #[command(flatten)]
        /// How a node meets others, when none is running.
        meet: Meet,
    },
    /// Fetch everything under a reference and keep it until unpinned
    Pin {
        /// A reference: tornet1...
        reference: String,
    },
    /// No longer keep what was pinned
    Unpin {
        /// A reference: tornet1...
        reference: String,
    },
    /// Have other nodes prove that they hold a tree, and count what is whole, weak and lost
    ///
    /// Of every chunk somebody who says that he has it is asked for a part, chosen by chance; the tree is not downloaded. Parts that fewer nodes
    /// hold than should are weak. What this node hosts itself counts, too.
    Verify {
        /// A reference, or a verify reference as `tornet ref --verify` prints it
        reference: String,
    },
    /// Make what is missing of a tree from the rest, and have it hosted
    ///
    /// As long as enough chunks of a part are left, the others are made of them. It takes no key to read the tree: anybody who has its verify
    /// reference can do it. What is published or pinned here is repaired without being asked.
    Repair {
        /// A reference, or a verify reference as `tornet ref --verify` prints it
        reference: String,
    },
    /// Show the health of the running node
    Status {
        /// Show it anew every second until interrupted
        #[arg(short, long)]
        watch: bool,
    },
    /// List the peers that the running node has a link with
    Peers,
    /// Show what the running node and each of its peers owe each other
    ///
    /// Both sides of a row agree on it by signed receipts, within a second after the last transfer.
    Balances,
    /// Pay a peer what is owed to it, or more in advance
    ///
    /// Asks the peer for an invoice and pays it within the limits of the configuration file; prints the name of the payment. Needs payments.enabled and an open wallet.
    Pay {
        /// The first digits of its name, as `tornet balances` shows it
        peer: String,
        /// How much, with its unit: "5000 sat" [default: what is owed]
        #[arg(value_parser = clap::value_parser!(crate::base::amount::Msat))]
        amount: Option<crate::base::amount::Msat>,
    },
    /// Allow payments beyond the limits, once
    ///
    /// For what cannot be read because a limit of [payments] keeps the peers that hold it from being paid: `tornet why` names the limit and the amount. Only peers that refuse a read of this reference are paid of it. It is used up by the payments that need it, also after a restart of the node; until then `tornet status` shows it. A further one for the same reference takes its place: 0 sat takes it back.
    Allow {
        /// What is to be read: a reference
        reference: String,
        /// How much, fees included, with its unit: "5000 sat"
        #[arg(value_parser = clap::value_parser!(crate::base::amount::Msat))]
        amount: crate::base::amount::Msat,
        /// Says that it holds once; there is no other way
        #[arg(long, required = true)]
        once: bool,
    },
    /// List this node's payments to its peers, the newest first
    Payments,
    /// Print the audit log: everything that happened to money, the oldest first
    Audit {
        /// As comma-separated values with a line of headings
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
    /// Explain why a path could not be read, or is not published yet
    Why {
        /// In the mount
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
    },
    /// Run a node without a mount, in the foreground
    ///
    /// Prints one line `ready ADDR` once it serves; ADDR is what other nodes bootstrap from.
    Node {
        #[command(flatten)]
        /// How a node meets others.
        meet: Meet,
    },
    /// Unmount, and wait until the node has written everything down and ended
    ///
    /// Waits for programs that are writing; names the programs that hold the mount.
    Umount {
        /// Needed only if the node is gone; otherwise it is where the running node is mounted
        #[arg(value_hint = ValueHint::DirPath)]
        mountpoint: Option<PathBuf>,
        /// How long to wait for programs that are writing
        #[arg(long, value_name = "DURATION", default_value = "1 min")]
        wait: crate::base::units::Span,
    },
    /// End the running node, mounted or not
    Stop,
    /// Run N real nodes on this machine, for trying and testing, until interrupted
    ///
    /// Each is a process of its own with a data directory of its own, on the loopback interface; all of them end with this one,
    /// and this one with the process that started it, unless that was nohup(1). They have settings of their own.
    Swarm {
        /// How many
        #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
        count: u16,
        /// Mount the last of them here
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        mount: Option<PathBuf>,
        /// Keep the data directories here [default: a temporary one, removed at the end]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
        /// Start a bitcoin full node on regtest besides, and give every node a wallet with some coins
        ///
        /// The program is the bitcoind of Bitcoin Core or Bitcoin Knots as the shell would find it, or the one that is named. Payments are on: a price in
        /// the config.toml of a node's directory takes effect at once.
        #[arg(long, value_name = "BITCOIND", num_args = 0..=1, require_equals = true, default_missing_value = "bitcoind", value_hint = ValueHint::FilePath)]
        bitcoin: Option<PathBuf>,
        /// Known, so that it is refused with a reason, and not offered.
        #[arg(long, hide = true)]
        data_dir: Option<PathBuf>,
        /// The same.
        #[arg(long, hide = true)]
        config: Option<PathBuf>,
    },
    /// Make, keep and use the node's bitcoin wallet
    ///
    /// It is for what a node earns from its peers and pays to them: a purse, not a place for savings.
    Wallet {
        /// What to do.
        #[command(subcommand)]
        command: WalletCommand,
    },
    /// Make, follow and list mutable names
    ///
    /// A reference is of bytes that never change. A name stays the same while what it leads to moves: make one for a directory of yours, pass its reference on, and whoever follows it finds below names/ of his mount what you published there last.
    Name {
        /// What to do.
        #[command(subcommand)]
        command: NameCommand,
    },
    /// Print the settings in force and where each came from
    ///
    /// Those of the running node, and on the standard error what would be otherwise if it were started here and now; without a running node
    /// those with which one would start.
    Config,
    /// Print a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Become another program, which ends with the process that started this one
    #[command(hide = true)]
    Along {
        /// The number of that process
        parent: i32,
        /// Which program
        program: PathBuf,
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man {
        /// Where
        dir: PathBuf,
    },
}

/// What `tornet name` does.
#[derive(Debug, Clone, Subcommand)]
pub enum NameCommand {
    /// Make a name for a file or directory of the own tree
    ///
    /// Prints the reference of the name, which never changes: whoever has it can follow the name and read what it leads to, but not move it. From then on it leads to what was published of PATH last, within seconds. Other nodes keep it for as long as this one or anybody who follows it is there at least once in a day and a half.
    ///
    /// The keys of a name come from the node's identity (the file `identity` of its data directory) and from NAME: who keeps a copy of that file can make the name again, with the same reference.
    Create {
        /// What it is called below names/ here
        name: String,
        /// A file or directory below the mount's own tree, or a symbolic link there to one [default: all of it]
        #[arg(value_hint = ValueHint::AnyPath)]
        path: Option<PathBuf>,
    },
    /// Follow somebody's name: what it leads to is at names/NAME of the mount
    Follow {
        /// What it is called here; it need not be what its owner calls it
        name: String,
        /// The reference of the name: tornet1...
        reference: String,
    },
    /// List the names that are one's own or followed, and where they lead
    List,
    /// Forget a name
    ///
    /// One of your own is moved no longer; its last state is found until nobody has told of it for a day and a half.
    Remove {
        /// Which
        name: String,
    },
}

/// What `tornet wallet` does.
#[derive(Debug, Clone, Subcommand)]
pub enum WalletCommand {
    /// Make a new wallet: shows its words once, and asks for some of them
    ///
    /// The words go onto paper; the file is encrypted under a passphrase. Neither is ever taken from an argument or the environment. A running node opens the wallet at once.
    Setup {
        /// Print the words on the standard output and ask for nothing, for scripts
        #[arg(long)]
        unconfirmed: bool,
    },
    /// Print an address to be paid at, another each time
    Address,
    /// Show what there is
    Balance,
    /// List what came and went, the newest first
    History,
    /// Pay somebody
    ///
    /// Prints the name of the transaction. Only what is in blocks can be spent.
    Send {
        /// Whom, as they give it
        address: String,
        /// How much, with its unit: "50000 sat"
        #[arg(value_parser = clap::value_parser!(crate::base::amount::Msat))]
        amount: crate::base::amount::Msat,
        /// What may be paid to miners besides
        #[arg(long, value_name = "AMOUNT", default_value = "2000 sat")]
        fee_max: crate::base::amount::Msat,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Pay a higher fee for what no block holds yet
    ///
    /// What was sent is sent again at a higher rate, and takes its own place. Prints the name of the new transaction. Payments to peers keep to `fee_rate_max` and `fee_share_max` of [payments].
    Bump {
        /// Which: its name in `tornet payments`, or the transaction as `tornet wallet send` printed it; the first digits are enough
        payment: String,
        /// The new rate, with its unit: "5 sat/vB"; without it, what miners want at present
        #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(crate::base::units::FeeRate))]
        rate: Option<crate::base::units::FeeRate>,
        /// What the fee may be in all; for a payment by hand at most 2000 sat if nothing is said
        #[arg(long, value_name = "AMOUNT")]
        fee_max: Option<crate::base::amount::Msat>,
    },
    /// Open the wallet of the running node, until that ends
    ///
    /// Asks for the passphrase, unless it is in a file (`passphrase_file` in [payments]) or a systemd credential of the name tornet-wallet.
    Unlock,
    /// Show the words again, copy the encrypted file, or check the words
    ///
    /// Without a file and without --check it prints the words.
    Backup {
        /// A new file, for the encrypted seed; it opens with the wallet's passphrase
        #[arg(value_hint = ValueHint::FilePath, conflicts_with = "check")]
        file: Option<PathBuf>,
        /// Ask for the words as they are written down, and tell whether they are right
        #[arg(long)]
        check: bool,
    },
    /// Bring a wallet back, from its words or from a copy of its file
    ///
    /// Without a file the words are asked for, or read from the standard input. What was being paid when the wallet was lost is found only if it reached the network.
    Restore {
        /// What `tornet wallet backup FILE` wrote
        #[arg(value_hint = ValueHint::FilePath)]
        backup: Option<PathBuf>,
        /// How many addresses may have been handed out
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        addresses: u32,
        /// The block at which it may have been paid first; used with backend = "bitcoind"
        #[arg(long, value_name = "HEIGHT", default_value_t = 0)]
        since: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_sound() {
        MountProgram::command().debug_assert();
        Program::command().debug_assert();
    }

    #[test]
    fn what_scripts_rely_on_is_accepted() {
        let mount = MountProgram::try_parse_from([
            "tornet-mount",
            "--data-dir",
            "d",
            "--config",
            "c",
            "--listen",
            "127.0.0.1:0",
            "--bootstrap",
            "a",
            "--bootstrap",
            "b",
            "-f",
            "-o",
            "ro,noexec",
            "m",
        ]);
        let mount = mount.unwrap();
        assert_eq!((mount.meet.bootstrap.len(), mount.foreground), (2, true));
        for line in [
            "tornet --data-dir d status --json",
            "tornet --data-dir d --config c node --listen 127.0.0.1:0 --bootstrap a",
            "tornet node --data-dir d --config c --listen 127.0.0.1:0 --bootstrap a",
            "tornet publish p --wait",
            "tornet get r dest",
            "tornet umount",
            "tornet swarm 13 --mount m --json --dir d",
        ] {
            Program::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        assert_eq!(Program::try_parse_from(["tornet", "swarm", "0"]).unwrap_err().exit_code(), 2);
    }
}
