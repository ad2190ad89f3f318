//! What became new for a wallet, by a server that is not believed. The server names transactions and blocks; what counts is what its headers
//! and proofs show.

use super::headers::{self, anchor};
use super::indexed::Server;
use super::network::Network;
use super::wallet::{LOOKAHEAD, Start, Wallet};
use bdk_wallet::bitcoin::block::Header;
use bdk_wallet::bitcoin::{BlockHash, ScriptBuf, Transaction, Txid};
use bdk_wallet::chain::{BlockId, CheckPoint, ConfirmationBlockTime, TxUpdate};
use bdk_wallet::{KeychainKind, Update};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tracing::warn;

/// Addresses that are asked for behind the last that was handed out.
const GAP: u32 = 20;
/// Addresses that are asked for at most behind it, whatever the server says of them.
const REACH: u32 = 10_000;
/// Blocks at the end of the chain with which a new wallet begins, and that are remembered.
const LAST_BLOCKS: u32 = 8;
/// Uses of our addresses that a server may name.
const CLAIMS_MAX: usize = 1_000_000;

/// What need not be asked for again.
#[derive(Default)]
pub(super) struct Memory {
    txs: HashMap<Txid, Arc<Transaction>>,
    /// Transactions and blocks that were proven to hold them, with the time of the block.
    proven: HashMap<(Txid, BlockHash), u64>,
}

impl Memory {
    /// What the wallet has.
    pub(super) fn of(wallet: &Wallet) -> Memory {
        let mut memory = Memory::default();
        for tx in wallet.library().transactions() {
            let node = tx.tx_node;
            memory.txs.insert(node.txid, node.tx.clone());
            memory.proven.extend(node.anchors.iter().map(|at| ((node.txid, at.block_id.hash), at.confirmation_time)));
        }
        memory
    }
}

/// What is asked, and what is known already.
pub(super) struct View {
    network: Network,
    tip: CheckPoint,
    /// Whether nothing can be in any block so far.
    unused: bool,
    keychains: Vec<Keychain>,
    gap: u32,
}

/// One sequence of addresses.
struct Keychain {
    kind: KeychainKind,
    last_revealed: Option<u32>,
    scripts: Box<dyn Iterator<Item = (u32, ScriptBuf)> + Send>,
}

/// An address was used, the server says.
struct Claim {
    kind: KeychainKind,
    index: u32,
    txid: Txid,
    height: u32,
}

impl View {
    pub(super) fn of(wallet: &Wallet, network: Network) -> View {
        let library = wallet.library();
        let index = library.spk_index();
        let restored = matches!(wallet.start(), Start::Restored { .. });
        let gap = if restored && wallet.is_blank() { LOOKAHEAD } else { GAP };
        let keychains = index.all_unbounded_spk_iters().into_iter().map(|(kind, scripts)| {
            let last_revealed = index.last_revealed_index(kind);
            let end = last_revealed.map_or(0, |last| last + 1) + REACH;
            let scripts = Box::new(scripts.take_while(move |(number, _)| *number < end));
            Keychain { kind, last_revealed, scripts }
        });
        View {
            network,
            tip: library.latest_checkpoint(),
            unused: !restored && wallet.is_blank(),
            keychains: keychains.collect(),
            gap,
        }
    }

    /// Height of the newest block that is known.
    pub(super) fn height(&self) -> u32 {
        self.tip.height()
    }

    /// What became new; `None` when the chain changed meanwhile.
    pub(super) fn ask<S: Server>(
        self,
        name: &str,
        server: &S,
        end: BlockId,
        memory: &mut Memory,
    ) -> Result<Option<Update>, String> {
        let View { network, tip, unused, keychains, gap } = self;
        let mut claims = claims(name, server, keychains, gap)?;
        // What came since the question began is for the next look.
        claims.retain(|claim| claim.height <= end.height);
        let Some(shared) = last_shared(server, &tip)? else { return Ok(None) };
        let mut known = Known { network, name, server, blocks: BTreeMap::new() };
        known.blocks.extend(shared.iter().map(|block| (block.height(), block.hash())));
        let anchor = anchor(network);
        known.blocks.insert(anchor.height, anchor.hash);
        let from = if unused && shared.height() == 0 {
            // Whoever is new begins at the end, and believes the work in it.
            (end.height + 1).saturating_sub(LAST_BLOCKS)
        } else if end.height > anchor.height {
            shared.height().max(anchor.height)
        } else {
            shared.height()
        };
        if !known.learn(from, end.height)? || known.blocks.get(&end.height) != Some(&end.hash) {
            return Ok(None);
        }
        let Some(anchors) = known.prove(&claims, memory)? else { return Ok(None) };
        let mut update = Update::default();
        for claim in claims.iter().filter(|claim| anchors.contains_key(&claim.txid)) {
            let last = update.last_active_indices.entry(claim.kind).or_default();
            *last = claim.index.max(*last);
        }
        let mut blocks: BTreeSet<u32> = anchors.values().map(|anchor| anchor.block_id.height).collect();
        // The library finds by them which of its blocks are no longer of the chain.
        blocks.extend(tip.iter().map(|block| block.height()).take_while(|height| *height > shared.height()));
        blocks.extend((end.height + 1).saturating_sub(LAST_BLOCKS).max(shared.height() + 1)..=end.height);
        let mut chain = shared;
        for height in blocks {
            if let Some(hash) = known.blocks.get(&height) {
                chain = chain.insert(BlockId { height, hash: *hash });
            }
        }
        update.chain = Some(chain);
        // What is in no block is neither counted nor forgotten on anybody's word.
        update.tx_update = TxUpdate::default();
        update.tx_update.txs = anchors.keys().filter_map(|txid| memory.txs.get(txid).cloned()).collect();
        update.tx_update.anchors = anchors.into_iter().map(|(txid, anchor)| (anchor, txid)).collect();
        Ok(Some(update))
    }
}

/// What the server says of our addresses.
fn claims<S: Server>(name: &str, server: &S, keychains: Vec<Keychain>, gap: u32) -> Result<Vec<Claim>, String> {
    let mut claims = Vec::new();
    for Keychain { kind, last_revealed, mut scripts } in keychains {
        let mut unused = 0;
        while unused < gap {
            let (numbers, batch): (Vec<u32>, Vec<ScriptBuf>) = scripts.by_ref().take(S::BATCH).unzip();
            if batch.is_empty() {
                break;
            }
            let found = server.histories(&batch)?;
            if found.len() != batch.len() {
                return Err(format!("{name} does not answer what it was asked"));
            }
            for (index, history) in numbers.into_iter().zip(found) {
                if !history.is_empty() {
                    unused = 0;
                } else if last_revealed.is_none_or(|last| index > last) {
                    unused += 1;
                }
                claims.extend(history.into_iter().map(|(txid, height)| Claim { kind, index, txid, height }));
            }
            if claims.len() > CLAIMS_MAX {
                return Err(format!("{name} is not believed: it names more than {CLAIMS_MAX} uses of our addresses"));
            }
        }
    }
    Ok(claims)
}

/// The newest block that both know.
fn last_shared<S: Server>(server: &S, tip: &CheckPoint) -> Result<Option<CheckPoint>, String> {
    for block in tip.iter() {
        if server.headers(block.height(), 1)?.first().map(Header::block_hash) == Some(block.hash()) {
            return Ok(Some(block));
        }
    }
    Ok(None)
}

/// Blocks that are believed.
struct Known<'a, S> {
    network: Network,
    name: &'a str,
    server: &'a S,
    blocks: BTreeMap<u32, BlockHash>,
}

impl<S: Server> Known<'_, S> {
    /// Takes the headers from one height to another for known when they keep the rules and agree with what is known at either end; whether they agree.
    fn learn(&mut self, from: u32, to: u32) -> Result<bool, String> {
        // With the last of the answer before, which the first of this one must follow.
        let mut headers: Vec<Header> = Vec::new();
        let mut learnt = BTreeMap::new();
        let mut next = from;
        while next <= to {
            let more = self.server.headers(next, to + 1 - next)?;
            if more.is_empty() {
                return Ok(false);
            }
            let first = next - headers.len() as u32;
            headers.extend(more.into_iter().take((to + 1 - next) as usize));
            for (height, header) in (first..).zip(&headers) {
                let hash = header.block_hash();
                // A chain that changes under our hands is no lie.
                if self.blocks.get(&height).is_some_and(|known| *known != hash) {
                    return Ok(false);
                }
                learnt.insert(height, hash);
            }
            headers::check(self.network, first, &headers)
                .map_err(|what| format!("{} is not believed: {what}", self.name))?;
            next = first + headers.len() as u32;
            headers.drain(..headers.len() - 1);
        }
        self.blocks.extend(learnt);
        Ok(true)
    }

    /// The block at this height, where it is known or leads to one that is.
    fn at(&mut self, height: u32) -> Result<Option<BlockHash>, String> {
        if !self.blocks.contains_key(&height) {
            let Some(next) = self.blocks.range(height..).next().map(|(height, _)| *height) else { return Ok(None) };
            if !self.learn(height, next)? {
                return Ok(None);
            }
        }
        Ok(self.blocks.get(&height).copied())
    }

    /// Which of these transactions are where the server says, by its proofs; `None` when the chain changed meanwhile. Those that are have
    /// their text in memory.
    fn prove(
        &mut self,
        claims: &[Claim],
        memory: &mut Memory,
    ) -> Result<Option<BTreeMap<Txid, ConfirmationBlockTime>>, String> {
        let places: BTreeSet<(u32, Txid)> = claims.iter().map(|claim| (claim.height, claim.txid)).collect();
        let mut blocks = BTreeMap::new();
        for (height, _) in &places {
            if !blocks.contains_key(height) {
                let Some(hash) = self.at(*height)? else { return Ok(None) };
                blocks.insert(*height, hash);
            }
        }
        let places: Vec<(u32, Txid, BlockHash)> = places
            .into_iter()
            .filter_map(|(height, txid)| blocks.get(&height).map(|hash| (height, txid, *hash)))
            .collect();
        let open: Vec<(Txid, u32, BlockHash)> = places
            .iter()
            .filter(|(_, txid, hash)| !memory.proven.contains_key(&(*txid, *hash)))
            .map(|(height, txid, hash)| (*txid, *height, *hash))
            .collect();
        for batch in open.chunks(S::BATCH) {
            let asked: Vec<(Txid, u32)> = batch.iter().map(|(txid, height, _)| (*txid, *height)).collect();
            for ((txid, height, hash), proof) in batch.iter().zip(self.server.proofs(&asked)?) {
                let Some(header) = self.server.headers(*height, 1)?.first().copied() else { return Ok(None) };
                if header.block_hash() != *hash {
                    return Ok(None);
                }
                if proof.is_some_and(|proof| proof.shows(*txid, header.merkle_root)) {
                    memory.proven.insert((*txid, *hash), u64::from(header.time));
                } else {
                    warn!(%txid, height, "{} does not prove that the block holds it: it does not count", self.name);
                }
            }
        }
        let mut anchors = BTreeMap::new();
        for (height, txid, hash) in places {
            if let Some(time) = memory.proven.get(&(txid, hash)) {
                let block_id = BlockId { height, hash };
                anchors.insert(txid, ConfirmationBlockTime { block_id, confirmation_time: *time });
            }
        }
        let lacking: Vec<Txid> = anchors.keys().filter(|txid| !memory.txs.contains_key(*txid)).copied().collect();
        for batch in lacking.chunks(S::BATCH) {
            let found = self.server.transactions(batch)?;
            for (txid, tx) in batch.iter().zip(&found) {
                if tx.compute_txid() != *txid {
                    return Err(format!("{} is not believed: it gives another transaction than {txid}", self.name));
                }
                memory.txs.insert(*txid, Arc::new(tx.clone()));
            }
            if found.len() != batch.len() {
                return Err(format!("{} does not answer what it was asked", self.name));
            }
        }
        Ok(Some(anchors))
    }
}

#[cfg(test)]
mod tests {
    use super::super::headers::tests::mined_each;
    use super::super::proof::Proof;
    use super::*;
    use bdk_wallet::bitcoin::absolute::LockTime;
    use bdk_wallet::bitcoin::transaction::Version;
    use bdk_wallet::bitcoin::{FeeRate, TxMerkleNode};

    /// A chain, told of by three headers at a time; and what is told of a block that is asked for alone.
    struct Told(Vec<Header>, Option<Header>);

    impl Server for Told {
        const KEY: &'static str = "";
        const BATCH: usize = 1;

        fn name(_: &str) -> String {
            unreachable!("it has no name")
        }
        fn connect(_: &str) -> Result<Told, String> {
            unreachable!("it is there")
        }
        fn tip(&self) -> Result<BlockId, String> {
            unreachable!("not asked for")
        }
        fn headers(&self, from: u32, count: u32) -> Result<Vec<Header>, String> {
            if let Some(alone) = self.1.filter(|_| count == 1) {
                return Ok(vec![alone]);
            }
            Ok(self.0.iter().skip(from as usize).take(count.min(3) as usize).copied().collect())
        }
        fn histories(&self, _: &[ScriptBuf]) -> Result<Vec<Vec<(Txid, u32)>>, String> {
            unreachable!("not asked for")
        }
        fn transactions(&self, txids: &[Txid]) -> Result<Vec<Transaction>, String> {
            Ok(vec![coin(1); txids.len()])
        }
        /// That it is the only one of its block.
        fn proofs(&self, places: &[(Txid, u32)]) -> Result<Vec<Option<Proof>>, String> {
            Ok(vec![Some(Proof { position: 0, beside: Vec::new() }); places.len()])
        }
        fn send(&self, _: &Transaction) -> Result<(), String> {
            unreachable!("not asked for")
        }
        fn fee_rate(&self) -> Option<FeeRate> {
            unreachable!("not asked for")
        }
    }

    /// A transaction that is like no other.
    fn coin(number: u32) -> Transaction {
        let lock_time = LockTime::from_consensus(number);
        Transaction { version: Version::TWO, lock_time, input: Vec::new(), output: Vec::new() }
    }

    fn known<'a>(server: &'a Told, blocks: &[(u32, Header)]) -> Known<'a, Told> {
        let blocks = blocks.iter().map(|(height, header)| (*height, header.block_hash())).collect();
        Known { network: Network::Regtest, name: "it", server, blocks }
    }

    #[test]
    fn chain_is_learnt_over_many_answers_and_breaks_between_two_are_seen() {
        let (chain, other) = (mined_each(Network::Regtest, 10, 600), mined_each(Network::Regtest, 10, 601));
        let honest = Told(chain.clone(), None);
        let mut all = known(&honest, &[(0, chain[0])]);
        assert_eq!(all.learn(0, 10), Ok(true));
        assert_eq!(all.blocks.len(), 11);
        assert_eq!(all.blocks[&10], chain[10].block_hash());
        // More than there is.
        assert_eq!(known(&honest, &[(0, chain[0])]).learn(0, 11), Ok(false));
        // Headers 0 to 2 are one answer, 3 to 5 another one, of another branch.
        for cut in [3, 4] {
            let spliced = Told([&chain[..cut], &other[cut..]].concat(), None);
            let mut known = known(&spliced, &[(0, chain[0])]);
            assert_eq!(
                known.learn(0, 10),
                Err(format!("it is not believed: block {cut} does not follow the one before it"))
            );
            assert_eq!(known.blocks.len(), 1, "nothing of a lie is kept");
        }
        // Another branch than the one that is known is a change, no lie.
        assert_eq!(known(&Told(other, None), &[(0, chain[0]), (4, chain[4])]).learn(0, 4), Ok(false));
    }

    #[test]
    fn older_block_counts_where_it_leads_to_one_that_is_known() {
        let (chain, other) = (mined_each(Network::Regtest, 10, 600), mined_each(Network::Regtest, 10, 601));
        let honest = Told(chain.clone(), None);
        let mut some = known(&honest, &[(0, chain[0]), (9, chain[9])]);
        assert_eq!(some.at(5), Ok(Some(chain[5].block_hash())));
        assert_eq!(some.at(10), Ok(None), "nothing that is known follows it");
        assert_eq!(known(&Told(other, None), &[(0, chain[0]), (9, chain[9])]).at(5), Ok(None));
    }

    #[test]
    fn transaction_counts_by_a_proof_that_leads_to_a_header_that_is_known() {
        let root = |txid: Txid| TxMerkleNode::from_raw_hash(txid.to_raw_hash());
        let claim =
            |number| Claim { kind: KeychainKind::External, index: 0, txid: coin(number).compute_txid(), height: 1 };
        let chain = mined_each(Network::Regtest, 2, 600);
        let with = |number| Header { merkle_root: root(coin(number).compute_txid()), ..chain[1] };
        let prove = |block: Header, alone: Option<Header>, claim: Claim| {
            let server = Told(vec![chain[0], block], alone);
            let mut memory = Memory::default();
            let found = known(&server, &[(0, chain[0]), (1, block)]).prove(&[claim], &mut memory);
            found.map(|anchors| anchors.map(|anchors| (anchors.len(), memory.txs.len())))
        };
        assert_eq!(prove(with(1), None, claim(1)), Ok(Some((1, 1))));
        assert_eq!(prove(chain[1], None, claim(1)), Ok(Some((0, 0))), "the block does not hold it");
        assert_eq!(prove(chain[1], Some(with(1)), claim(1)), Ok(None), "a header that was made up for the proof");
        let other = coin(2).compute_txid();
        assert_eq!(
            prove(with(2), None, claim(2)),
            Err(format!("it is not believed: it gives another transaction than {other}"))
        );
    }
}
