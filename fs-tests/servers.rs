//! The wallet and servers that know transactions by address, of each kind that is built in: they may be away, of another chain, or lie, and
//! nothing that they say counts beyond what they show. The rest of what must hold over them is in `wallet.rs`.

#![cfg(any(feature = "electrum", feature = "esplora"))]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use bdk_wallet::bitcoin::Amount;
use bdk_wallet::bitcoin::block::Header;
use bdk_wallet::bitcoin::hashes::Hash;
use harness::Lab;
use harness::bitcoin::Bitcoin;
use harness::server::{Liar, Lie, Server};
use harness::wallet::{COIN, FEE_MAX, PAID, Place, at_height, fund, id, rate, run, soon};
#[cfg(feature = "esplora")]
use std::io::{BufRead, BufReader};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;
use tornet::chain::{Backend, Chain, ChainConfig, ChainError, Network, folder};

async fn away<S: Server>() {
    let lab = Lab::new();
    let mut node = Bitcoin::start(&lab, "bitcoin");
    let place = Place::new(&lab, "wallet", S::source(&node));
    let chain = place.open_with_coin(&node).await;
    S::beside_mut(&mut node).stop();
    let url = S::beside(&node).url();
    let away = soon("a word of trouble", || chain.status().trouble).await;
    println!("{away}");
    assert!(away.starts_with(&format!("the {} server at {url} does not answer: ", S::KIND)), "{away}");
    let key = format!("set payments.{} to one that runs", S::KIND.to_lowercase());
    assert!(away.contains(&key), "{away}");
    let unsent = chain.prepare(id(1), &[(node.fresh(), PAID)], rate(2), FEE_MAX).await.unwrap();
    let sent = chain.broadcast(id(1)).await.unwrap_err();
    assert!(matches!(sent, ChainError::Broadcast(_)), "{sent}");
    S::beside_mut(&mut node).go_on();
    soon("the server is found again", || chain.status().trouble.is_none().then_some(())).await;
    soon("the payment at the node", || (node.waiting() == [unsent.txid.to_string()]).then_some(())).await;
}

async fn of_another_chain<S: Server>() {
    let lab = Lab::new();
    let node = Bitcoin::start(&lab, "bitcoin");
    let place = Place::new(&lab, "wallet", S::source(&node));
    let config = ChainConfig { network: Network::Signet, backend: place.backend.clone(), start: place.start };
    let chain = Chain::open(&folder(&place.data), place.seed(), config).await.unwrap();
    let trouble = soon("a word of trouble", || chain.status().trouble).await;
    println!("{trouble}");
    assert!(trouble.contains("follows another chain than that of the network signet"), "{trouble}");
    assert!(trouble.contains("set payments.network"), "{trouble}");
    assert!(!chain.status().synced && chain.status().height == 0);
    assert!(matches!(chain.fresh_address().await, Err(ChainError::Behind(_))));
}

/// A node, a wallet with a coin, and the liar that it believes nothing.
async fn with_a_liar<S: Server>() -> (Lab, Bitcoin, Liar, Chain) {
    let lab = Lab::new();
    let node = Bitcoin::start(&lab, "bitcoin");
    let liar = S::beside(&node).liar();
    let place = Place::new(&lab, "wallet", S::backend(liar.url.clone()));
    let chain = place.open_with_coin(&node).await;
    (lab, node, liar, chain)
}

/// Looks for a nonce with which it holds its work, or does not.
fn mine(header: &mut Header, well: bool) {
    while header.validate_pow(header.target()).is_ok() != well {
        header.nonce += 1;
    }
}

async fn told(chain: &Chain, below: u32, what: &str) {
    soon(what, || chain.status().trouble.filter(|trouble| trouble.contains(what))).await;
    assert!(chain.status().height < below && chain.balance().confirmed_sat == COIN);
}

async fn lies_about_blocks<S: Server>() {
    let (_lab, node, liar, chain) = with_a_liar::<S>().await;
    let best = || node.cli(&["getbestblockhash"]).parse().unwrap();
    // A block that holds no work; one whose content was changed; one that is another each time.
    let before = best();
    liar.forge(before, |header| mine(header, false));
    node.mine(1);
    let (newest, after) = (node.height(), best());
    told(&chain, newest, &format!("is not believed: block {newest} does not hold the work that it claims")).await;
    liar.forge(before, |header| {
        header.merkle_root = Hash::all_zeros();
        mine(header, true);
    });
    node.mine(1);
    told(&chain, newest, &format!("is not believed: block {} does not follow the one before it", newest + 1)).await;
    let mut number = 0;
    liar.forge(after, move |header| {
        number += 1;
        header.time += number;
        mine(header, true);
    });
    told(&chain, newest, "contradicts itself").await;
    liar.repent();
    soon("the truth", || (chain.status().height > newest).then_some(())).await;
}

async fn lies_about_payments<S: Server>() {
    let (_lab, node, liar, chain) = with_a_liar::<S>().await;
    let paid = async |node: &Bitcoin| {
        let address = chain.fresh_address().await.unwrap();
        node.pay(&address, COIN);
        node.mine(1);
        at_height(&chain, node).await;
        assert_eq!((chain.received(&address).unwrap(), chain.balance().confirmed_sat), (vec![], COIN));
    };
    // A payment in a block without proof of that is none.
    liar.lie(Lie::Proofs(Box::new(|beside| beside.fill("11".repeat(32)))));
    paid(&node).await;
    liar.repent();
    node.mine(1);
    soon("the coin", || (chain.balance().confirmed_sat == 2 * COIN).then_some(())).await;

    // One that only waits is not in the block of which the server says so, though another is in that one.
    let address = chain.fresh_address().await.unwrap();
    let waiting = node.pay(&address, COIN).parse().unwrap();
    let claimed = node.height() + 1;
    let mut said = false;
    liar.lie(Lie::Histories(Box::new(move |uses| {
        // The first address that was not used yet is this one.
        if uses.is_empty() && !said {
            uses.push((waiting, claimed));
            said = true;
        }
    })));
    node.mine_empty(1);
    soon("a look", || (chain.status().height >= claimed || chain.status().trouble.is_some()).then_some(())).await;
    assert_eq!((chain.received(&address).unwrap(), chain.balance().confirmed_sat), (vec![], 2 * COIN));
    liar.repent();
    node.mine(1);
    soon("the coin", || (chain.balance().confirmed_sat == 3 * COIN).then_some(())).await;

    // Another transaction in the place of the one that is proven.
    liar.lie(Lie::Transactions(Box::new(|tx| {
        tx.output.iter_mut().for_each(|one| one.value += Amount::from_sat(COIN))
    })));
    let address = chain.fresh_address().await.unwrap();
    node.pay(&address, COIN);
    node.mine(1);
    let what = "is not believed: it gives another transaction than";
    soon(what, || chain.status().trouble.filter(|trouble| trouble.contains(what))).await;
    assert_eq!((chain.received(&address).unwrap(), chain.balance().confirmed_sat), (vec![], 3 * COIN));
    liar.repent();
    soon("the coin", || (chain.balance().confirmed_sat == 4 * COIN).then_some(())).await;
}

/// Who was paid more often than fits into one answer, and more blocks ago, while the wallet was closed.
async fn many_uses<S: Server>() {
    const TIMES: usize = 30;
    let lab = Lab::new();
    let node = Bitcoin::start(&lab, "bitcoin");
    let place = Place::new(&lab, "wallet", S::source(&node));
    let chain = place.open().await;
    let address = chain.fresh_address().await.unwrap();
    drop(chain);
    for time in 1..=TIMES {
        node.pay(&address, 1_000 + time as u64);
        if time % 15 == 0 {
            node.mine(1);
        }
    }
    node.mine(25);
    let chain = place.open().await;
    at_height(&chain, &node).await;
    assert_eq!(chain.received(&address).unwrap().len(), TIMES);
}

/// A branch that begins in the midst of what is remembered from long ago, and below all that is remembered of the end of the chain.
async fn long_branch<S: Server>() {
    let lab = Lab::new();
    let node = Bitcoin::start(&lab, "bitcoin");
    let place = Place::new(&lab, "wallet", S::source(&node));
    let chain = place.open().await;
    let address = fund(&chain, &node, COIN).await;
    let first = node.height();
    for _ in 0..2 {
        node.mine(15);
        at_height(&chain, &node).await;
    }
    node.reorganise(20);
    at_height(&chain, &node).await;
    let height = node.height();
    soon("the coin on the new branch", || {
        chain.received(&address).unwrap().iter().any(|coin| coin.confirmations == height - first + 1).then_some(())
    })
    .await;
    fund(&chain, &node, 2 * COIN).await;
    assert_eq!(chain.balance().confirmed_sat, 3 * COIN);
}

/// Something that takes connections, and answers whatever it is asked with `head` and then with `piece` for ever, after a pause each time.
fn babbler(head: &'static str, piece: Vec<u8>, pause: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let piece = piece.clone();
            std::thread::spawn(move || {
                let _ = client.read(&mut [0; 4096]);
                let mut said = client.write_all(head.as_bytes());
                while said.is_ok() {
                    std::thread::sleep(pause);
                    said = client.write_all(&piece);
                }
            });
        }
    });
    port
}

async fn without_end(head: &'static str, backend: impl Fn(u16) -> Backend) {
    let lab = Lab::new();
    let second = Duration::from_secs(1);
    let long = "its answer is longer than 64 MiB";
    let late = "its answer took more than 30 seconds";
    let mut chains = Vec::new();
    for (name, port, what) in [
        ("fast", babbler(head, vec![b' '; 1 << 16], Duration::ZERO), long),
        ("slow", babbler(head, vec![b' '], second), late),
        ("silent", babbler("", Vec::new(), second), late),
    ] {
        chains.push((Place::new(&lab, name, backend(port)).try_open().await.unwrap(), name, what));
    }
    for (chain, name, what) in chains {
        let trouble = soon("a word of trouble", || chain.status().trouble).await;
        assert!(trouble.contains(what), "{name}: {trouble}");
    }
}

macro_rules! over {
    ($kind:ident, $server:ty, $head:expr) => {
        mod $kind {
            use super::*;

            #[test]
            fn server_that_is_away_is_named_and_waited_for() {
                run(away::<$server>());
            }

            #[test]
            fn server_of_another_chain_is_told_nothing_and_believed_nothing() {
                run(of_another_chain::<$server>());
            }

            #[test]
            fn server_that_lies_about_blocks_is_not_believed_and_told_of() {
                run(lies_about_blocks::<$server>());
            }

            #[test]
            fn server_that_lies_about_payments_is_not_believed() {
                run(lies_about_payments::<$server>());
            }

            #[test]
            fn address_that_was_paid_often_and_many_blocks_are_read_to_their_end() {
                run(many_uses::<$server>());
            }

            #[test]
            fn branch_from_far_below_is_followed() {
                run(long_branch::<$server>());
            }

            #[test]
            fn answer_without_end_is_cut_off() {
                let url = |port| format!("{}127.0.0.1:{port}", $head.0);
                run(without_end($head.1, |port| <$server>::backend(url(port))));
            }
        }
    };
}

#[cfg(feature = "electrum")]
over!(over_electrum, harness::electrum::Electrum, ("tcp://", "{"));
#[cfg(feature = "esplora")]
over!(over_esplora, harness::esplora::Esplora, ("http://", "HTTP/1.1 200 OK\r\n\r\n"));

/// Takes connections over TLS with the certificate in its first argument; says its port, then what it is asked.
#[cfg(feature = "esplora")]
const OVER_TLS: &str = "
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
server = socket.create_server(('127.0.0.1', 0))
print(server.getsockname()[1], flush=True)
while True:
    try:
        print(context.wrap_socket(server.accept()[0], server_side=True).recv(99), flush=True)
    except OSError:
        pass
";

/// A certificate for 127.0.0.1 that nobody signed but itself, with its key.
#[cfg(feature = "esplora")]
const CERTIFICATE: &str = "
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgGh0LB94CiznxStvq
LhnskIJ996oiMhHFWDWBtJlcLuqhRANCAASbOdIQ1zUEXHfdf5BhGapLT4XkfEC+
qLPGem9VnKaDI0pRL6IvLf8vPFlW4k4D/xdHsX+r+G5aSApccf5iEgDn
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUO2n/CLP75OA8ihtTOYYlD8sWpn8wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyODE5MTE0NVoYDzIxMjYxMTA0
MTkxMTQ1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASbOdIQ1zUEXHfdf5BhGapLT4XkfEC+qLPGem9VnKaDI0pRL6IvLf8v
PFlW4k4D/xdHsX+r+G5aSApccf5iEgDno28wbTAdBgNVHQ4EFgQUSyyz0s3wpXna
T3P2WKnPfi+ZGE4wHwYDVR0jBBgwFoAUSyyz0s3wpXnaT3P2WKnPfi+ZGE4wDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIgE+h1yZjeNunT1lzxqs3kH3z48+Jcjrz2RdaxHRpRDvwCIQDu
7itr45lRlADjxiU/VGYT8nbOEHXSiQMP86jRSooHgw==
-----END CERTIFICATE-----
";

#[cfg(feature = "esplora")]
#[test]
fn esplora_server_with_a_certificate_that_nobody_vouches_for_is_told_nothing() {
    use std::process::{Command, Stdio};
    run(async {
        let lab = Lab::new();
        let file = lab.path("pem");
        std::fs::write(&file, CERTIFICATE).unwrap();
        let mut server = Command::new("python3");
        let server = server.args(["-c", OVER_TLS]).arg(&file).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = server.spawn().unwrap();
        let mut said = BufReader::new(server.stdout.take().unwrap()).lines().map_while(Result::ok);
        let url = format!("https://127.0.0.1:{}", said.next().unwrap());
        let chain = Place::new(&lab, "wallet", Backend::Esplora { url }).try_open().await.unwrap();
        let trouble = soon("a word of trouble", || chain.status().trouble).await;
        println!("{trouble}");
        assert!(trouble.contains("certificate"), "{trouble}");
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(said.next(), None);
    });
}
