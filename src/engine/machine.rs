//! What this machine has: threads and memory, as seen by a process that shares it.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Threads to compute with: the physical cores that this process may use.
///
/// Two threads on one core share its vector units and lose to one; threads beyond the process's
/// affinity or quota only wait for each other.
pub fn default_n_threads() -> u32 {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let physical = System::physical_core_count().unwrap_or(allowed);
    physical.min(allowed).max(1) as u32
}

/// Bytes that can be allocated without swapping; page cache counts as free. No limit where the
/// system doesn't tell.
pub fn memory_available() -> u64 {
    let what = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let Ok(system) = System::new_with_specifics(what) else { return u64::MAX };
    // What a group counts as used includes page cache, which goes when it is needed.
    let free = |limits: sysinfo::CGroupLimits| limits.total_memory.saturating_sub(limits.rss);
    let cgroup = system.cgroup_limits().map_or(u64::MAX, free);
    system.available_memory().min(cgroup)
}
