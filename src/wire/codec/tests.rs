use super::*;
use crate::base::bitcoin::{BITCOIN_NETWORKS, BitcoinNetwork, Outpoint, Txid};
use crate::wire::head::HEAD_SEALED_MAX;
use crate::wire::payment::{CONFIRMATIONS_MAX, INVOICE_AMOUNT_MAX, Invoice, Notice};
use crate::wire::receipt::RECEIPT_AMOUNT_MAX;
use proptest::collection::vec;
use proptest::prelude::*;

fn id() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId)
}

fn addr() -> impl Strategy<Value = SocketAddr> {
    let v4 = (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(IpAddr::from(ip), port));
    let v6 = (any::<[u8; 16]>(), any::<u16>()).prop_map(|(mut ip, port)| {
        ip[0] |= 0x20;
        SocketAddr::new(IpAddr::from(ip), port)
    });
    prop_oneof![v4, v6]
}

fn contact() -> impl Strategy<Value = Contact> {
    (any::<[u8; 32]>(), vec(addr(), 0..=CONTACT_ADDRS_MAX))
        .prop_map(|(peer, addrs)| Contact { peer: PeerId(peer), addrs })
}

fn range() -> impl Strategy<Value = SliceRange> {
    (0u8..=64).prop_flat_map(|first| (0u8..=64 - first).prop_map(move |count| SliceRange { first, count }))
}

fn hello() -> impl Strategy<Value = Hello> {
    ("[ -~]{0,64}", vec(addr(), 0..=8), any::<u64>(), any::<(u64, u64)>(), any::<u64>(), proptest::option::of(addr()))
        .prop_map(|(agent, addrs, rank_nonce, price, capabilities, observed)| Hello {
            agent,
            addrs,
            rank_nonce,
            price: Price { per_gib: Msat(price.0), per_request: Msat(price.1) },
            capabilities,
            observed,
        })
}

fn demand() -> impl Strategy<Value = Demand> {
    any::<(u32, u32)>().prop_map(|(asked, missed)| Demand { asked, missed })
}

fn request() -> impl Strategy<Value = Request> {
    let opaque = || vec(any::<u8>(), 0..100);
    prop_oneof![
        hello().prop_map(Request::Hello),
        any::<[u8; 32]>().prop_map(|key| Request::Find { key: Key(key) }),
        vec(id(), 1..20).prop_map(|chunks| Request::Locate { chunks }),
        (id(), range(), any::<bool>(), any::<u64>()).prop_map(|(chunk, slices, outline, ceiling)| {
            Request::Fetch(Fetch { chunk, slices, outline, ceiling: Msat(ceiling) })
        }),
        (vec(id(), 1..20), 0..=TTL_SECONDS_MAX).prop_map(|(chunks, ttl)| Request::Announce { chunks, ttl }),
        (vec((id(), 1..=CHUNK_BYTES_MAX as u32), 1..20), any::<u32>(), any::<u64>())
            .prop_map(|(chunks, lease, price)| Request::Host(Host { chunks, lease, price: Msat(price) })),
        (receipt(), any::<bool>()).prop_map(|(receipt, settled)| Request::Receipt(Statement { receipt, settled })),
        vec((any::<[u8; 32]>(), receipt()), 1..=TESTIMONY_MAX).prop_map(|list| {
            let receipts = list.into_iter().map(|(issuer, receipt)| Witnessed { issuer: PeerId(issuer), receipt });
            Request::Testimony { receipts: receipts.collect() }
        }),
        payment().prop_map(Request::Payment),
        any::<[u8; 32]>().prop_map(|id| Request::Head { id: HeadId(id) }),
        head().prop_map(Request::SetHead),
        opaque().prop_map(Request::Reach),
    ]
}

fn head() -> impl Strategy<Value = SignedHead> {
    (any::<[u8; 32]>(), any::<u64>(), vec(any::<u8>(), 0..=HEAD_SEALED_MAX), any::<[u8; 32]>()).prop_map(
        |(id, number, sealed, half)| {
            let mut signature = [0; 64];
            signature[16..48].copy_from_slice(&half);
            SignedHead { id: HeadId(id), number, sealed, signature }
        },
    )
}

fn invoice() -> impl Strategy<Value = Invoice> {
    let numbers = (any::<u64>(), 0..=INVOICE_AMOUNT_MAX.0, any::<u64>());
    (numbers, 0usize..4, 1..=CONFIRMATIONS_MAX, "[a-z0-9]{1,90}", any::<[u8; 32]>()).prop_map(
        |((number, amount, expires), network, confirmations, address, half)| {
            let mut signature = [0; 64];
            signature[16..48].copy_from_slice(&half);
            let network = BITCOIN_NETWORKS[network].1;
            Invoice { number, network, confirmations, amount: Msat(amount), expires, address, signature }
        },
    )
}

fn payment() -> impl Strategy<Value = Payment> {
    prop_oneof![
        Just(Payment::Ask),
        invoice().prop_map(Payment::Invoice),
        (invoice(), any::<[u8; 32]>(), any::<u32>()).prop_map(|(invoice, txid, vout)| {
            Payment::Notice(Notice { invoice, outpoint: Outpoint { txid: Txid(txid), vout } })
        }),
    ]
}

fn receipt() -> impl Strategy<Value = Receipt> {
    (any::<u64>(), 0..=RECEIPT_AMOUNT_MAX.0, any::<[u8; 32]>()).prop_map(|(sequence, amount, half)| {
        let mut signature = [0; 64];
        signature[16..48].copy_from_slice(&half);
        Receipt { sequence, amount: Msat(amount), signature }
    })
}

fn located() -> impl Strategy<Value = Located> {
    (vec(any::<u8>(), 0..=64), vec(contact(), 1..12), vec(contact(), 0..=20)).prop_flat_map(
        |(held, contacts, closer)| {
            let last = contacts.len() as u8;
            proptest::collection::btree_set((0u16..512, 0u8..last), 0..60).prop_map(move |providers| Located {
                held: held.clone(),
                contacts: contacts.clone(),
                providers: providers.into_iter().collect(),
                closer: closer.clone(),
            })
        },
    )
}

fn response() -> impl Strategy<Value = Response> {
    let contacts = || vec(contact(), 0..=CONTACTS_MAX);
    let slices = (1..=CHUNK_BYTES_MAX as u32, any::<(u8, u8)>(), any::<bool>(), any::<u64>(), demand());
    prop_oneof![
        hello().prop_map(Response::Hello),
        contacts().prop_map(|contacts| Response::Found { contacts }),
        located().prop_map(Response::Located),
        slices.prop_map(|(chunk_len, at, outline, charge, demand)| {
            let last = slice_count(chunk_len);
            let first = at.0 % (last + 1);
            let count = at.1 % (last - first + 1);
            let slices = SliceRange { first, count };
            Response::Slices(Slices { chunk_len, slices, outline, charge: Msat(charge), demand })
        }),
        (contacts(), contacts(), demand()).prop_map(|(holders, closer, demand)| Response::Referral {
            holders,
            closer,
            demand
        }),
        (0..=IDS_MAX as u32).prop_map(|kept| Response::Announced { kept }),
        vec(any::<u8>(), 0..=64).prop_map(|accepted| Response::Hosting { accepted }),
        proptest::option::of(receipt()).prop_map(|held| Response::Receipted { held }),
        (any::<u64>(), any::<u64>()).prop_map(|(owed, line)| {
            Response::Refused(Refusal::CreditLimit { owed: Msat(owed), line: Msat(line) })
        }),
        Just(Response::Noted),
        proptest::option::of(head()).prop_map(|held| Response::Head { held }),
        (1u8..=8).prop_map(|code| Response::Refused(Refusal::from_code(code).unwrap())),
    ]
}

proptest! {
    #[test]
    fn messages_come_back(request in request(), response in response()) {
        prop_assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
        prop_assert_eq!(Response::from_bytes(&response.to_bytes()), Ok(response));
    }

    #[test]
    fn what_decodes_has_one_form(kind in prop_oneof![0u8..13, 0x80u8..0x8c, 0xfeu8..=0xff],
                                 rest in vec(prop_oneof![0u8..8, any::<u8>()], 0..200)) {
        let bytes = [&[VERSION, kind][..], &rest].concat();
        if let Ok(request) = Request::from_bytes(&bytes) {
            prop_assert_eq!(&request.to_bytes(), &bytes);
        }
        if let Ok(response) = Response::from_bytes(&bytes) {
            prop_assert_eq!(&response.to_bytes(), &bytes);
        }
    }

    #[test]
    fn a_changed_message_is_refused_or_has_one_form(request in request(), response in response(),
                                                    at: prop::sample::Index, byte: u8, cut in 0usize..4) {
        let mut bytes = request.to_bytes();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        if let Ok(request) = Request::from_bytes(&bytes) {
            prop_assert_eq!(request.to_bytes(), bytes);
        }
        let mut bytes = response.to_bytes();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        if let Ok(response) = Response::from_bytes(&bytes) {
            prop_assert_eq!(response.to_bytes(), bytes);
        }
    }
}

#[test]
fn an_unknown_message_is_told_from_a_broken_one() {
    let error = |bytes: &[u8]| refusal(&Request::from_bytes(bytes).unwrap_err());
    assert_eq!(error(&[VERSION, 0x44, 1, 2, 3]), Refusal::Unknown);
    assert_eq!(error(&[9, kind::FIND]), Refusal::Unknown);
    assert_eq!(error(&[VERSION, kind::FIND, 1]), Refusal::Malformed);
    assert_eq!(error(&[VERSION, kind::LOCATE, 0]), Refusal::Malformed);
    assert_eq!(error(&[]), Refusal::Malformed);
    assert_eq!(error(&vec![VERSION; MESSAGE_BYTES_MAX + 1]), Refusal::Malformed);
}

#[test]
fn the_longest_lists_are_cut_so_that_the_message_fits() {
    let addr = SocketAddr::new(IpAddr::from([0x20; 16]), 1);
    let contact = Contact { peer: PeerId([1; 32]), addrs: vec![addr; 20] };
    let located = Located {
        held: vec![0xff; 100],
        contacts: vec![contact.clone(); 300],
        providers: (0..512).flat_map(|chunk| (0..=255).map(move |at| (chunk, at))).collect(),
        closer: vec![contact.clone(); 100],
    };
    let bytes = Response::Located(located).to_bytes();
    assert!(bytes.len() <= MESSAGE_BYTES_MAX);
    let Ok(Response::Located(back)) = Response::from_bytes(&bytes) else { panic!("does not decode") };
    assert_eq!(back.closer.len(), CONTACTS_MAX);
    assert!(back.providers.len() >= LOCATED_PROVIDERS_MIN);
    let hello = Hello {
        agent: "\u{1b}[31m".repeat(40),
        addrs: vec![addr; 20],
        rank_nonce: 0,
        price: Price::default(),
        capabilities: 0,
        observed: None,
    };
    assert!(Request::from_bytes(&Request::Hello(hello).to_bytes()).is_ok());
    let chunks = vec![(ChunkId([7; 32]), CHUNK_BYTES_MAX as u32); 600];
    let host = Request::Host(Host { chunks, lease: u32::MAX, price: Msat(u64::MAX) }).to_bytes();
    assert!(host.len() <= MESSAGE_BYTES_MAX && Request::from_bytes(&host).is_ok());
}

/// The examples of `FORMAT.md`.
fn examples() -> Vec<(Vec<u8>, Result<Request, Response>)> {
    let near: SocketAddr = "192.0.2.1:4000".parse().unwrap();
    let far: SocketAddr = "[2001:db8::1]:4001".parse().unwrap();
    let chunk = ChunkId([0x11; 32]);
    let contact = Contact { peer: PeerId([0x22; 32]), addrs: vec![near] };
    let hello = Hello {
        agent: "tornet 0.1.0".into(),
        addrs: vec![near, far],
        rank_nonce: 300,
        price: Price { per_gib: Msat(10), per_request: Msat(1) },
        capabilities: 3,
        observed: Some(near),
    };
    let demand = Demand { asked: 200, missed: 1 };
    let receipt = Receipt { sequence: 3, amount: Msat(4_711), signature: [0x44; 64] };
    let invoice = Invoice {
        number: 7,
        network: BitcoinNetwork::Regtest,
        confirmations: 1,
        amount: Msat(3_100_500),
        expires: 1_800_000_000,
        address: "bcrt1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqvg32hk".to_string(),
        signature: [0x44; 64],
    };
    let head = SignedHead { id: HeadId([0x66; 32]), number: 300, sealed: vec![0x77; 4], signature: [0x44; 64] };
    let outpoint = Outpoint { txid: Txid([0x55; 32]), vout: 1 };
    let requests = [
        Request::Hello(hello),
        Request::Find { key: Key([0x33; 32]) },
        Request::Locate { chunks: vec![chunk] },
        Request::Fetch(Fetch { chunk, slices: SliceRange { first: 2, count: 3 }, outline: true, ceiling: Msat(1000) }),
        Request::Announce { chunks: vec![chunk], ttl: 86_400 },
        Request::Host(Host { chunks: vec![(chunk, 1_048_576)], lease: 604_800, price: Msat::ZERO }),
        Request::Receipt(Statement { receipt, settled: true }),
        Request::Head { id: HeadId([0x66; 32]) },
        Request::SetHead(head.clone()),
        Request::Testimony { receipts: vec![Witnessed { issuer: PeerId([0x22; 32]), receipt }] },
        Request::Payment(Payment::Ask),
        Request::Payment(Payment::Invoice(invoice.clone())),
        Request::Payment(Payment::Notice(Notice { invoice, outpoint })),
    ];
    let responses = [
        Response::Found { contacts: vec![contact.clone()] },
        Response::Located(Located {
            held: vec![0],
            contacts: vec![contact.clone()],
            providers: vec![(0, 0)],
            closer: vec![],
        }),
        Response::Slices(Slices {
            chunk_len: 100_000,
            slices: SliceRange { first: 2, count: 3 },
            outline: true,
            charge: Msat(0),
            demand,
        }),
        Response::Referral { holders: vec![contact], closer: vec![], demand },
        Response::Announced { kept: 1 },
        Response::Hosting { accepted: vec![1] },
        Response::Receipted { held: Some(receipt) },
        Response::Refused(Refusal::CreditLimit { owed: Msat(950), line: Msat(954) }),
        Response::Head { held: Some(head) },
        Response::Head { held: None },
        Response::Noted,
        Response::Refused(Refusal::Busy),
    ];
    let requests = requests.into_iter().map(|r| (r.to_bytes(), Ok(r)));
    requests.chain(responses.into_iter().map(|r| (r.to_bytes(), Err(r)))).collect()
}

#[test]
fn the_examples_of_the_format_document_hold() {
    let document = include_str!("../../FORMAT.md");
    let lines: Vec<&str> = document.lines().collect();
    for (bytes, message) in examples() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(lines.iter().any(|line| line.contains(&format!("`{hex}`"))), "missing: `{hex}` {message:?}");
        match message {
            Ok(request) => assert_eq!(Request::from_bytes(&bytes), Ok(request)),
            Err(response) => assert_eq!(Response::from_bytes(&bytes), Ok(response)),
        }
    }
}
