//! What is allocated, as the program asks for it: without the allocator's own overhead.

use peak_alloc::PeakAlloc;

/// Counts every allocation of this program, which costs some nanoseconds each: times are a little worse than without.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Bytes allocated beyond those at the start, so that what is measured counts alone.
pub(crate) struct Heap {
    before: usize,
}

impl Heap {
    pub(crate) fn start() -> Self {
        HEAP.reset_peak_usage();
        Self { before: HEAP.current_usage() }
    }

    /// Bytes in use now.
    pub(crate) fn now(&self) -> usize {
        HEAP.current_usage().saturating_sub(self.before)
    }

    /// The most bytes that were in use at a time.
    pub(crate) fn peak(&self) -> usize {
        HEAP.peak_usage().saturating_sub(self.before)
    }
}
