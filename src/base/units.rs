//! Amounts as people write them: `20 GiB`, `10 Mbit/s`, `300 ms`.
