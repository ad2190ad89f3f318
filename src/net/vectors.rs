//! The examples of the section Links in `FORMAT.md`.

use super::identity::{Identity, agreement_public};
use super::mask::MaskKeys;
use super::packet::{expand, initial_secrets};
use super::token::retry_tag;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn examples_stand_in_the_format_page() {
    let peer = Identity::from_seed(&[1; 32]).peer();
    let masks = MaskKeys::new(&peer);
    let ascending: Vec<u8> = (0..48).collect();
    let mut short = ascending.clone();
    masks.to_accepting.hide_short(&mut short);
    let mut long = Vec::new();
    masks.to_dialling.hide_long_padded(b"packets", b"padding!", &mut long);
    let dcid: Vec<u8> = (0..20).collect();
    let (initiator, responder) = initial_secrets(&peer, &dcid);
    let examples = [
        ("peer", peer.0.to_vec()),
        ("x25519", agreement_public(&peer).unwrap().to_vec()),
        ("short", short),
        ("long", long),
        ("initiator", initiator.to_vec()),
        ("responder", responder.to_vec()),
        ("key", expand::<32>(&initiator, "key").to_vec()),
        ("iv", expand::<12>(&initiator, "iv").to_vec()),
        ("header", expand::<32>(&initiator, "header").to_vec()),
        ("next", expand::<32>(&initiator, "next").to_vec()),
        ("retry", retry_tag(&peer, &dcid, &[b"packet"]).to_vec()),
    ];
    let page = include_str!("../FORMAT.md").replace(['\n', ' ', '`'], "");
    for (name, bytes) in examples {
        assert!(page.contains(&hex(&bytes)), "{name}: {}", hex(&bytes));
    }
}
