//! Floor 4: sockets: QUIC with a Noise handshake in masked datagrams, bootstrap, local discovery.
