//! In which order a host tries the blocks of a pool.
//!
//! A circular walk over the pool's blocks by address, from a start that depends on the host's name only: concurrent
//! requests of one host meet at the same block, those of different hosts mostly do not. Upstream draws the start
//! from Go's classic `math/rand` source, seeded with the 32-bit FNV-1 hash of the name, and so does this module,
//! number for number: in a mixed cluster both kinds of node then prefer the same blocks.
//!
//! The source is an additive lagged Fibonacci generator over 64-bit words, s[k] = s[k-607] + s[k-273]. Its initial
//! state is a mix of a small linear congruential generator, seeded by the caller, and the fixed words in
//! [`table`], which are the state of the very same generator after 7.8e12 draws from seed 1; a test derives them.

mod table;

use ipnet::IpNet;

use crate::{
    Reservations,
    range::{block_count, block_index, bounds, nth_block},
};

const WORDS: usize = 607;
const TAP: usize = 273;
/// 2^31 - 1, the modulus of the seeding generator.
const SEED_MODULUS: u64 = 0x7fff_ffff;

/// The 32-bit FNV-1 hash (multiply, then xor) of a host name.
pub(crate) fn host_hash(host: &str) -> u32 {
    host.bytes().fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte))
}

/// The generator's state.
struct Fibonacci {
    words: [u64; WORDS],
    tap: usize,
    feed: usize,
}

impl Fibonacci {
    fn new(seed: u64) -> Self {
        let mut fibonacci = Self::unmixed(seed, [40, 20, 0]);
        for (word, mixed_in) in fibonacci.words.iter_mut().zip(table::TABLE) {
            *word ^= mixed_in;
        }
        fibonacci
    }

    /// The state before the table is mixed in: three values of the seeding generator per word, shifted and xored.
    fn unmixed(seed: u64, shifts: [u32; 3]) -> Self {
        let mut x = match seed % SEED_MODULUS {
            0 => 89_482_311,
            seed => seed,
        };
        let mut step = || {
            x = x * 48_271 % SEED_MODULUS;
            x
        };
        for _ in 0..20 {
            step();
        }
        let mut words = [0; WORDS];
        for word in &mut words {
            *word = shifts.iter().fold(0, |word, shift| word ^ (step() << shift));
        }
        Self { words, tap: 0, feed: WORDS - TAP }
    }

    fn draw(&mut self) -> u64 {
        self.tap = self.tap.checked_sub(1).unwrap_or(WORDS - 1);
        self.feed = self.feed.checked_sub(1).unwrap_or(WORDS - 1);
        self.words[self.feed] = self.words[self.feed].wrapping_add(self.words[self.tap]);
        self.words[self.feed]
    }

    fn draw_u32(&mut self) -> u32 {
        (self.draw() >> 31) as u32
    }

    /// A number below `n`, as Go's `big.Int.Rand` draws it: per 64-bit word of `n` two 32-bit values, the lowest
    /// first, the top word cut to the bit length of `n`, all again while the result is not below `n`.
    fn below(&mut self, n: u128) -> u128 {
        if n <= 1 {
            return 0;
        }
        let bits = 128 - n.leading_zeros();
        let words = bits.div_ceil(64);
        loop {
            let mut candidate = 0;
            for half in 0..words * 2 {
                candidate |= u128::from(self.draw_u32()) << (32 * half);
            }
            candidate &= u128::MAX >> (128 - bits);
            if candidate < n {
                return candidate;
            }
        }
    }
}

/// A host's order of the blocks of one pool.
#[derive(Clone, Debug)]
pub(crate) struct BlockOrder {
    pool: IpNet,
    len: u8,
    count: u128,
    start: u128,
}

impl BlockOrder {
    /// The order in which `host` tries the blocks of `pool` with prefix length `len`. Blocks of one address would
    /// make all requests of a host meet at one address; for them the start is drawn from `entropy`.
    pub(crate) fn new(pool: IpNet, len: u8, host: &str, entropy: u64) -> Self {
        let count = block_count(pool, len);
        let single = len == pool.max_prefix_len();
        let seed = if single { entropy } else { u64::from(host_hash(host)) };
        Self { pool, len, count, start: Fibonacci::new(seed).below(count) }
    }

    /// The first block in order that is not reserved whole and that `accept` takes.
    ///
    /// Runs of reserved blocks are stepped over as one, so that a reservation of most of a large IPv6 pool costs
    /// nothing; other blocks are asked for one by one, and `accept` is expected to refuse only blocks that exist.
    pub(crate) fn find(&self, reservations: &Reservations, mut accept: impl FnMut(IpNet) -> bool) -> Option<IpNet> {
        // From the start to the end, then from the beginning to the start.
        [(self.start, self.count), (0, self.start)].into_iter().find_map(|(mut index, end)| {
            while index < end {
                let block = nth_block(self.pool, self.len, index);
                match reservations.covers(block) {
                    Some(last) => index = self.index_after(last)?,
                    None if accept(block) => return Some(block),
                    None => index += 1,
                }
            }
            None
        })
    }

    /// The first block that begins after an address, `None` past the end of the pool.
    fn index_after(&self, last: u128) -> Option<u128> {
        let (first, end) = bounds(self.pool);
        let step = u32::from(self.pool.max_prefix_len() - self.len);
        (last < end).then(|| (last + 1 - first) >> step.min(127))
    }

    /// Blocks that exist, in this order; blocks that are not the pool's are left out.
    pub(crate) fn sort(&self, blocks: impl IntoIterator<Item = IpNet>) -> Vec<IpNet> {
        let rank = |index: u128| if index >= self.start { index - self.start } else { self.count - self.start + index };
        let mut ranked: Vec<_> = blocks
            .into_iter()
            .filter_map(|block| block_index(self.pool, self.len, block).map(|index| (rank(index), block)))
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, block)| block).collect()
    }
}

#[cfg(test)]
mod tests;
