//! Every bound of the protocol and of our queues in one place, with the relations between them checked at compile time.

/// A slice: the smallest unit that is sent, verified and paid for (16 BLAKE3 leaves).
pub const SLICE_BYTES: usize = 16 * 1024;
/// The longest chunk.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Slices in the longest chunk.
pub const CHUNK_SLICES_MAX: usize = CHUNK_BYTES_MAX / SLICE_BYTES;
/// Data chunks shorter than this are not split further to fill a stripe.
pub const SHARD_BYTES_MIN: usize = 128 * 1024;
/// k + m of the widest stripe.
pub const STRIPE_CHUNKS_MAX: usize = 48;
/// A file this short stands inside its directory entry or its own manifest node.
pub const INLINE_BYTES_MAX: usize = 1024;
/// A file shorter than this is packed with its neighbours in its directory.
pub const PACKED_BYTES_MAX: usize = 64 * 1024;
/// A name in a directory.
pub const NAME_BYTES_MAX: usize = 255;
/// Target of a symbolic link.
pub const LINK_BYTES_MAX: usize = 4095;
/// All extended attributes of one entry: names and values together.
pub const XATTRS_BYTES_MAX: usize = 4096;
/// Levels of one manifest (file or directory) from root node to leaf.
pub const MANIFEST_DEPTH_MAX: usize = 8;
/// Directories inside each other under one reference.
pub const TREE_DEPTH_MAX: usize = 256;
/// Entries of one directory.
pub const DIRECTORY_ENTRIES_MAX: u64 = 16_000_000;
/// Size of a file.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// A request or an answer on a stream, without the slices that follow an answer.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Contacts in one answer (Kademlia's k).
pub const CONTACTS_MAX: usize = 20;
/// Addresses of one contact.
pub const CONTACT_ADDRS_MAX: usize = 8;
/// Chunk ids in one `locate`, `announce` or `host` request.
pub const IDS_MAX: usize = 512;
/// Requests of one peer that we work on at once (QUIC streams).
pub const STREAMS_PER_PEER_MAX: u32 = 256;
/// Links that are open at once.
pub const LINKS_MAX: usize = 512;
/// Accounts that are kept, and those of them written down in one transaction.
pub const ACCOUNTS_MAX: usize = 16_384;
/// See `ACCOUNTS_MAX`.
pub const ACCOUNT_BATCH_MAX: usize = 256;
/// Receipts of others that a peer shows at once.
pub const TESTIMONY_MAX: usize = 16;
/// Addresses that peers were given to pay to and that nothing came to yet: a wallet looks only so far ahead.
pub const BILLS_OPEN_MAX: usize = 64;
/// Of these, addresses of peers that never provided nor paid anything.
pub const BILLS_STRANGERS_MAX: usize = BILLS_OPEN_MAX / 2;
/// Of these, addresses of one peer.
pub const BILLS_PER_PEER_MAX: usize = 4;
/// Creditors whose newest invoice is kept.
pub const INVOICES_MAX: usize = 1024;
/// Trees for which the user allowed payments beyond the limits, and not all of it is used.
pub const ALLOWANCES_MAX: usize = 64;
/// Refusals for want of credit that are remembered: which peer, of which tree.
pub const REFUSALS_MAX: usize = 1024;
/// Provider records that we keep for others.
pub const PROVIDERS_MAX: usize = 1_000_000;
/// Heads that we keep for others.
pub const HEADS_MAX: usize = 16_384;
/// Of these, heads that one peer told of.
pub const HEADS_PER_PEER_MAX: usize = 512;
/// Names that one node has or follows.
pub const NAMES_MAX: usize = 256;
/// Provider records of one chunk.
pub const PROVIDERS_PER_CHUNK_MAX: usize = 24;

const _: () = assert!(CHUNK_SLICES_MAX == 64, "a set of slices is one u64");
const _: () = assert!(LINKS_MAX < ACCOUNTS_MAX, "idle accounts make room for those of linked peers");
const _: () = assert!(IDS_MAX * 40 + 4096 <= MESSAGE_BYTES_MAX, "a full list of ids fits in one message");
const _: () = assert!(TESTIMONY_MAX * (32 + 10 + 10 + 64) + 3 <= MESSAGE_BYTES_MAX, "all receipts that are shown fit");
const _: () = assert!(INLINE_BYTES_MAX < PACKED_BYTES_MAX && PACKED_BYTES_MAX <= SHARD_BYTES_MIN);
const _: () = assert!(MESSAGE_BYTES_MAX <= u32::MAX as usize, "length is sent as u32");
