//! Which keys the map may hold: the in-memory filter that answers most look-ups, since most messages are new.
//!
//! A blocked Bloom filter: a key sets [`PROBES`] bits within one cache line, so a look-up is one memory access a layer.
//! At 12 bits an entry about one new key in 150 goes to the disk for nothing; 100 million entries take 150 MB. It grows in
//! layers, each as large as all before it, because a full filter cannot be enlarged without its keys; after a restart it
//! is one layer again. Keys are never taken out: a removed entry costs a read. "No" is certain, for keys inserted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

const BITS_PER_ENTRY: usize = 12;
const BLOCK_BITS: usize = 512;
/// Bits that a key sets; seven numbers of nine bits fit a word of its hash.
const PROBES: usize = 7;
const FIRST_LAYER_ENTRIES: usize = 256 * 1024;

pub(super) struct Filter {
    layers: ArcSwap<Vec<Arc<Layer>>>,
    growing: Mutex<()>,
}

struct Layer {
    blocks: Vec<Block>,
    capacity: usize,
    inserted: AtomicUsize,
}

#[derive(Default)]
#[repr(align(64))]
struct Block([AtomicU64; BLOCK_BITS / 64]);

/// A key's digest, two words of it; its bits must be as good as random.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digest {
    pub(super) block: u64,
    pub(super) bits: u64,
}

impl Filter {
    /// With room for this many entries before it grows.
    pub(super) fn sized(entries: usize) -> Self {
        let first = Layer::sized(entries.max(FIRST_LAYER_ENTRIES));
        Self {
            layers: ArcSwap::from_pointee(vec![Arc::new(first)]),
            growing: Mutex::new(()),
        }
    }

    pub(super) fn insert(&self, digest: Digest) {
        let layers = self.layers.load();
        // A filter has a layer from its start on.
        let Some(newest) = layers.last() else { return };
        newest.insert(digest);
        if newest.inserted.fetch_add(1, Relaxed) + 1 >= newest.capacity {
            self.grow();
        }
    }

    pub(super) fn may_contain(&self, digest: Digest) -> bool {
        self.layers
            .load()
            .iter()
            .any(|layer| layer.may_contain(digest))
    }

    fn grow(&self) {
        let _one_at_a_time = self.growing.lock();
        let layers = self.layers.load_full();
        let full = |layer: &Arc<Layer>| layer.inserted.load(Relaxed) >= layer.capacity;
        if layers.last().is_some_and(full) {
            let total = layers.iter().map(|layer| layer.capacity).sum();
            let mut more = Vec::clone(&layers);
            more.push(Arc::new(Layer::sized(total)));
            self.layers.store(Arc::new(more));
        }
    }

    /// Memory that the filter takes.
    pub(super) fn bytes(&self) -> usize {
        let layers = self.layers.load();
        layers
            .iter()
            .map(|layer| layer.blocks.len() * BLOCK_BITS / 8)
            .sum()
    }
}

impl Layer {
    fn sized(entries: usize) -> Self {
        let blocks = (entries * BITS_PER_ENTRY).div_ceil(BLOCK_BITS);
        Self {
            blocks: std::iter::repeat_with(Block::default)
                .take(blocks)
                .collect(),
            capacity: entries,
            inserted: AtomicUsize::new(0),
        }
    }

    /// The block, by multiplication instead of the slower remainder.
    fn block(&self, digest: Digest) -> &Block {
        let at = (u128::from(digest.block) * self.blocks.len() as u128) >> 64;
        &self.blocks[at as usize]
    }

    fn insert(&self, digest: Digest) {
        let block = self.block(digest);
        for (word, mask) in masks(digest) {
            block.0[word].fetch_or(mask, Relaxed);
        }
    }

    fn may_contain(&self, digest: Digest) -> bool {
        let block = self.block(digest);
        masks(digest).all(|(word, mask)| block.0[word].load(Relaxed) & mask != 0)
    }
}

fn masks(digest: Digest) -> impl Iterator<Item = (usize, u64)> {
    (0..PROBES).map(move |probe| {
        let bit = (digest.bits >> (9 * probe)) as usize % BLOCK_BITS;
        (bit / 64, 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u64) -> Digest {
        let hash = blake3::hash(&n.to_le_bytes());
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&hash.as_bytes()[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        Digest {
            block: word(0),
            bits: word(8),
        }
    }

    #[test]
    fn what_was_inserted_is_found_through_every_growth_and_few_others_are() {
        let filter = Filter::sized(0);
        let inserted = 3 * FIRST_LAYER_ENTRIES as u64;
        for n in 0..inserted {
            filter.insert(digest(n));
        }
        assert_eq!(filter.layers.load().len(), 3);
        assert!((0..inserted).all(|n| filter.may_contain(digest(n))));
        let wrong = (inserted..inserted + 100_000)
            .filter(|n| filter.may_contain(digest(*n)))
            .count();
        assert!(wrong < 2_000, "{wrong} of 100,000 strangers pass");
        assert!(filter.bytes() <= 4 * FIRST_LAYER_ENTRIES * BITS_PER_ENTRY / 8 + 64);
    }
}
