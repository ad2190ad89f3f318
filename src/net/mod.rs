//! Floor 4: sockets: QUIC with a Noise handshake in masked datagrams, bootstrap, local discovery.

pub mod address;
mod cid;
mod congestion;
pub mod discover;
pub mod endpoint;
pub mod identity;
pub mod link;
mod mask;
mod noise;
pub mod own;
mod packet;
mod primitive;
mod session;
mod socket;
#[cfg(test)]
mod tests;
mod token;
#[cfg(test)]
mod vectors;
