//! What this machine has: threads, memory and devices, as seen by a process that shares it.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::ggml::{Device, GgmlError};
use crate::plan::{Room, RoomKind};

/// Left to drivers, other programs and what backends take beside planned buffers, on each accelerator.
pub const GPU_MARGIN: u64 = 1 << 30;

/// Left to the rest of the machine when sizes are chosen for the user.
pub const MEMORY_MARGIN: u64 = 1 << 30;

/// Devices and what may be taken of each: accelerators, and the processor last.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The devices.
    pub devices: Vec<Device>,
    /// Their memory, without the margins.
    pub rooms: Vec<Room>,
}

impl Machine {
    /// `gpus` and the processor, of whose memory so many bytes are free; `None` for those that are free now.
    pub fn new(gpus: &[Device], memory: Option<u64>) -> Result<Self, GgmlError> {
        let cpu = Device::cpu()?;
        let gpu_room = |gpu: &Device| Room {
            name: gpu.name().to_owned(),
            kind: if gpu.shares_host_memory() { RoomKind::SharedGpu } else { RoomKind::Gpu },
            free: gpu.memory()[0].saturating_sub(GPU_MARGIN),
        };
        let mut rooms: Vec<Room> = gpus.iter().map(gpu_room).collect();
        rooms.push(Room {
            name: cpu.name().to_owned(),
            kind: RoomKind::Cpu,
            free: memory.unwrap_or_else(memory_available).saturating_sub(MEMORY_MARGIN),
        });
        Ok(Machine { devices: [gpus, &[cpu]].concat(), rooms })
    }

    /// Number of accelerators.
    pub fn n_gpu(&self) -> usize {
        self.devices.len() - 1
    }

    /// The processor alone.
    pub fn without_gpus(&self) -> Self {
        let n_gpu = self.n_gpu();
        Machine { devices: self.devices[n_gpu..].to_vec(), rooms: self.rooms[n_gpu..].to_vec() }
    }
}

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
