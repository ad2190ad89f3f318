//! A stranger: asks a node one thing by the library's own transport, under a new name each time, and is gone.

use std::net::SocketAddr;
use tornet::base::peer::Contact;
use tornet::net::endpoint::{Endpoint, EndpointConfig};
use tornet::net::identity::Identity;
use tornet::wire::message::{Request, Response};

/// Asks the node at an address (as it prints it), and gives its answer without what follows it.
pub fn ask(address: &str, request: &Request) -> Response {
    let node: Contact = address.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = EndpointConfig { listen, ..EndpointConfig::default() };
        let endpoint = Endpoint::open(Identity::generate().unwrap(), config).unwrap();
        let link = endpoint.dial(&node.peer, node.addrs[0]).await.unwrap();
        let answer = link.ask(&request.to_bytes()).await.unwrap();
        let response = Response::from_bytes(&answer.header).unwrap();
        endpoint.close(0).await;
        response
    })
}
