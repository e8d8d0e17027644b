//! Single facts of the oracle; whole scenarios are in `tests/verdicts.rs`.
