//! The time that this thread has been running: what a piece of work takes on a machine that does nothing else.

use std::time::Duration;

/// On a busy machine the clock counts the others too, this does not. Zero where the kernel does not say.
pub(crate) fn of_this_thread() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

/// How much of what this thread has been running was in the kernel, as ticks of the kernel's clock: (kernel, all).
pub(crate) fn kernel_share() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    // The program's name, in parentheses, may hold blanks. Times in user and kernel mode are fields 14 and 15.
    let behind = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |field: usize| behind.split_whitespace().nth(field - 3).and_then(|word| word.parse().ok());
    let (user, kernel): (u64, u64) = (ticks(14).unwrap_or_default(), ticks(15).unwrap_or_default());
    (kernel, user + kernel)
}
