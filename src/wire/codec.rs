//! Messages as bytes: a version byte, a type byte, the fields. Decoding is total and canonical: what decodes encodes to the
//! same bytes. Encoding cuts lists and texts at their limits, so that nothing is sent that the other side would refuse.

use super::head::SignedHead;
use super::message::{
    Demand, Fetch, HELLO_AGENT_BYTES_MAX, Hello, Host, LOCATED_CONTACTS_MAX, Located, OPAQUE_BYTES_MAX, Price, Refusal,
    Request, Response, Slices, Statement, TTL_SECONDS_MAX, Witnessed,
};
use super::payment::Payment;
use super::receipt::Receipt;
use crate::base::amount::Msat;
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::digest::ChunkId;
use crate::base::head::HeadId;
use crate::base::keyspace::Key;
use crate::base::limit::{
    CHUNK_BYTES_MAX, CHUNK_SLICES_MAX, CONTACT_ADDRS_MAX, CONTACTS_MAX, IDS_MAX, MESSAGE_BYTES_MAX, TESTIMONY_MAX,
};
use crate::base::peer::{Contact, PeerId};
use crate::base::range::{SliceRange, slice_count};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The version of the messages: their first byte.
pub const VERSION: u8 = 1;

/// Type bytes. An answer has the number of its request with the high bit set, where there is one.
mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const FIND: u8 = 0x02;
    pub(super) const LOCATE: u8 = 0x03;
    pub(super) const FETCH: u8 = 0x04;
    pub(super) const ANNOUNCE: u8 = 0x05;
    pub(super) const HOST: u8 = 0x06;
    pub(super) const RECEIPT: u8 = 0x07;
    pub(super) const PAYMENT: u8 = 0x08;
    pub(super) const REACH: u8 = 0x09;
    pub(super) const HEAD: u8 = 0x0a;
    pub(super) const SET_HEAD: u8 = 0x0b;
    pub(super) const TESTIMONY: u8 = 0x0c;
    pub(super) const HELLO_BACK: u8 = 0x81;
    pub(super) const FOUND: u8 = 0x82;
    pub(super) const LOCATED: u8 = 0x83;
    pub(super) const SLICES: u8 = 0x84;
    pub(super) const ANNOUNCED: u8 = 0x85;
    pub(super) const HOSTING: u8 = 0x86;
    pub(super) const RECEIPTED: u8 = 0x87;
    pub(super) const NOTED: u8 = 0x88;
    pub(super) const HEAD_HELD: u8 = 0x8a;
    pub(super) const REFERRAL: u8 = 0xfe;
    pub(super) const REFUSED: u8 = 0xff;
}

const ADDR_BYTES_MAX: usize = 1 + 16 + 2;
const CONTACT_BYTES_MIN: usize = 32 + 1;
const CONTACT_BYTES_MAX: usize = CONTACT_BYTES_MIN + CONTACT_ADDRS_MAX * ADDR_BYTES_MAX;
const PROVIDER_BYTES: usize = 3;
/// Pairs of chunk and provider that always fit beside the longest lists of contacts.
pub const LOCATED_PROVIDERS_MIN: usize = (MESSAGE_BYTES_MAX
    - 2
    - (1 + IDS_MAX / 8)
    - 2
    - LOCATED_CONTACTS_MAX * CONTACT_BYTES_MAX
    - 3
    - 1
    - CONTACTS_MAX * CONTACT_BYTES_MAX)
    / PROVIDER_BYTES;

const _: () = assert!(LOCATED_PROVIDERS_MIN >= IDS_MAX * 8, "eight providers of each chunk fit");
const _: () = assert!(2 * CONTACTS_MAX * CONTACT_BYTES_MAX + 64 <= MESSAGE_BYTES_MAX, "a referral fits");
const _: () = assert!(LOCATED_CONTACTS_MAX <= u8::MAX as usize && IDS_MAX <= u16::MAX as usize);

/// What to answer a request that does not decode.
pub fn refusal(error: &DecodeError) -> Refusal {
    match error {
        DecodeError::Unknown { what: "message" | "version", .. } => Refusal::Unknown,
        _ => Refusal::Malformed,
    }
}

impl Request {
    /// The bytes of the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.byte(VERSION);
        match self {
            Request::Hello(hello) => {
                out.byte(kind::HELLO);
                put_hello(&mut out, hello);
            }
            Request::Find { key } => {
                out.byte(kind::FIND);
                out.raw(&key.0);
            }
            Request::Locate { chunks } => {
                out.byte(kind::LOCATE);
                put_ids(&mut out, chunks);
            }
            Request::Fetch(fetch) => {
                out.byte(kind::FETCH);
                out.raw(&fetch.chunk.0);
                put_range(&mut out, fetch.slices);
                out.byte(u8::from(fetch.outline));
                out.uint(fetch.ceiling.0);
            }
            Request::Announce { chunks, ttl } => {
                out.byte(kind::ANNOUNCE);
                put_ids(&mut out, chunks);
                out.uint(u64::from((*ttl).min(TTL_SECONDS_MAX)));
            }
            Request::Host(host) => {
                out.byte(kind::HOST);
                let chunks = cut(&host.chunks, IDS_MAX);
                out.uint(chunks.len() as u64);
                for (id, len) in chunks {
                    out.raw(&id.0);
                    out.uint(u64::from(*len));
                }
                out.uint(u64::from(host.lease));
                out.uint(host.price.0);
            }
            Request::Receipt(statement) => {
                out.byte(kind::RECEIPT);
                statement.receipt.write(&mut out);
                out.byte(u8::from(statement.settled));
            }
            Request::Testimony { receipts } => {
                out.byte(kind::TESTIMONY);
                let receipts = cut(receipts, TESTIMONY_MAX);
                out.uint(receipts.len() as u64);
                for Witnessed { issuer, receipt } in receipts {
                    out.raw(&issuer.0);
                    receipt.write(&mut out);
                }
            }
            Request::Payment(payment) => {
                out.byte(kind::PAYMENT);
                payment.write(&mut out);
            }
            Request::Head { id } => {
                out.byte(kind::HEAD);
                out.raw(&id.0);
            }
            Request::SetHead(head) => {
                out.byte(kind::SET_HEAD);
                head.write(&mut out);
            }
            Request::Reach(bytes) => put_opaque(&mut out, kind::REACH, bytes),
        }
        out.into_bytes()
    }

    /// Reads the bytes of one message, all of them. [`refusal`] gives the answer to what is not one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Request, DecodeError> {
        let (kind, mut from) = open(bytes)?;
        let request = match kind {
            kind::HELLO => Request::Hello(take_hello(&mut from)?),
            kind::FIND => Request::Find { key: Key(from.array()?) },
            kind::LOCATE => Request::Locate { chunks: take_ids(&mut from)? },
            kind::FETCH => Request::Fetch(Fetch {
                chunk: ChunkId(from.array()?),
                slices: take_range(&mut from)?,
                outline: take_flag(&mut from)?,
                ceiling: Msat(from.uint()?),
            }),
            kind::ANNOUNCE => Request::Announce {
                chunks: take_ids(&mut from)?,
                ttl: from.uint_max("seconds to live", u64::from(TTL_SECONDS_MAX))? as u32,
            },
            kind::HOST => {
                let count = from.count("number of chunks", IDS_MAX, 33)?;
                let mut chunks = Vec::with_capacity(count);
                for _ in 0..count {
                    chunks.push((ChunkId(from.array()?), take_chunk_len(&mut from)?));
                }
                not_empty(&chunks)?;
                let lease = from.uint_max("lease", u64::from(u32::MAX))? as u32;
                Request::Host(Host { chunks, lease, price: Msat(from.uint()?) })
            }
            kind::RECEIPT => {
                let receipt = Receipt::read(&mut from)?;
                Request::Receipt(Statement { receipt, settled: take_flag(&mut from)? })
            }
            kind::TESTIMONY => {
                let count = from.count("number of receipts", TESTIMONY_MAX, 32 + 2 + 64)?;
                let mut receipts = Vec::with_capacity(count);
                for _ in 0..count {
                    receipts.push(Witnessed { issuer: PeerId(from.array()?), receipt: Receipt::read(&mut from)? });
                }
                if receipts.is_empty() {
                    return Err(DecodeError::Invalid("empty list of receipts"));
                }
                Request::Testimony { receipts }
            }
            kind::PAYMENT => Request::Payment(Payment::read(&mut from)?),
            kind::HEAD => Request::Head { id: HeadId(from.array()?) },
            kind::SET_HEAD => Request::SetHead(SignedHead::read(&mut from)?),
            kind::REACH => Request::Reach(take_opaque(&mut from)?),
            got => return Err(DecodeError::Unknown { what: "message", got: u64::from(got) }),
        };
        from.finish()?;
        Ok(request)
    }
}

impl Response {
    /// The bytes of the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.byte(VERSION);
        match self {
            Response::Hello(hello) => {
                out.byte(kind::HELLO_BACK);
                put_hello(&mut out, hello);
            }
            Response::Found { contacts } => {
                out.byte(kind::FOUND);
                put_contacts(&mut out, contacts, CONTACTS_MAX);
            }
            Response::Located(located) => {
                out.byte(kind::LOCATED);
                put_located(&mut out, located);
            }
            Response::Slices(slices) => {
                out.byte(kind::SLICES);
                out.uint(u64::from(slices.chunk_len));
                put_range(&mut out, slices.slices);
                out.byte(u8::from(slices.outline));
                out.uint(slices.charge.0);
                put_demand(&mut out, slices.demand);
            }
            Response::Referral { holders, closer, demand } => {
                out.byte(kind::REFERRAL);
                put_contacts(&mut out, holders, CONTACTS_MAX);
                put_contacts(&mut out, closer, CONTACTS_MAX);
                put_demand(&mut out, *demand);
            }
            Response::Announced { kept } => {
                out.byte(kind::ANNOUNCED);
                out.uint(u64::from((*kept).min(IDS_MAX as u32)));
            }
            Response::Hosting { accepted } => {
                out.byte(kind::HOSTING);
                out.bytes(cut(accepted, IDS_MAX / 8));
            }
            Response::Receipted { held } => {
                out.byte(kind::RECEIPTED);
                out.byte(u8::from(held.is_some()));
                if let Some(held) = held {
                    held.write(&mut out);
                }
            }
            Response::Head { held } => {
                out.byte(kind::HEAD_HELD);
                out.byte(u8::from(held.is_some()));
                if let Some(held) = held {
                    held.write(&mut out);
                }
            }
            Response::Noted => out.byte(kind::NOTED),
            Response::Refused(refusal) => {
                out.byte(kind::REFUSED);
                out.byte(refusal.code());
                if let Refusal::CreditLimit { owed, line } = refusal {
                    out.uint(owed.0);
                    out.uint(line.0);
                }
            }
        }
        out.into_bytes()
    }

    /// Reads the bytes of one message, all of them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Response, DecodeError> {
        let (kind, mut from) = open(bytes)?;
        let response = match kind {
            kind::HELLO_BACK => Response::Hello(take_hello(&mut from)?),
            kind::FOUND => Response::Found { contacts: take_contacts(&mut from, CONTACTS_MAX)? },
            kind::LOCATED => Response::Located(take_located(&mut from)?),
            kind::SLICES => {
                let chunk_len = take_chunk_len(&mut from)?;
                let slices = take_range(&mut from)?;
                if slices.end() > slice_count(chunk_len) {
                    return Err(DecodeError::Invalid("slices past the end of the chunk"));
                }
                Response::Slices(Slices {
                    chunk_len,
                    slices,
                    outline: take_flag(&mut from)?,
                    charge: Msat(from.uint()?),
                    demand: take_demand(&mut from)?,
                })
            }
            kind::REFERRAL => Response::Referral {
                holders: take_contacts(&mut from, CONTACTS_MAX)?,
                closer: take_contacts(&mut from, CONTACTS_MAX)?,
                demand: take_demand(&mut from)?,
            },
            kind::ANNOUNCED => {
                Response::Announced { kept: from.uint_max("number of chunks kept", IDS_MAX as u64)? as u32 }
            }
            kind::HOSTING => Response::Hosting { accepted: from.bytes("length of a bit set", IDS_MAX / 8)?.to_vec() },
            kind::RECEIPTED => {
                let held = if take_flag(&mut from)? { Some(Receipt::read(&mut from)?) } else { None };
                Response::Receipted { held }
            }
            kind::HEAD_HELD => {
                let held = if take_flag(&mut from)? { Some(SignedHead::read(&mut from)?) } else { None };
                Response::Head { held }
            }
            kind::NOTED => Response::Noted,
            kind::REFUSED => {
                let code = from.byte()?;
                let mut refusal =
                    Refusal::from_code(code).ok_or(DecodeError::Unknown { what: "refusal", got: u64::from(code) })?;
                if let Refusal::CreditLimit { owed, line } = &mut refusal {
                    (*owed, *line) = (Msat(from.uint()?), Msat(from.uint()?));
                }
                Response::Refused(refusal)
            }
            got => return Err(DecodeError::Unknown { what: "message", got: u64::from(got) }),
        };
        from.finish()?;
        Ok(response)
    }
}

fn open(bytes: &[u8]) -> Result<(u8, Reader<'_>), DecodeError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        let (got, max) = (bytes.len() as u64, MESSAGE_BYTES_MAX as u64);
        return Err(DecodeError::OverLimit { what: "length of a message", got, max });
    }
    let mut from = Reader::new(bytes);
    let version = from.byte()?;
    if version != VERSION {
        return Err(DecodeError::Unknown { what: "version", got: u64::from(version) });
    }
    Ok((from.byte()?, from))
}

fn cut<T>(list: &[T], max: usize) -> &[T] {
    list.get(..max).unwrap_or(list)
}

fn not_empty<T>(list: &[T]) -> Result<(), DecodeError> {
    if list.is_empty() { Err(DecodeError::Invalid("empty list of chunks")) } else { Ok(()) }
}

fn put_ids(out: &mut Writer, ids: &[ChunkId]) {
    let ids = cut(ids, IDS_MAX);
    out.uint(ids.len() as u64);
    for id in ids {
        out.raw(&id.0);
    }
}

fn take_ids(from: &mut Reader<'_>) -> Result<Vec<ChunkId>, DecodeError> {
    let count = from.count("number of chunks", IDS_MAX, 32)?;
    let ids = (0..count).map(|_| from.array().map(ChunkId)).collect::<Result<Vec<_>, _>>()?;
    not_empty(&ids)?;
    Ok(ids)
}

fn put_range(out: &mut Writer, range: SliceRange) {
    out.byte(range.first);
    out.byte(range.count);
}

fn take_range(from: &mut Reader<'_>) -> Result<SliceRange, DecodeError> {
    let [first, count] = from.array()?;
    if usize::from(first) + usize::from(count) > CHUNK_SLICES_MAX {
        return Err(DecodeError::Invalid("slices past the longest chunk"));
    }
    Ok(SliceRange { first, count })
}

fn take_flag(from: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match from.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::NotCanonical("flag over 1")),
    }
}

fn take_chunk_len(from: &mut Reader<'_>) -> Result<u32, DecodeError> {
    match from.uint_max("length of a chunk", CHUNK_BYTES_MAX as u64)? as u32 {
        0 => Err(DecodeError::Invalid("empty chunk")),
        len => Ok(len),
    }
}

fn put_opaque(out: &mut Writer, kind: u8, bytes: &[u8]) {
    out.byte(kind);
    out.bytes(cut(bytes, OPAQUE_BYTES_MAX));
}

fn take_opaque(from: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    Ok(from.bytes("length of a reserved message", OPAQUE_BYTES_MAX)?.to_vec())
}

fn put_demand(out: &mut Writer, demand: Demand) {
    out.uint(u64::from(demand.asked));
    out.uint(u64::from(demand.missed));
}

fn take_demand(from: &mut Reader<'_>) -> Result<Demand, DecodeError> {
    let asked = from.uint_max("demand", u64::from(u32::MAX))? as u32;
    let missed = from.uint_max("demand", u64::from(u32::MAX))? as u32;
    Ok(Demand { asked, missed })
}

fn put_addr(out: &mut Writer, addr: &SocketAddr) {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => {
            out.byte(4);
            out.raw(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.byte(6);
            out.raw(&ip.octets());
        }
    }
    out.raw(&addr.port().to_le_bytes());
}

fn take_addr(from: &mut Reader<'_>) -> Result<SocketAddr, DecodeError> {
    let ip = match from.byte()? {
        4 => IpAddr::V4(Ipv4Addr::from(from.array::<4>()?)),
        6 => {
            let ip = Ipv6Addr::from(from.array::<16>()?);
            if ip.to_ipv4_mapped().is_some() {
                return Err(DecodeError::NotCanonical("an IPv4 address in IPv6 form"));
            }
            IpAddr::V6(ip)
        }
        got => return Err(DecodeError::Unknown { what: "address family", got: u64::from(got) }),
    };
    Ok(SocketAddr::new(ip, u16::from_le_bytes(from.array()?)))
}

fn put_addrs(out: &mut Writer, addrs: &[SocketAddr]) {
    let addrs = cut(addrs, CONTACT_ADDRS_MAX);
    out.uint(addrs.len() as u64);
    for addr in addrs {
        put_addr(out, addr);
    }
}

fn take_addrs(from: &mut Reader<'_>) -> Result<Vec<SocketAddr>, DecodeError> {
    let count = from.count("number of addresses", CONTACT_ADDRS_MAX, 7)?;
    (0..count).map(|_| take_addr(from)).collect()
}

fn put_contacts(out: &mut Writer, contacts: &[Contact], max: usize) {
    let contacts = cut(contacts, max);
    out.uint(contacts.len() as u64);
    for contact in contacts {
        out.raw(&contact.peer.0);
        put_addrs(out, &contact.addrs);
    }
}

fn take_contacts(from: &mut Reader<'_>, max: usize) -> Result<Vec<Contact>, DecodeError> {
    let count = from.count("number of contacts", max, CONTACT_BYTES_MIN)?;
    (0..count).map(|_| Ok(Contact { peer: PeerId(from.array()?), addrs: take_addrs(from)? })).collect()
}

fn put_hello(out: &mut Writer, hello: &Hello) {
    let agent: Vec<u8> = hello
        .agent
        .chars()
        .map(|c| if matches!(c, ' '..='~') { c as u8 } else { b'?' })
        .take(HELLO_AGENT_BYTES_MAX)
        .collect();
    out.bytes(&agent);
    put_addrs(out, &hello.addrs);
    out.uint(hello.rank_nonce);
    out.uint(hello.price.per_gib.0);
    out.uint(hello.price.per_request.0);
    out.uint(hello.capabilities);
    out.byte(u8::from(hello.observed.is_some()));
    if let Some(addr) = &hello.observed {
        put_addr(out, addr);
    }
}

fn take_hello(from: &mut Reader<'_>) -> Result<Hello, DecodeError> {
    let agent = from.bytes("length of the agent's name", HELLO_AGENT_BYTES_MAX)?;
    if !agent.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(DecodeError::Invalid("character in the agent's name"));
    }
    let agent = agent.iter().map(|byte| char::from(*byte)).collect();
    Ok(Hello {
        agent,
        addrs: take_addrs(from)?,
        rank_nonce: from.uint()?,
        price: Price { per_gib: Msat(from.uint()?), per_request: Msat(from.uint()?) },
        capabilities: from.uint()?,
        observed: if take_flag(from)? { Some(take_addr(from)?) } else { None },
    })
}

fn put_located(out: &mut Writer, located: &Located) {
    out.bytes(cut(&located.held, IDS_MAX / 8));
    let contacts = cut(&located.contacts, LOCATED_CONTACTS_MAX);
    put_contacts(out, contacts, LOCATED_CONTACTS_MAX);
    let mut providers = located.providers.clone();
    providers.retain(|(chunk, contact)| usize::from(*chunk) < IDS_MAX && usize::from(*contact) < contacts.len());
    providers.sort_unstable();
    providers.dedup();
    let room = MESSAGE_BYTES_MAX.saturating_sub(out.len() + 3 + 1 + CONTACTS_MAX * CONTACT_BYTES_MAX) / PROVIDER_BYTES;
    providers.truncate(room);
    out.uint(providers.len() as u64);
    for (chunk, contact) in providers {
        out.raw(&chunk.to_le_bytes());
        out.byte(contact);
    }
    put_contacts(out, &located.closer, CONTACTS_MAX);
}

fn take_located(from: &mut Reader<'_>) -> Result<Located, DecodeError> {
    let held = from.bytes("length of a bit set", IDS_MAX / 8)?.to_vec();
    let contacts = take_contacts(from, LOCATED_CONTACTS_MAX)?;
    let count = from.count("number of providers", MESSAGE_BYTES_MAX / PROVIDER_BYTES, PROVIDER_BYTES)?;
    let mut providers: Vec<(u16, u8)> = Vec::with_capacity(count);
    for _ in 0..count {
        let pair = (u16::from_le_bytes(from.array()?), from.byte()?);
        if usize::from(pair.0) >= IDS_MAX || usize::from(pair.1) >= contacts.len() {
            return Err(DecodeError::Invalid("provider that points nowhere"));
        }
        if providers.last().is_some_and(|last| *last >= pair) {
            return Err(DecodeError::NotCanonical("providers out of order"));
        }
        providers.push(pair);
    }
    let closer = take_contacts(from, CONTACTS_MAX)?;
    Ok(Located { held, contacts, providers, closer })
}

#[cfg(test)]
mod tests;
