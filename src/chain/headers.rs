//! Headers of blocks from a server that is not believed: each must follow the one before it and hold the work that it claims. So a false
//! confirmation costs what mining a block costs, while blocks that are kept from us go unnoticed.

use super::network::Network;
use bdk_wallet::bitcoin::block::Header;
use bdk_wallet::bitcoin::params::Params;
use bdk_wallet::bitcoin::{self, BlockHash, CompactTarget, Target};
use bdk_wallet::chain::BlockId;

/// Blocks between two changes of what a block must cost.
const PERIOD: u32 = 2016;
/// The block before the one with which taproot begins: none before it holds anything of ours, and its hash is no server's to tell.
const TAPROOT_HEIGHT: u32 = 709_631;
/// Difficulty 2^44 as a target: since taproot no block of the real network was easier, and at the end of 2025 they were eight times as hard.
const BITS_EASIEST: u32 = 0x170f_fff0;

/// What is wrong with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("block {0} does not follow the one before it")]
    Link(u32),
    #[error("block {0} does not hold the work that it claims")]
    Work(u32),
    #[error("block {0} claims less work than any block of this network has")]
    Easy(u32),
    #[error("block {0} changes what a block costs by more than it may")]
    Jump(u32),
}

/// The first block of the chain.
pub(super) fn genesis(network: Network) -> BlockHash {
    bitcoin::constants::genesis_block(bitcoin::Network::from(network)).block_hash()
}

/// The latest block that is known beforehand.
pub(super) fn anchor(network: Network) -> BlockId {
    match network {
        Network::Bitcoin => {
            let known = bdk_kyoto::HashCheckpoint::taproot_activation();
            BlockId { height: known.height, hash: known.hash }
        }
        other => BlockId { height: 0, hash: genesis(other) },
    }
}

/// Checks headers that follow each other, the first of which is at `height`.
pub(super) fn check(network: Network, height: u32, headers: &[Header]) -> Result<(), Broken> {
    let heights = height..;
    for (at, header) in heights.clone().zip(headers) {
        holds_work(network, at, header)?;
    }
    for (at, pair) in heights.skip(1).zip(headers.windows(2)) {
        if let [before, header] = pair {
            follows(network, at, before, header)?;
        }
    }
    Ok(())
}

fn holds_work(network: Network, height: u32, header: &Header) -> Result<(), Broken> {
    let target = header.target();
    let mut max = Params::new(network.into()).max_attainable_target;
    if network == Network::Bitcoin && height > TAPROOT_HEIGHT {
        max = Target::from_compact(CompactTarget::from_consensus(BITS_EASIEST));
    }
    if target > max {
        return Err(Broken::Easy(height));
    }
    header.validate_pow(target).map(drop).map_err(|_| Broken::Work(height))
}

fn follows(network: Network, height: u32, before: &Header, header: &Header) -> Result<(), Broken> {
    if header.prev_blockhash != before.block_hash() {
        return Err(Broken::Link(height));
    }
    let (old, new) = (before.target(), header.target());
    let allowed = match network {
        // There a block is easy when none came for a while.
        Network::Testnet4 | Network::Regtest => true,
        Network::Bitcoin | Network::Signet if !height.is_multiple_of(PERIOD) => before.bits == header.bits,
        Network::Bitcoin | Network::Signet => {
            new >= old.min_transition_threshold() && new <= old.max_transition_threshold_unchecked()
        }
    };
    if allowed { Ok(()) } else { Err(Broken::Jump(height)) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bdk_wallet::bitcoin::constants;

    fn first(network: Network) -> Header {
        constants::genesis_block(bitcoin::Network::from(network)).header
    }

    /// Headers on top of a network's first block, each with work of the least kind, so many seconds after the one before it.
    pub(in crate::chain) fn mined_each(network: Network, count: usize, seconds: u32) -> Vec<Header> {
        let mut chain = vec![first(network)];
        for _ in 0..count {
            let before = *chain.last().unwrap();
            let (prev_blockhash, time) = (before.block_hash(), before.time + seconds);
            let mut next = Header { prev_blockhash, time, nonce: 0, ..before };
            while next.validate_pow(next.target()).is_err() {
                next.nonce += 1;
            }
            chain.push(next);
        }
        chain
    }

    fn mined(network: Network, count: usize) -> Vec<Header> {
        mined_each(network, count, 600)
    }

    #[test]
    fn headers_that_follow_each_other_with_work_are_taken() {
        for network in [Network::Bitcoin, Network::Signet, Network::Testnet4, Network::Regtest] {
            assert_eq!(check(network, 0, &[first(network)]), Ok(()), "{network}");
        }
        // Block 170 of the real network.
        let known = [
            "0100000055bd840a78798ad0da853f68974f3d183e2bd1db6a842c1feecf222a00000000ff104ccb05421ab93e63f8c3ce5c2c2e9dbb37de2764b3a3175c8166562cac7d51b96a49ffff001d283e9e70",
        ];
        let headers = known.map(|hex| bitcoin::consensus::encode::deserialize_hex::<Header>(hex).unwrap());
        assert_eq!(check(Network::Bitcoin, 170, &headers), Ok(()));
        assert_eq!(check(Network::Regtest, 0, &mined(Network::Regtest, 5)), Ok(()));
    }

    #[test]
    fn header_without_its_work_or_its_parent_is_refused() {
        let mut chain = mined(Network::Regtest, 5);
        let cut: Vec<Header> = chain.iter().copied().filter(|header| *header != chain[3]).collect();
        assert_eq!(check(Network::Regtest, 0, &cut), Err(Broken::Link(3)));
        let changed = &mut chain[5];
        while changed.validate_pow(changed.target()).is_ok() {
            changed.nonce += 1;
        }
        assert_eq!(check(Network::Regtest, 0, &chain), Err(Broken::Work(5)));
    }

    #[test]
    fn cheap_blocks_are_refused_where_blocks_are_dear() {
        let chain = mined(Network::Regtest, 1);
        assert_eq!(check(Network::Bitcoin, 800_000, &chain[1..]), Err(Broken::Easy(800_000)));
        assert_eq!(check(Network::Signet, 800, &chain[1..]), Err(Broken::Easy(800)));
        // The real network's first block holds its work, yet none like it is taken today.
        assert_eq!(
            check(Network::Bitcoin, TAPROOT_HEIGHT + 1, &[first(Network::Bitcoin)]),
            Err(Broken::Easy(TAPROOT_HEIGHT + 1))
        );
    }

    #[test]
    fn what_a_block_costs_changes_only_when_it_may_and_not_by_much() {
        let before = first(Network::Bitcoin);
        let next = |bits: u32| Header {
            prev_blockhash: before.block_hash(),
            bits: CompactTarget::from_consensus(bits),
            ..before
        };
        let rule = |height, bits| follows(Network::Bitcoin, height, &before, &next(bits));
        assert_eq!(rule(2015, 0x1d00_ffff), Ok(()));
        assert_eq!(rule(2015, 0x1d00_fffe), Err(Broken::Jump(2015)));
        assert_eq!(rule(2016, 0x1d00_8000), Ok(()));
        assert_eq!(rule(2016, 0x1c3f_ffc0), Ok(()), "a quarter");
        assert_eq!(rule(2016, 0x1c3f_0000), Err(Broken::Jump(2016)));
        assert_eq!(rule(2016, 0x1d03_fffc), Ok(()), "four times");
        assert_eq!(rule(2016, 0x1d04_0000), Err(Broken::Jump(2016)));
    }
}
