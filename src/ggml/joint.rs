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
use super::store::Buffer;
use super::{BufferType, DType, Device, GgmlError, MAX_GPUS};

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

/// Why devices cannot be joined: one of them would get nothing of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--split-mode tensor: {device} would have no part of {tensor}, which comes in {n_units} pieces for {n} GPUs; name \
     fewer with --device, or give it a larger share with --tensor-split"
)]
#[allow(missing_docs)]
pub struct NoPart {
    pub device: String,
    pub tensor: String,
    pub n_units: i64,
    pub n: usize,
}

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

/// A joined device, its memory, and what it is. All live as long as the program, as all devices do.
static JOINTS: Mutex<Vec<(Device, BufferType, &'static Joint)>> = Mutex::new(Vec::new());

/// Makes one device of several, which take parts of each tensor in proportion to `shares`.
pub fn join(devices: &[Device], shares: &[f64], cuts: Cuts) -> Result<Device, NoPart> {
    assert!(devices.len() == shares.len() && (1..=MAX_GPUS).contains(&devices.len()));
    let sum: f64 = shares.iter().sum();
    let joint = Joint {
        name: devices.iter().map(|device| device.name()).collect::<Vec<_>>().join("+"),
        members: devices.to_vec(),
        proportions: shares.iter().map(|share| share / sum).collect(),
        shares: Vec::new(),
        cuts,
    };
    joint.check()?;
    let joint = Joint { shares: joint.largest_shares(), ..joint };
    let joint: &'static Joint = Box::leak(Box::new(joint));
    let mut pointers: Vec<_> = devices.iter().map(|device| device.0.as_ptr()).collect();
    let mut joints = JOINTS.lock().expect("nobody panics while holding the table");
    // SAFETY: the list is copied; the joint lives as long as the program and is only read. ggml keeps such devices
    // and their kinds of memory in tables without locks, which are asked only here, under ours.
    let (device, memory) = unsafe {
        let data = std::ptr::from_ref(joint).cast_mut().cast();
        let (list, n) = (pointers.as_mut_ptr(), pointers.len());
        let device = sys::ggml_backend_meta_device(list, n, Some(split_state), data);
        (device, BufferType(sys::ggml_backend_dev_buffer_type(device)))
    };
    let device = Device(NonNull::new(device).expect("a device is made"));
    joints.push((device, memory, joint));
    Ok(device)
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
        Joint::with_memory(device).map(|(_, joint)| joint)
    }

    /// The same with its kind of memory.
    pub(super) fn with_memory(device: Device) -> Option<(BufferType, &'static Joint)> {
        // SAFETY: a device pointer is valid for the program's life.
        let kind = unsafe { sys::ggml_backend_dev_type(device.0.as_ptr()) };
        if kind != sys::GGML_BACKEND_DEVICE_TYPE_META {
            return None;
        }
        let joints = JOINTS.lock().expect("nobody panics while holding the table");
        let known = joints.iter().find(|(known, ..)| *known == device);
        known.map(|&(_, memory, joint)| (memory, joint))
    }

    /// Refuses what gives somebody nothing, the worst first.
    fn check(&self) -> Result<(), NoPart> {
        let empty = |(name, cut): (&String, &Cut)| {
            let member = self.deal(*cut).iter().position(|&n| n == 0)?;
            Some((cut.n_units, name.clone(), member))
        };
        match self.cuts.iter().filter_map(empty).min() {
            None => Ok(()),
            Some((n_units, tensor, member)) => {
                let device = self.members[member].name().to_owned();
                Err(NoPart { device, tensor, n_units, n: self.members.len() })
            }
        }
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

/// Takes so many bytes of each device at once, and gives them back: ggml ends the process where a member of a joint
/// has no room, so this comes first. `what` names them in the error.
pub fn check_memory(what: &'static str, wanted: &[(Device, usize)]) -> Result<(), GgmlError> {
    let mut taken = Vec::new();
    for &(device, n_bytes) in wanted {
        let kind = device.buffer_type();
        let mut rest = n_bytes;
        while rest > 0 {
            let piece = rest.min(kind.max_bytes());
            let buffer = Buffer::allocate(kind, piece);
            let refused = || GgmlError::Alloc { what, n_bytes, device: device.name().to_owned() };
            taken.push(buffer.ok_or_else(refused)?);
            rest -= piece;
        }
    }
    Ok(())
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
        let refused = join(&[cpu; 3], &[1.0; 3], cuts(2)).unwrap_err();
        assert_eq!((&*refused.tensor, refused.n_units, refused.n), ("x", 2, 3));
        assert!(join(&[cpu; 2], &[99.0, 1.0], cuts(8)).is_err());
        let device = join(&[cpu; 2], &[1.0; 2], cuts(2)).unwrap();
        assert_eq!((device.name(), device.kind()), ("CPU+CPU", super::super::DeviceKind::Gpu));
    }
}
