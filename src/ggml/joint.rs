//! Several devices as one: each has a part of every matrix, and all work on each layer together.
//!
//! The work is that of ggml's meta device. It is told by name how stored tensors are cut, follows the cuts
//! through a graph, runs each device's part of it, and adds up partial sums wherever a product leaves some. It
//! ends the process where cuts do not fit each other, so what is cut how is decided in one place, `model::cuts`.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::Mutex;

use ggml_sys as sys;

use super::graph::Arena;
use super::{BufferType, DType, Device};

/// How a tensor is cut: `axis` into `n_units` like pieces, of which each device takes some neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The dimension in ggml's order, 0 or 1.
    pub axis: usize,
    /// Pieces that stay whole.
    pub n_units: i64,
    /// The device with which dealing begins. Pieces that cannot be dealt evenly then go to different devices in
    /// different layers.
    pub turn: usize,
}

/// Cuts by names of tensors. All other tensors are whole on every device.
pub type Cuts = HashMap<String, Cut>;

/// ggml's scheduler takes 16 backends, and the processor is one.
pub const MAX_JOINED: usize = 15;

/// What is cut how, and for whom.
#[derive(Debug)]
pub(super) struct Joint {
    name: String,
    members: Vec<Device>,
    /// In which units are dealt; their sum is 1.
    proportions: Vec<f64>,
    /// The largest part of a kind of tensor that each then has, over all layers.
    shares: Vec<f64>,
    cuts: Cuts,
}

/// Joints live as long as the program, as all devices do.
static JOINTS: Mutex<Vec<(Device, &'static Joint)>> = Mutex::new(Vec::new());

/// Makes one device of several, which take parts of each tensor in proportion to `shares`.
///
/// `None` if one of them would get nothing of a tensor: they are too many, or a share is too small.
pub fn join(devices: &[Device], shares: &[f64], cuts: Cuts) -> Option<Device> {
    assert!(devices.len() == shares.len() && (1..=MAX_JOINED).contains(&devices.len()));
    let sum: f64 = shares.iter().sum();
    let joint = Joint {
        name: devices.iter().map(|device| device.name()).collect::<Vec<_>>().join("+"),
        members: devices.to_vec(),
        proportions: shares.iter().map(|share| share / sum).collect(),
        shares: Vec::new(),
        cuts,
    };
    if joint.cuts.values().any(|cut| joint.deal(*cut).contains(&0)) {
        return None;
    }
    let joint = Joint { shares: joint.largest_shares(), ..joint };
    let joint: &'static Joint = Box::leak(Box::new(joint));
    let mut pointers: Vec<_> = devices.iter().map(|device| device.0.as_ptr()).collect();
    let mut joints = JOINTS.lock().expect("nobody panics while holding the table");
    // SAFETY: the list is copied; the joint lives as long as the program and is only read. ggml keeps such devices
    // and their kinds of memory in tables without locks, which are filled here, under ours.
    let device = unsafe {
        let data = std::ptr::from_ref(joint).cast_mut().cast();
        let (list, n) = (pointers.as_mut_ptr(), pointers.len());
        let device = sys::ggml_backend_meta_device(list, n, Some(split_state), data);
        sys::ggml_backend_dev_buffer_type(device);
        Device(NonNull::new(device).expect("a device is made"))
    };
    joints.push((device, joint));
    Some(device)
}

/// Tells ggml how a stored tensor is cut.
///
/// # Safety
/// `tensor` is a valid tensor, and `data` the [`Joint`] that [`join`] gave.
unsafe extern "C" fn split_state(
    tensor: *const sys::ggml_tensor,
    data: *mut c_void,
) -> sys::ggml_backend_meta_split_state {
    // SAFETY: the caller's promise.
    let (joint, tensor) = unsafe { (&*data.cast_const().cast::<Joint>(), &*tensor) };
    let mut state = sys::ggml_backend_meta_split_state {
        axis: sys::GGML_BACKEND_SPLIT_AXIS_MIRRORED,
        n_segments: 1,
        ..Default::default()
    };
    state.nr[0] = 1;
    if let Some(cut) = joint.cut_of(tensor) {
        state.axis = cut.axis as sys::ggml_backend_meta_split_axis;
        let lengths = joint.lengths(cut, tensor.ne[cut.axis]);
        state.ne[..lengths.len()].copy_from_slice(&lengths);
    }
    state
}

impl Joint {
    /// The joint that `device` is, if it is one.
    pub(super) fn of(device: Device) -> Option<&'static Joint> {
        // SAFETY: a device pointer is valid for the program's life.
        let kind = unsafe { sys::ggml_backend_dev_type(device.0.as_ptr()) };
        if kind != sys::GGML_BACKEND_DEVICE_TYPE_META {
            return None;
        }
        let joints = JOINTS.lock().expect("nobody panics while holding the table");
        joints.iter().find(|(known, _)| *known == device).map(|(_, joint)| *joint)
    }

    /// The joint whose kind of memory this is, if it is one's.
    pub(super) fn of_memory(kind: BufferType) -> Option<&'static Joint> {
        // SAFETY: a kind of memory is always valid; most know their device.
        let device = unsafe { sys::ggml_backend_buft_get_device(kind.0) };
        NonNull::new(device).and_then(|device| Joint::of(Device(device)))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn members(&self) -> &[Device] {
        &self.members
    }

    /// The largest part of the model that each member may have.
    pub(super) fn shares(&self) -> &[f64] {
        &self.shares
    }

    fn largest_shares(&self) -> Vec<f64> {
        let n = self.members.len();
        let mut most = vec![0.0; n];
        let kinds: HashSet<i64> = self.cuts.values().map(|cut| cut.n_units).collect();
        for n_units in kinds {
            let turns = (0..n).map(|turn| self.deal(Cut { axis: 0, n_units, turn }));
            let sums = turns.fold(vec![0; n], |sums, dealt| {
                sums.iter().zip(dealt).map(|(a, b)| a + b).collect()
            });
            for (most, sum) in most.iter_mut().zip(sums) {
                *most = f64::max(*most, sum as f64 / (n_units * n as i64) as f64);
            }
        }
        most
    }

    fn cut_of(&self, tensor: &sys::ggml_tensor) -> Option<Cut> {
        // SAFETY: ggml ends names with NUL.
        let name = unsafe { CStr::from_ptr(tensor.name.as_ptr()) };
        self.cuts.get(name.to_str().ok()?).copied()
    }

    /// Units of each member.
    fn deal(&self, cut: Cut) -> Vec<i64> {
        let (n, mut dealt) = (self.members.len(), vec![0; self.members.len()]);
        let (mut sum, mut end) = (0.0, 0);
        for i in 0..n {
            let member = (cut.turn + i) % n;
            sum += self.proportions[member];
            let next =
                if i + 1 == n { cut.n_units } else { (sum * cut.n_units as f64).round() as i64 };
            dealt[member] = next - end;
            end = next;
        }
        dealt
    }

    /// Elements of each member, of `n` along the cut.
    fn lengths(&self, cut: Cut, n: i64) -> Vec<i64> {
        assert!(n % cut.n_units == 0, "{n} elements are no {} like pieces", cut.n_units);
        self.deal(cut).into_iter().map(|n_units| n_units * (n / cut.n_units)).collect()
    }

    /// Bytes that each member's parts of `tensors` take in its memory.
    ///
    /// # Safety
    /// The tensors are valid.
    pub(super) unsafe fn n_bytes(&self, tensors: &[*mut sys::ggml_tensor]) -> Vec<usize> {
        let mut sums = vec![0; self.members.len()];
        for &tensor in tensors {
            // SAFETY: the caller's promise.
            let tensor = unsafe { &*tensor };
            let cut = self.cut_of(tensor);
            let lengths = cut.map(|cut| self.lengths(cut, tensor.ne[cut.axis]));
            for (i, (member, sum)) in self.members.iter().zip(&mut sums).enumerate() {
                let mut ne = tensor.ne;
                if let (Some(cut), Some(lengths)) = (cut, &lengths) {
                    ne[cut.axis] = lengths[i];
                }
                let (arena, kind) = (Arena::for_tensors(1), member.buffer_type());
                let part = arena.tensor(DType(tensor.type_), &ne);
                // SAFETY: the header is in our arena; the question only reads it.
                let size =
                    unsafe { sys::ggml_backend_buft_get_alloc_size(kind.0, part.ptr.as_ptr()) };
                *sum += size.next_multiple_of(kind.alignment());
            }
        }
        sums
    }
}

impl BufferType {
    /// Whether so many bytes can be had now; they are given back. ggml ends the process where a member of a joint
    /// has no room, so this is asked first.
    pub(super) fn has_room(self, n_bytes: usize) -> bool {
        let mut taken = Vec::new();
        let mut rest = n_bytes;
        let all = loop {
            if rest == 0 {
                break true;
            }
            let piece = rest.min(self.max_bytes());
            // SAFETY: a plain allocation, NULL if refused.
            let buffer = unsafe { sys::ggml_backend_buft_alloc_buffer(self.0, piece) };
            if buffer.is_null() {
                break false;
            }
            taken.push(buffer);
            rest -= piece;
        };
        for buffer in taken {
            // SAFETY: the buffer is ours, and nothing lies in it.
            unsafe { sys::ggml_backend_buffer_free(buffer) };
            super::sched::memory_changed();
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint(shares: &[f64]) -> Joint {
        let cpu = Device::cpu().unwrap();
        let members = vec![cpu; shares.len()];
        Joint {
            name: String::new(),
            members,
            proportions: shares.to_vec(),
            shares: Vec::new(),
            cuts: Cuts::new(),
        }
    }

    #[test]
    fn what_cannot_be_dealt_evenly_goes_round() {
        let joint = joint(&[1.0 / 3.0; 3]);
        let dealt = |turn| joint.deal(Cut { axis: 0, n_units: 8, turn });
        assert_eq!([dealt(0), dealt(1), dealt(2)], [[3, 2, 3], [3, 3, 2], [2, 3, 3]]);
        assert_eq!(joint.lengths(Cut { axis: 1, n_units: 8, turn: 0 }, 1024), [384, 256, 384]);
    }

    #[test]
    fn shares_are_proportions_and_nobody_goes_empty() {
        assert_eq!(joint(&[0.75, 0.25]).deal(Cut { axis: 0, n_units: 8, turn: 1 }), [6, 2]);
        let cpu = Device::cpu().unwrap();
        let cuts = |n_units| Cuts::from([("x".to_owned(), Cut { axis: 0, n_units, turn: 0 })]);
        assert!(join(&[cpu; 3], &[1.0; 3], cuts(2)).is_none());
        assert!(join(&[cpu; 2], &[99.0, 1.0], cuts(8)).is_none());
        let device = join(&[cpu; 2], &[1.0; 2], cuts(2)).unwrap();
        assert_eq!((device.name(), device.kind()), ("CPU+CPU", super::super::DeviceKind::Gpu));
    }
}
