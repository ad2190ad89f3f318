//! The wallet against a real full node on regtest: coins come and go over either source of chain data, nothing is paid twice whenever the
//! process dies, reorganisations are noticed, and the traps of the libraries below catch nobody.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::bitcoin::Bitcoin;
#[cfg(feature = "electrum")]
use harness::wallet::electrum;
#[cfg(feature = "esplora")]
use harness::wallet::esplora;
use harness::wallet::{
    COIN, FEE_MAX, PAID, Place, at_height, bitcoind, fund, id, p2p, passphrase, place_is_free, rate, run, soon,
    state_of,
};
use harness::{Lab, PATIENCE};
use std::process::Command;
use std::time::Duration;
use tornet::chain::{
    ADDRESSES_OPEN_MAX, Backend, Chain, ChainError, Event, FeeRate, IntentState, Seed, Start, folder, seed_file,
};

/// A full node and a wallet that follows it and has a coin.
async fn with_coin(backend: impl Fn(&Bitcoin) -> Backend) -> (Lab, Bitcoin, Place, Chain) {
    let lab = Lab::new();
    let node = Bitcoin::start(&lab, "bitcoin");
    let place = Place::new(&lab, "wallet", backend(&node));
    let chain = place.open_with_coin(&node).await;
    (lab, node, place, chain)
}

async fn receive_and_pay(backend: impl Fn(&Bitcoin) -> Backend) {
    let lab = Lab::new();
    let node = Bitcoin::start(&lab, "bitcoin");
    let place = Place::new(&lab, "wallet", backend(&node));
    let chain = place.open().await;
    assert_eq!(chain.balance(), Default::default());
    let short = chain.prepare(id(1), &[(node.fresh(), PAID)], rate(1), FEE_MAX).await.unwrap_err();
    assert!(matches!(short, ChainError::Short { available: 0, .. }), "{short}");

    let mut events = chain.events();
    let address = fund(&chain, &node, COIN).await;
    assert_eq!(chain.received(&address).unwrap()[0].confirmations, 1);
    assert_eq!(chain.balance().confirmed_sat, COIN);
    let told = async {
        loop {
            match events.recv().await.unwrap() {
                Event::Received { address: paid, sat, height: Some(_), .. } if paid == address => return sat,
                _ => {}
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap(), COIN);
    assert_ne!(chain.fresh_address().await.unwrap(), address);

    let (first, second) = (node.fresh(), node.fresh());
    let outputs = [(first.clone(), PAID), (second.clone(), 2 * PAID)];
    let dear = chain.prepare(id(1), &outputs, rate(1000), FEE_MAX).await.unwrap_err();
    assert!(matches!(dear, ChainError::Fee { max: FEE_MAX, .. }), "{dear}");
    let intent = chain.prepare(id(1), &outputs, rate(2), FEE_MAX).await.unwrap();
    assert_eq!(intent.state, IntentState::Signed);
    assert!(intent.outpoints.len() == 2 && intent.outpoints.iter().all(|outpoint| outpoint.txid == intent.txid));
    assert!(node.waiting().is_empty(), "nothing is sent before it is asked for");
    assert_eq!(chain.prepare(id(1), &outputs, rate(9), FEE_MAX).await.unwrap(), intent);
    let other = chain.prepare(id(1), &outputs[..1], rate(2), FEE_MAX).await.unwrap_err();
    assert!(matches!(other, ChainError::Different(_)), "{other}");
    // Its coin is taken, and its change is not there yet.
    let short = chain.prepare(id(2), &[(first.clone(), PAID)], rate(1), FEE_MAX).await.unwrap_err();
    assert!(matches!(short, ChainError::Short { pending: 1.., .. }), "{short}");

    chain.broadcast(id(1)).await.unwrap();
    soon("the payment at the node", || node.waiting().contains(&intent.txid.to_string()).then_some(())).await;
    assert_eq!(chain.intent(id(1)).unwrap().state, IntentState::Broadcast);
    node.mine(1);
    let height = node.height();
    state_of(&chain, id(1), "the payment in a block", |state| state == IntentState::Confirmed { height }).await;
    assert_eq!((node.received(&first), node.received(&second)), (PAID, 2 * PAID));
    assert_eq!(chain.balance().confirmed_sat, COIN - 3 * PAID - intent.fee_sat);
    let history = chain.history();
    let shown: Vec<_> =
        history.iter().map(|movement| (movement.intent, movement.received_sat, movement.sent_sat)).collect();
    assert_eq!(shown, [(Some(id(1)), COIN - 3 * PAID - intent.fee_sat, COIN), (None, COIN, 0)]);
    assert_eq!(history[0].fee_sat, Some(intent.fee_sat));

    drop(chain);
    let chain = place.open().await;
    assert_eq!(chain.history(), history);
    assert_eq!(chain.intents().len(), 1);
}

#[test]
fn coins_come_and_go_over_compact_block_filters() {
    run(receive_and_pay(p2p));
}

#[test]
fn coins_come_and_go_over_the_rpc_of_a_full_node() {
    run(receive_and_pay(bitcoind));
}

/// Where a payment is cut off.
const STEPS: [&str; 4] = ["nothing", "signed", "handed-out", "confirmed"];

/// What a process does that is killed in the middle: started by the tests below, it pays as far as it is told and kills itself.
#[test]
#[ignore = "a process of its own, started by the tests"]
fn payer() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let source = variable("WALLET_SOURCE");
    let backend = match source.parse() {
        Ok(peer) => Backend::P2p { peers: vec![peer] },
        Err(_) => server(source),
    };
    let place = Place { data: variable("WALLET_DATA").into(), backend, start: Start::New };
    let step = variable("WALLET_STEP");
    run(async move {
        let chain = place.open().await;
        if step != "nothing" {
            chain.prepare(id(7), &[(variable("WALLET_TO"), PAID)], rate(2), FEE_MAX).await.unwrap();
        }
        if step != "nothing" && step != "signed" {
            chain.broadcast(id(7)).await.unwrap();
        }
        if step == "confirmed" {
            state_of(&chain, id(7), "a block", |state| matches!(state, IntentState::Confirmed { .. })).await;
        }
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    });
}

/// A server, by its address.
fn server(url: String) -> Backend {
    #[cfg(feature = "electrum")]
    if url.starts_with("tcp://") {
        return Backend::Electrum { url };
    }
    #[cfg(feature = "esplora")]
    if url.starts_with("http://") {
        return Backend::Esplora { url };
    }
    panic!("{url}: no such servers are in this build")
}

fn killed_payer(place: &Place, node: &Bitcoin, to: &str, step: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["payer", "--exact", "--ignored", "--nocapture"]);
    command.env("WALLET_DATA", &place.data).env("WALLET_STEP", step).env("WALLET_TO", to);
    let source = match &place.backend {
        Backend::P2p { peers } => peers[0].to_string(),
        Backend::Bitcoind { url, .. } => url.clone(),
        #[cfg(feature = "electrum")]
        Backend::Electrum { url } => url.clone(),
        #[cfg(feature = "esplora")]
        Backend::Esplora { url } => url.clone(),
    };
    let mut child = command.env("WALLET_SOURCE", source).spawn().unwrap();
    let start = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if step == "confirmed" && !node.waiting().is_empty() {
            node.mine(1);
        }
        assert!(start.elapsed() < PATIENCE, "the payer does not end");
        std::thread::sleep(Duration::from_millis(50));
    };
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(9), "the payer ended by itself: {status}");
}

async fn killed_between_steps(backend: impl Fn(&Bitcoin) -> Backend) {
    let lab = Lab::new();
    let node = Bitcoin::start(&lab, "bitcoin");
    for (number, step) in STEPS.into_iter().enumerate() {
        let place = Place::new(&lab, &format!("wallet{number}"), backend(&node));
        let chain = place.open_with_coin(&node).await;
        // A second coin, with which a careless wallet could pay a second time.
        fund(&chain, &node, COIN).await;
        drop(chain);
        let to = node.fresh();
        soon("the file is free", || place_is_free(&place)).await;
        killed_payer(&place, &node, &to, step);

        let chain = place.open().await;
        let known = chain.intents();
        assert_eq!(known.len(), usize::from(step != "nothing"), "{step}: {known:?}");
        // Who asked for the payment does not know how far it came, and asks again.
        let intent = chain.prepare(id(7), &[(to.clone(), PAID)], rate(2), FEE_MAX).await.unwrap();
        assert!(known.iter().all(|known| known.txids == intent.txids), "{step}: signed anew");
        chain.broadcast(id(7)).await.unwrap();
        if step != "confirmed" {
            soon("the payment at the node", || (node.waiting() == [intent.txid.to_string()]).then_some(())).await;
        }
        node.mine(2);
        at_height(&chain, &node).await;
        state_of(&chain, id(7), "a block", |state| matches!(state, IntentState::Confirmed { .. })).await;
        assert_eq!(node.received(&to), PAID, "{step}");
        assert_eq!(chain.balance().confirmed_sat, 2 * COIN - PAID - intent.fee_sat, "{step}");
    }
}

#[test]
fn payment_that_dies_between_any_two_steps_is_made_once() {
    run(killed_between_steps(p2p));
}

async fn reorganised(backend: impl Fn(&Bitcoin) -> Backend) {
    let (_lab, node, _, chain) = with_coin(backend).await;
    let to = node.fresh();
    let intent = chain.prepare(id(1), &[(to.clone(), PAID)], rate(2), FEE_MAX).await.unwrap();
    chain.broadcast(id(1)).await.unwrap();
    soon("the payment at the node", || node.waiting().contains(&intent.txid.to_string()).then_some(())).await;
    let incoming = chain.fresh_address().await.unwrap();
    node.pay(&incoming, 3 * PAID);
    node.mine(1);
    at_height(&chain, &node).await;
    state_of(&chain, id(1), "a block", |state| matches!(state, IntentState::Confirmed { .. })).await;
    assert_eq!(chain.received(&incoming).unwrap()[0].confirmations, 1);

    let mut events = chain.events();
    node.reorganise(1);
    at_height(&chain, &node).await;
    state_of(&chain, id(1), "the block taken back", |state| state == IntentState::Broadcast).await;
    let told = async {
        loop {
            if let Event::Unconfirmed { intent: Some(found), .. } = events.recv().await.unwrap() {
                return found;
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap(), id(1));
    let confirmed = |coins: &[tornet::chain::Received]| coins.iter().filter(|coin| coin.confirmations > 0).count();
    assert_eq!(confirmed(&chain.received(&incoming).unwrap()), 0, "what was credited is to be taken back");
    // Its coin is still its own: nothing else is paid with it.
    let short = chain.prepare(id(2), &[(to.clone(), COIN / 2)], rate(2), FEE_MAX).await.unwrap_err();
    assert!(matches!(short, ChainError::Short { .. }), "{short}");

    node.mine(1);
    at_height(&chain, &node).await;
    state_of(&chain, id(1), "a block again", |state| matches!(state, IntentState::Confirmed { .. })).await;
    assert_eq!(node.received(&to), PAID);
    assert_eq!(confirmed(&chain.received(&incoming).unwrap()), 1);
}

#[test]
fn longer_branch_takes_confirmations_back_over_compact_block_filters() {
    run(reorganised(p2p));
}

#[test]
fn longer_branch_takes_confirmations_back_over_the_rpc_of_a_full_node() {
    run(reorganised(bitcoind));
}

async fn stuck(backend: impl Fn(&Bitcoin) -> Backend) {
    let (_lab, mut node, place, chain) = with_coin(backend).await;
    let to = node.fresh();
    let first = chain.prepare(id(1), &[(to.clone(), PAID)], rate(1), FEE_MAX).await.unwrap();
    // No node takes it at that rate, and the node that was told of it has forgotten it.
    node.restart(&["-minrelaytxfee=0.00005", "-persistmempool=0"]);
    // The wallet may not have found that node again yet; that the payment may be sent is written down either way.
    let sent = chain.broadcast(id(1)).await;
    assert!(matches!(sent, Ok(()) | Err(ChainError::Broadcast(_))), "{sent:?}");
    drop(chain);
    // Trap 1: without its coins locked and itself put back, the library would know of nothing to replace.
    let chain = place.open().await;
    assert!(node.waiting().is_empty());
    let low = chain.bump(id(1), rate(1), FEE_MAX).await.unwrap_err();
    assert!(matches!(low, ChainError::FeeRate { .. }), "{low}");
    let dear = chain.bump(id(1), rate(20), first.fee_sat + 1).await.unwrap_err();
    assert!(matches!(dear, ChainError::Fee { .. }), "{dear}");
    let second = chain.bump(id(1), rate(20), FEE_MAX).await.unwrap();
    assert!(second.fee_sat > first.fee_sat && second.txids.len() == 2, "{second:?}");
    chain.broadcast(id(1)).await.unwrap();
    soon("the replacement at the node", || (node.waiting() == [second.txid.to_string()]).then_some(())).await;
    node.mine(1);
    state_of(&chain, id(1), "a block", |state| matches!(state, IntentState::Confirmed { .. })).await;
    assert_eq!(chain.intent(id(1)).unwrap().txid, second.txid);
    assert_eq!(node.received(&to), PAID);
    let late = chain.bump(id(1), rate(50), FEE_MAX).await.unwrap_err();
    assert!(matches!(late, ChainError::State { .. }), "{late}");
}

#[test]
fn stuck_payment_is_replaced_by_one_that_pays_more() {
    run(stuck(p2p));
}

async fn taken_back(backend: impl Fn(&Bitcoin) -> Backend) {
    let (_lab, node, place, chain) = with_coin(backend).await;
    let to = node.fresh();
    let outputs = [(to.clone(), PAID)];
    chain.prepare(id(1), &outputs, rate(2), FEE_MAX).await.unwrap();
    let given_up = chain.cancel(id(1), rate(2), FEE_MAX).await.unwrap();
    assert_eq!(given_up.state, IntentState::Cancelled { height: None });
    assert!(chain.broadcast(id(1)).await.is_err(), "what was given up is not sent");
    assert_eq!(chain.balance().confirmed_sat, COIN, "its coin is free again");
    chain.prepare(id(3), &outputs, rate(2), FEE_MAX).await.unwrap();
    chain.bump(id(3), rate(5), FEE_MAX).await.unwrap();
    chain.cancel(id(3), rate(2), FEE_MAX).await.unwrap();
    assert_eq!(chain.balance().confirmed_sat, COIN, "also after a second transaction that nobody saw");

    let sent = chain.prepare(id(2), &outputs, rate(2), FEE_MAX).await.unwrap();
    chain.broadcast(id(2)).await.unwrap();
    assert_eq!(node.waiting(), [sent.txid.to_string()]);
    let taken_back = chain.cancel(id(2), rate(10), FEE_MAX).await.unwrap();
    assert_eq!((taken_back.state, taken_back.outpoints.len()), (IntentState::Cancelling, 0));
    chain.broadcast(id(2)).await.unwrap();
    assert_eq!(node.waiting(), [taken_back.txid.to_string()]);
    node.mine(1);
    at_height(&chain, &node).await;
    let height = node.height();
    state_of(&chain, id(2), "it is taken back", |state| state == IntentState::Cancelled { height: Some(height) }).await;
    assert_eq!(node.received(&to), 0);
    assert_eq!(chain.balance().confirmed_sat, COIN - taken_back.fee_sat);
    drop(chain);
    let chain = place.open().await;
    assert!(chain.intents().iter().all(|intent| matches!(intent.state, IntentState::Cancelled { .. })));
}

#[test]
fn payment_is_taken_back_before_and_after_it_was_sent() {
    run(taken_back(bitcoind));
}

/// Trap 1: open payments are sent before anything is asked, their coins taken in the commit that signs.
async fn sent_by_the_next_start(backend: impl Fn(&Bitcoin) -> Backend) {
    let (_lab, node, place, chain) = with_coin(backend).await;
    let to = node.fresh();
    let intent = chain.prepare(id(1), &[(to.clone(), PAID)], rate(2), FEE_MAX).await.unwrap();
    assert!(node.waiting().is_empty());
    drop(chain);
    let chain = place.open().await;
    assert_eq!(node.waiting(), [intent.txid.to_string()]);
    assert_eq!(chain.intent(id(1)).unwrap().state, IntentState::Broadcast);
    let short = chain.prepare(id(2), &[(to, COIN / 2)], rate(2), FEE_MAX).await.unwrap_err();
    assert!(matches!(short, ChainError::Short { .. }), "{short}");
}

#[test]
fn signed_payment_keeps_its_coin_and_is_sent_by_the_next_start() {
    run(sent_by_the_next_start(bitcoind));
}

/// Trap 2: the light client looks for the addresses that it knew when it began, and some more.
async fn paid_far_beyond(backend: impl Fn(&Bitcoin) -> Backend) {
    let lab = Lab::new();
    let node = Bitcoin::start(&lab, "bitcoin");
    let place = Place::new(&lab, "wallet", backend(&node));
    let chain = place.open().await;
    let mut open = Vec::new();
    for _ in 0..ADDRESSES_OPEN_MAX {
        open.push(chain.fresh_address().await.unwrap());
    }
    let full = chain.fresh_address().await.unwrap_err();
    assert!(matches!(full, ChainError::TooManyAddresses { max: ADDRESSES_OPEN_MAX }), "{full}");
    // Invoices that expire unpaid make room, and move the window on.
    for _ in 0..4 {
        for address in open.drain(..) {
            chain.release(&address).await.unwrap();
        }
        for _ in 0..ADDRESSES_OPEN_MAX {
            open.push(chain.fresh_address().await.unwrap());
        }
    }
    let last = open.last().unwrap();
    node.pay(last, COIN);
    node.mine(1);
    soon("the coin", || chain.received(last).unwrap().first().map(|coin| assert_eq!(coin.sat, COIN))).await;
    chain.fresh_address().await.unwrap();
}

#[test]
fn address_far_beyond_those_at_the_start_is_seen_when_it_is_paid() {
    run(paid_far_beyond(p2p));
}

/// A kind of source: its name, and how it is made beside a node.
type Kind = (&'static str, fn(&Bitcoin) -> Backend);

/// Sources that are looked at side by side.
const SOURCES: &[Kind] = &[
    ("filters", p2p),
    ("rpc", bitcoind),
    #[cfg(feature = "electrum")]
    ("electrum", electrum),
    #[cfg(feature = "esplora")]
    ("esplora", esplora),
];

#[test]
fn nothing_counts_that_is_in_no_block_and_no_estimate_passes_the_limit() {
    // Trap 3: filters say nothing of transactions that wait, and fee rates are guessed.
    run(async {
        let lab = Lab::new();
        let node = Bitcoin::start(&lab, "bitcoin");
        for (name, backend) in SOURCES {
            let place = Place::new(&lab, name, backend(&node));
            let chain = place.open().await;
            let address = chain.fresh_address().await.unwrap();
            node.pay(&address, COIN);
            // A block without it: the wallet has looked, and found nothing.
            node.mine_empty(1);
            at_height(&chain, &node).await;
            assert_eq!(chain.received(&address).unwrap(), [], "{name}");
            node.mine(1);
            soon("the coin", || (chain.balance().confirmed_sat == COIN).then_some(())).await;
            let max = FeeRate::from_sat_per_kwu(300);
            assert!(chain.fee_rate(max).await <= max, "{name}");
            assert!(chain.fee_rate(rate(500)).await >= rate(1), "{name}");
        }
    });
}

#[test]
fn block_that_is_only_said_to_be_invalid_changes_nothing_until_a_longer_branch_comes() {
    // Trap 4: no word comes of a block that a node discards by itself.
    run(async {
        let lab = Lab::new();
        let node = Bitcoin::start(&lab, "bitcoin");
        let place = Place::new(&lab, "wallet", p2p(&node));
        let chain = place.open().await;
        let address = fund(&chain, &node, COIN).await;
        let tip = node.cli(&["getbestblockhash"]);
        node.cli(&["invalidateblock", &tip]);
        node.mine_empty(2);
        at_height(&chain, &node).await;
        soon("the coin is gone", || {
            chain.received(&address).unwrap().iter().all(|coin| coin.confirmations == 0).then_some(())
        })
        .await;
        node.mine(1);
        soon("the coin is back", || {
            chain.received(&address).unwrap().iter().any(|coin| coin.confirmations > 0).then_some(())
        })
        .await;
    });
}

#[test]
fn words_bring_the_coins_back() {
    run(async {
        let (lab, node, place, chain) = with_coin(p2p).await;
        let outputs = [(node.fresh(), PAID)];
        let intent = chain.prepare(id(1), &outputs, rate(2), FEE_MAX).await.unwrap();
        chain.broadcast(id(1)).await.unwrap();
        soon("the payment at the node", || (!node.waiting().is_empty()).then_some(())).await;
        node.mine(1);
        let left = COIN - PAID - intent.fee_sat;
        soon("the change", || (chain.balance().confirmed_sat == left).then_some(())).await;
        let used = chain.fresh_address().await.unwrap();
        let words = place.seed().words().join(" ");
        for (name, backend) in SOURCES {
            let (data, backend) = (lab.make_dir(name), backend(&node));
            std::fs::create_dir_all(folder(&data)).unwrap();
            Seed::from_words(&words).unwrap().save(&seed_file(&data), &passphrase()).unwrap();
            let again = Place { data, backend, start: Start::Restored { height: 0, addresses: 20 } };
            let chain = again.open().await;
            soon("the coins", || (chain.balance().confirmed_sat == left).then_some(())).await;
            assert_ne!(chain.fresh_address().await.unwrap(), used, "{name}: an address is handed out twice");
        }
    });
}

#[test]
fn wallet_file_belongs_to_one_seed_and_one_process() {
    run(async {
        let lab = Lab::new();
        let node = Bitcoin::start_bare(&lab, "bitcoin");
        let place = Place::new(&lab, "wallet", p2p(&node));
        let chain = place.try_open().await.unwrap();
        let taken = place.try_open().await.unwrap_err().to_string();
        assert!(taken.contains("in use"), "{taken}");
        drop(chain);
        soon("the file is free", || place_is_free(&place)).await;
        std::fs::remove_file(seed_file(&place.data)).unwrap();
        Seed::generate().unwrap().save(&seed_file(&place.data), &passphrase()).unwrap();
        let foreign = place.try_open().await.unwrap_err().to_string();
        assert!(foreign.contains("not one of this seed"), "{foreign}");
        let text = std::fs::read(folder(&place.data).join("regtest.redb")).unwrap();
        assert!(!text.windows(4).any(|part| part == b"tprv"), "no key is in the file");
    });
}

/// Where a source of chain data cannot be reached, the wallet says so and refuses nothing that it can do.
#[test]
fn source_that_is_away_is_named_and_waited_for() {
    run(async {
        let lab = Lab::new();
        let mut node = Bitcoin::start(&lab, "bitcoin");
        let places =
            [("filters", p2p(&node)), ("rpc", bitcoind(&node))].map(|(name, backend)| Place::new(&lab, name, backend));
        for place in &places {
            drop(place.open_with_coin(&node).await);
        }
        node.stop();
        for place in &places {
            soon("the file is free", || place_is_free(place)).await;
        }
        let mut chains = Vec::new();
        for place in &places {
            let chain = place.try_open().await.unwrap();
            assert_eq!(chain.balance().confirmed_sat, COIN);
            let trouble = soon("a word of trouble", || chain.status().trouble).await;
            println!("{trouble}");
            chains.push(chain);
        }
        node.restart(&[]);
        for chain in &chains {
            soon("the end of the chain", || chain.status().synced.then_some(())).await;
            assert_eq!(chain.status().trouble, None);
        }
    });
}

/// What must hold whatever server the data come from.
#[cfg(any(feature = "electrum", feature = "esplora"))]
macro_rules! over {
    ($kind:ident, $server:expr) => {
        mod $kind {
            use super::*;

            #[test]
            fn coins_come_and_go() {
                run(receive_and_pay($server));
            }

            #[test]
            fn payment_that_dies_between_any_two_steps_is_made_once() {
                run(killed_between_steps($server));
            }

            #[test]
            fn longer_branch_takes_confirmations_back() {
                run(reorganised($server));
            }

            #[test]
            fn stuck_payment_is_replaced_by_one_that_pays_more() {
                run(stuck($server));
            }

            #[test]
            fn payment_is_taken_back_before_and_after_it_was_sent() {
                run(taken_back($server));
            }

            #[test]
            fn signed_payment_keeps_its_coin_and_is_sent_by_the_next_start() {
                run(sent_by_the_next_start($server));
            }

            #[test]
            fn address_far_beyond_those_at_the_start_is_seen_when_it_is_paid() {
                run(paid_far_beyond($server));
            }
        }
    };
}

#[cfg(feature = "electrum")]
over!(over_electrum, electrum);
#[cfg(feature = "esplora")]
over!(over_esplora, esplora);
