//! What a file, variables and flags come to.

use super::*;
use crate::base::bitcoin::{BitcoinNetwork, Sat};
use crate::base::units::FeeRate;
use crate::content::erasure::Scheme;
use crate::wallet::PayConfig;
use std::collections::BTreeMap;

fn load(text: &str, env: &[(&str, &str)], flags: Flags) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let mut map: BTreeMap<String, String> =
        env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    map.insert("HOME".into(), "/home/x".into());
    map.insert("TORNET_CONFIG".into(), path.display().to_string());
    let shown = path.display().to_string();
    Settings::load(&flags, &|name| map.get(name).cloned()).map_err(|e| e.to_string().replace(&shown, "FILE"))
}

fn refused(text: &str) -> String {
    load(text, &[], Flags::default()).unwrap_err()
}

#[test]
fn with_nothing_configured_the_defaults_hold() {
    let settings = load("", &[], Flags::default()).unwrap();
    assert_eq!(settings.data_dir.value, Path::new("/home/x/.local/share/tornet"));
    assert_eq!(settings.cache, Setting { value: Size(20 << 30), source: Source::Default });
    assert_eq!(settings.convergence.value, Convergence::Private);
    assert!(settings.mdns.value && settings.listen.value.flexible);
    assert_eq!(settings.list().len(), 43);
    assert_eq!(settings.upload.value, Upload(None));
    assert_eq!((settings.price.value, settings.newcomers.value), (GibPrice::default(), Size(1 << 30)));
}

#[test]
fn a_flag_beats_the_environment_beats_the_file() {
    let file = "[storage]\ncache = \"1 GiB\"\nredundancy = \"4+2\"\n[network]\nport = 1000\nmdns = false\n";
    let flags = Flags { listen: Some("127.0.0.1:9".parse().unwrap()), ..Flags::default() };
    let env = [("TORNET_STORAGE_CACHE", "2 GiB"), ("TORNET_NETWORK_PORT", "2000")];
    let settings = load(file, &env, flags).unwrap();
    assert_eq!(settings.cache.value, Size(2 << 30));
    assert_eq!(settings.cache.source, Source::Environment("TORNET_STORAGE_CACHE"));
    assert_eq!(settings.redundancy.value, Redundancy::Fixed(Scheme { k: 4, m: 2 }));
    assert!(matches!(&settings.redundancy.source, Source::File(_, at) if (at.line, at.column) == (3, 14)));
    assert_eq!(settings.listen.value.addr.port(), 9);
    assert!(!settings.mdns.value);
}

#[test]
fn a_bad_file_is_refused_with_line_and_column() {
    assert_eq!(
        refused("[storage]\ncahce = \"1 GiB\"\n"),
        "FILE:2:1: unknown key `cahce` in [storage]; known here: cache, hosting, redundancy, convergence"
    );
    assert_eq!(
        refused("[strange]\n"),
        "FILE:1:2: unknown section [strange]; known: [storage], [market], [repair], [network], [credit], [payments]"
    );
    assert_eq!(
        refused("[network]\ndownload = \"1 Mbit/s\"\n"),
        "FILE:2:1: `download` in [network] is not in this version yet"
    );
    assert_eq!(
        refused("[credit]\nprice = \"10\"\n"),
        "FILE:2:9: credit.price: \"10\" has no unit: write a price as in \"10 sat/GiB\" (units: msat/GiB, sat/GiB, msat/MiB, sat/MiB)"
    );
    assert_eq!(
        refused("[credit]\nhost_price = \"1 sat/GiB\"\n"),
        "FILE:2:14: credit.host_price: it is charged together with what is read, which is free here: set credit.price, too"
    );
    assert_eq!(
        refused("\n[payments]\ndeny_programs = []\n"),
        "FILE:3:1: `deny_programs` in [payments] is not in this version yet"
    );
    assert_eq!(
        refused("[storage]\ncache = \"20\"\n"),
        "FILE:2:9: storage.cache: \"20\" has no unit: write a size as in \"20 GiB\" (units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB, PiB)"
    );
    assert_eq!(refused("[storage]\ncache = 20\n"), "FILE:2:9: `cache` in [storage] must be text in quotes");
    assert_eq!(
        refused("[network]\nport = 70000\n"),
        "FILE:2:8: network.port: \"70000\" is no port: write a number from 0 to 65535"
    );
    assert_eq!(
        refused("[storage]\nconvergence = \"open\"\n"),
        "FILE:2:15: storage.convergence: \"open\" is neither \"private\" nor \"public\""
    );
    assert_eq!(
        refused("[network]\nbootstrap = [\"127.0.0.1:4000\"]\n"),
        "FILE:2:14: network.bootstrap: \"127.0.0.1:4000\": not a node's address: those are written tornet1...@IP:PORT, as `tornet status` prints them"
    );
    assert!(refused("[storage\n").starts_with("FILE:1:9: "), "{}", refused("[storage\n"));
    assert!(refused("cache = 1\n").starts_with("FILE:1:1: `cache` stands outside a section"));
}

#[test]
fn payments_are_off_until_turned_on_and_their_limits_carry_units() {
    let settings = load("", &[], Flags::default()).unwrap();
    let terms = settings.terms.terms(BitcoinNetwork::Signet);
    assert_eq!(terms, PayConfig::default());
    assert!(!terms.enabled);
    let file = "[credit]\nmax_price = \"1 sat/GiB\"\n[payments]\nenabled = true\nmax_price = \"7 sat/GiB\"\nper_day = \"9000.5 sat\"\nconfirmations = 3\n";
    let settings = load(file, &[("TORNET_PAYMENTS_FEE_RATE_MAX", "2.5 sat/vB")], Flags::default()).unwrap();
    let terms = settings.terms.terms(BitcoinNetwork::Regtest);
    assert_eq!((terms.enabled, terms.price_max, terms.day_max), (true, Msat(7_000), Sat(9_000)));
    assert_eq!((terms.confirmations, terms.fee_rate_max), (3, FeeRate(2_500)));
    assert_eq!(settings.max_price.value, GibPrice(Msat(1_000)));
    let settings = load("[network]\nupload = \"8 Mbit/s\"\n", &[], Flags::default()).unwrap();
    assert_eq!(settings.upload.value, Upload(Some(Rate(8_000_000))));
    for (text, told) in [
        ("per_day = \"9000\"", "payments.per_day: \"9000\" has no unit"),
        ("confirmations = 0", "payments.confirmations: \"0\" is no number of blocks"),
        ("min_topup = \"545 sat\"", "payments.min_topup: 545 sat is less than what the network carries"),
        ("enabled = \"yes\"", "`enabled` in [payments] must be true or false"),
        ("[network]\nupload = \"8\"", "network.upload: \"8\" has no unit"),
        ("[network]\nupload = \"255 kbit/s\"", "network.upload: 255 kbit/s is less than anybody would wait for"),
    ] {
        let error = refused(&format!("[payments]\n{text}\n"));
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn a_schedule_is_one_text_or_a_list_and_what_is_wrong_in_it_has_a_place() {
    let list = "[network]\nschedule = [\n \"mon-fri 08:00-18:00 2 Mbit/s\",\n \"sat sun unlimited\",\n]\n";
    let text = "[network]\nschedule = \"mon-fri 08:00-18:00 2 Mbit/s, sat sun unlimited,\"\n";
    let settings = [list, text].map(|file| load(file, &[], Flags::default()).unwrap());
    for settings in &settings {
        assert_eq!(settings.schedule.value.to_string(), "mon-fri 08:00-18:00 2 Mbit/s, sat sun unlimited");
        assert!(matches!(&settings.schedule.source, Source::File(..)));
    }
    let none = load("[network]\nschedule = []\n", &[], Flags::default()).unwrap();
    assert_eq!((none.schedule.value, none.schedule.source), (Schedule::default(), Source::Default));
    let env = [("TORNET_NETWORK_SCHEDULE", "23:00 unlimited, 07:00 1 Mbit/s")];
    let settings = load(text, &env, Flags::default()).unwrap();
    assert_eq!(settings.schedule.value.to_string(), "23:00 unlimited, 07:00 1 Mbit/s");
    assert_eq!(
        refused("[network]\nschedule = [\n \"sun unlimited\",\n \"sun 22:00-04:00 1 Mbit/s\",\n]\n"),
        "FILE:4:2: network.schedule: \"sun unlimited\" and \"sun 22:00-04:00 1 Mbit/s\" both hold on sunday at 22:00: end one where the other begins"
    );
    assert_eq!(
        refused("[network]\nschedule = \"noon 1 Mbit/s\"\n"),
        "FILE:2:12: network.schedule: \"noon 1 Mbit/s\": \"noon\" is no day of the week (mon, tue, wed, thu, fri, sat, sun), as in \"mon-fri 08:00-18:00 2 Mbit/s\", \"sat sun unlimited\" or \"23:00 unlimited\""
    );
    assert_eq!(
        refused("[network]\nschedule = 8\n"),
        "FILE:2:12: `schedule` in [network] must be text in quotes, or a list of such texts"
    );
}

#[test]
fn chain_data_come_from_a_server_where_the_build_knows_its_kind() {
    let file = "[payments]\nnetwork = \"regtest\"\nbackend = \"electrum\"\n";
    #[cfg(feature = "electrum")]
    {
        use crate::chain::Backend;
        let source = |file: &str| load(file, &[], Flags::default()).unwrap().wallet.source();
        assert_eq!(source(file), Backend::Electrum { url: "tcp://127.0.0.1:60401".into() });
        let file = format!("{file}electrum = \"tcp://electrum.example:50001\"\n");
        assert_eq!(source(&file), Backend::Electrum { url: "tcp://electrum.example:50001".into() });
    }
    #[cfg(not(feature = "electrum"))]
    assert_eq!(
        refused(file),
        "FILE:3:11: payments.backend: this tornet was built without \"electrum\": build it with `cargo build --release --features electrum`, \
         or use \"p2p\" or \"bitcoind\""
    );
    // A file that names a server is good for any build, and what is wrong with it is said by any.
    let url = |text: &str| load(&format!("[payments]\nelectrum = \"{text}\"\n"), &[], Flags::default()).map(|_| ());
    assert_eq!(url("tcp://[::1]:50001"), Ok(()));
    for bad in ["127.0.0.1:50001", "tcp://127.0.0.1", "tcp://:50001", "tcp://x:50001/", "http://x:50001"] {
        assert!(url(bad).unwrap_err().contains("write it as in \"tcp://127.0.0.1:50001\""), "{bad}");
    }
    assert!(url("ssl://electrum.example:50002").unwrap_err().contains("a tunnel"));
    assert!(
        refused("[payments]\nbackend = \"core\"\n")
            .contains("payments.backend: \"core\" is none of \"p2p\", \"bitcoind\"")
    );
}

#[test]
fn esplora_server_is_asked_in_plain_text_on_this_machine_alone() {
    let file = "[payments]\nnetwork = \"regtest\"\nbackend = \"esplora\"\n";
    #[cfg(feature = "esplora")]
    {
        use crate::chain::Backend;
        let source = |file: &str| load(file, &[], Flags::default()).unwrap().wallet.source();
        assert_eq!(source(file), Backend::Esplora { url: "http://127.0.0.1:3002".into() });
        let file = format!("{file}esplora = \"https://esplora.example/api\"\n");
        assert_eq!(source(&file), Backend::Esplora { url: "https://esplora.example/api".into() });
    }
    #[cfg(not(feature = "esplora"))]
    assert_eq!(
        refused(file),
        "FILE:3:11: payments.backend: this tornet was built without \"esplora\": build it with `cargo build --release --features esplora`, \
         or use \"p2p\" or \"bitcoind\""
    );
    let url = |text: &str| load(&format!("[payments]\nesplora = \"{text}\"\n"), &[], Flags::default()).map(|_| ());
    for good in [
        "http://localhost:3000",
        "http://127.0.0.1:3000/api/",
        "http://[::1]:3000",
        "https://[2001:db8::1]/api",
        "https://x",
    ] {
        assert_eq!(url(good), Ok(()), "{good}");
    }
    for bad in [
        "127.0.0.1:3000",
        "http://",
        "tcp://127.0.0.1:3000",
        "https://x:y",
        "https://a@x",
        "https://x/?a",
        "https://x y",
    ] {
        assert!(url(bad).unwrap_err().contains("as in \"https://esplora.example/api\""), "{bad}");
    }
    for open in ["http://esplora.example/api", "http://192.0.2.7:3000", "http://127.0.0.1.example:3000"] {
        assert!(url(open).unwrap_err().contains("in plain text over the network: write https://"), "{open}");
    }
}

#[test]
fn a_bad_variable_is_named() {
    let error = load("", &[("TORNET_STORAGE_CACHE", "much")], Flags::default()).unwrap_err();
    assert_eq!(
        error,
        "environment variable TORNET_STORAGE_CACHE: storage.cache: \"much\" does not begin with a number: write a size as in \"20 GiB\""
    );
}

#[test]
fn cache_too_small_to_read_with_is_refused() {
    assert!(
        refused("[storage]\ncache = \"31 MiB\"\n").starts_with("FILE:2:9: storage.cache: 31 MiB is less than 32 MiB")
    );
    let settings = load("[storage]\ncache = \"32 MiB\"\n", &[], Flags::default()).unwrap();
    assert_eq!((settings.cache.value, settings.hosting.value), (CACHE_MIN, CACHE_MIN));
}

#[test]
fn hosting_is_a_part_of_the_cache() {
    let settings = load("[storage]\ncache = \"1 GiB\"\n", &[], Flags::default()).unwrap();
    assert_eq!(settings.hosting, Setting { value: Size(1 << 30), source: Source::Default });
    assert_eq!(
        refused("[storage]\nhosting = \"3 GiB\"\ncache = \"2 GiB\"\n"),
        "FILE:2:11: storage.hosting: 3 GiB is more than the whole cache of 2 GiB (FILE:3:9), of which it is a part"
    );
    assert!(load("[storage]\nhosting = \"2 GiB\"\ncache = \"2 GiB\"\n", &[], Flags::default()).is_ok());
}

#[test]
fn what_is_bought_is_little_unless_set_a_part_of_the_cache_and_can_be_turned_off() {
    let settings = load("[storage]\ncache = \"2 GiB\"\n", &[], Flags::default()).unwrap();
    let market = settings.market.market();
    assert_eq!((market.day_bytes_max, market.disk_bytes_max), (256 << 20, 512 << 20));
    let text = "[market]\nper_day = \"0 B\"\ndisk = \"3 GiB\"\n";
    let settings = load(text, &[("TORNET_MARKET_DISK", "4 GiB")], Flags::default()).unwrap();
    let market = settings.market.market();
    assert_eq!((market.day_bytes_max, market.disk_bytes_max), (0, 4 << 30));
    assert!(settings.list().iter().any(|(key, value, _)| *key == "market.per_day" && value == "0 B"));
    assert_eq!(
        refused("[market]\ndisk = \"3 GiB\"\n[storage]\ncache = \"2 GiB\"\n"),
        "FILE:2:8: market.disk: 3 GiB is more than the whole cache of 2 GiB (FILE:4:9), of which it is a part"
    );
    assert!(refused("[market]\nper_day = \"1 MiB\"\n").starts_with("FILE:2:11: market.per_day: 1 MiB is less than"));
    assert!(refused("[market]\nper_day = \"256\"\n").contains("no unit"));
    assert!(refused("[market]\nper_hour = \"1 MiB\"\n").contains("unknown key `per_hour` in [market]"));
}

#[test]
fn every_variable_that_is_read_is_known_and_others_are_told() {
    let asked = std::cell::RefCell::new(Vec::new());
    let env = |name: &str| {
        asked.borrow_mut().push(name.to_string());
        (name == "HOME").then(|| "/nowhere".to_string())
    };
    Settings::load(&Flags::default(), &env).unwrap();
    let asked = asked.into_inner();
    assert_eq!(unknown_variables(asked.iter().cloned()), Vec::<String>::new());
    assert!(VARIABLES.iter().all(|name| *name == "TORNET_LOG" || asked.iter().any(|asked| asked == name)));
    let given = ["TORNET_STORGE_CACHE", "HOME", "TORNET_LOG"].map(String::from);
    assert_eq!(unknown_variables(given.into_iter()), ["TORNET_STORGE_CACHE"]);
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let flags = Flags { config: Some("/nowhere/config.toml".into()), ..Flags::default() };
    assert_eq!(
        load("", &[], flags).unwrap_err(),
        "cannot read the configuration file /nowhere/config.toml: No such file or directory (os error 2)"
    );
}
