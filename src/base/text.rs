//! Text forms: bech32m with the prefix `tornet1`, peer addresses, and foreign text made safe to print.
