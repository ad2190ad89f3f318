//! A node that has bandwidth to offer buys what peers ask it for in vain, within its limits, and serves it from then on.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::asker::ask;
use harness::node::{Node, Plan, READER};
use harness::{Lab, until};
use std::fs;
use std::time::Duration;
use tornet::base::range::SliceRange;
use tornet::content::reference::RootRef;
use tornet::wire::message::{Fetch, Request, Response};

fn market(node: &Node) -> serde_json::Value {
    node.json(&["--json", "status"])["market"].clone()
}

fn address(node: &Node) -> String {
    node.json(&["--json", "status"])["address"].as_str().unwrap().to_string()
}

/// A publisher, another node that knows it, and a file so short that it is one chunk, with the request for that.
fn two_nodes(lab: &Lab, config: &str) -> (Node, Node, String, Request) {
    let publisher = Plan::new("publisher").config(READER).start(lab);
    let third = Plan::new("third").config(config).knows(&publisher).start(lab);
    until("the nodes are acquainted", || {
        (publisher.json(&["--json", "status"])["peers-known"].as_u64() == Some(1)).then_some(())
    });
    fs::write(lab.path("file"), "asked for by many").unwrap();
    let reference = publisher.publish(&lab.path("file"));
    let chunk = reference.parse::<RootRef>().unwrap().node.id;
    let slices = SliceRange { first: 0, count: 64 };
    let fetch = Request::Fetch(Fetch { chunk, slices, outline: true, ceiling: Default::default() });
    // The third node is told who holds it.
    until("an announcement", || match ask(&address(&third), &Request::Locate { chunks: vec![chunk] }) {
        Response::Located(located) => (!located.providers.is_empty()).then_some(()),
        other => panic!("{other:?}"),
    });
    (publisher, third, reference, fetch)
}

#[test]
fn what_is_asked_for_in_vain_is_bought_and_served_when_its_publisher_is_gone() {
    let lab = Lab::new();
    let (mut publisher, third, reference, fetch) = two_nodes(&lab, READER);
    let before = market(&third);
    assert!(before["radius-parts"].as_u64() == Some(1_000_000_000) && before["offer-bytes"] == 125_000, "{before}");
    for number in 0.. {
        match ask(&address(&third), &fetch) {
            Response::Referral { holders, demand, .. } => {
                assert!(!holders.is_empty() && demand.missed > number, "{demand:?} {holders:?}");
            }
            Response::Slices(_) => break,
            other => panic!("{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let after = until("it is said", || Some(market(&third)).filter(|market| market["bought"] == 1));
    assert!(after["chunks"] == 1 && after["dropped"] == 0 && after["bytes"].as_u64() > Some(0), "{after}");
    let text = third.tornet(&["status"]);
    assert!(text.contains("takes up all of the key space") && text.contains("bought 1 "), "{text}");
    publisher.kill();
    let late = Plan::new("late").config(READER).knows(&third).start(&lab);
    let copy = lab.path("copy");
    late.tornet(&["get", &reference, copy.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&copy).unwrap(), "asked for by many");
    let sent = until("what was sent", || market(&third)["sent-bytes"].as_u64().filter(|sent| *sent > 0));
    println!("{sent} bytes sent of it");
}

#[test]
fn who_allows_nothing_buys_nothing_and_refers_to_those_that_have_it() {
    let lab = Lab::new();
    let config = format!("{READER}\n[market]\nper_day = \"0 B\"\n");
    let (_publisher, third, _, fetch) = two_nodes(&lab, &config);
    for _ in 0..12 {
        let answer = ask(&address(&third), &fetch);
        assert!(matches!(answer, Response::Referral { .. }), "{answer:?}");
    }
    // Longer than a node within reach would wait.
    std::thread::sleep(Duration::from_secs(12));
    let answer = ask(&address(&third), &fetch);
    assert!(matches!(answer, Response::Referral { .. }), "{answer:?}");
    assert_eq!(market(&third)["bought"], 0);
    assert!(third.tornet(&["status"]).contains("buys nothing"));
}
