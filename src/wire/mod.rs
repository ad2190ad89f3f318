//! Floor 1: the messages between peers. One request and one answer to each QUIC stream; bytes in, typed values out.

pub mod call;
pub mod close;
pub mod codec;
pub mod head;
pub mod message;
pub mod payment;
pub mod receipt;
