//! Handles to ggml tensors and their element types.

use std::ffi::CString;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use ggml_sys as sys;

use super::text;

/// Element type of a tensor, one of `enum ggml_type`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DType(pub(super) sys::ggml_type);

#[allow(missing_docs)]
impl DType {
    pub const F32: DType = DType(sys::GGML_TYPE_F32);
    pub const F16: DType = DType(sys::GGML_TYPE_F16);
    pub const BF16: DType = DType(sys::GGML_TYPE_BF16);
    pub const Q8_0: DType = DType(sys::GGML_TYPE_Q8_0);
    pub const Q4_0: DType = DType(sys::GGML_TYPE_Q4_0);
    pub const I32: DType = DType(sys::GGML_TYPE_I32);
    pub const I64: DType = DType(sys::GGML_TYPE_I64);
}

impl DType {
    /// The type that ggml (and a GGUF file) numbers `id`; `None` where ggml has a hole or an end.
    pub fn from_id(id: u32) -> Option<DType> {
        // SAFETY: the table has GGML_TYPE_COUNT entries, and id is below.
        let exists = id < sys::GGML_TYPE_COUNT && unsafe { sys::ggml_blck_size(id) } > 0;
        exists.then_some(DType(id))
    }

    /// ggml's number of the type, the one that a GGUF file uses.
    pub fn id(self) -> u32 {
        self.0
    }

    /// ggml's name, such as `q4_K`.
    pub fn name(self) -> &'static str {
        // SAFETY: self.0 is a valid type; names are literals.
        unsafe { text(sys::ggml_type_name(self.0)) }
    }

    /// Elements per block.
    pub fn block_size(self) -> i64 {
        // SAFETY: self.0 is a valid type.
        unsafe { sys::ggml_blck_size(self.0) }
    }

    /// Whether elements come in blocks with scales.
    pub fn is_quantized(self) -> bool {
        self.block_size() > 1
    }

    /// Bytes of a row of `n` elements; `n` is a multiple of the block size.
    pub fn row_size(self, n: i64) -> usize {
        assert!(n % self.block_size() == 0, "{n} elements are no whole blocks of {self:?}");
        // SAFETY: self.0 is a valid type, and n was checked.
        unsafe { sys::ggml_row_size(self.0, n) }
    }
}

impl fmt::Debug for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that crosses into tensor memory as it is.
///
/// # Safety
/// Implementors are plain old data without padding, laid out as the [`DType`] says.
pub unsafe trait Element: Copy + 'static {
    /// The tensor type that holds it.
    const DTYPE: DType;
}

// SAFETY: an f32 is what F32 holds.
unsafe impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
// SAFETY: an i32 is what I32 holds.
unsafe impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
// SAFETY: an i64 is what I64 holds.
unsafe impl Element for i64 {
    const DTYPE: DType = DType::I64;
}
// SAFETY: a u16 holds the bits of an F16.
unsafe impl Element for u16 {
    const DTYPE: DType = DType::F16;
}

/// A tensor of a graph under construction or of a store that the graph has taken in.
///
/// `'g` is the graph builder's life: a handle can't outlive the arena its header lies in.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    pub(super) ptr: NonNull<sys::ggml_tensor>,
    pub(super) life: PhantomData<&'g ()>,
}

impl<'g> Tensor<'g> {
    pub(super) fn new(ptr: *mut sys::ggml_tensor) -> Self {
        let ptr = NonNull::new(ptr).expect("ggml returns a tensor or aborts");
        Tensor { ptr, life: PhantomData }
    }

    fn header(&self) -> &sys::ggml_tensor {
        // SAFETY: the header lies in an arena that outlives 'g; nobody holds a &mut to it.
        unsafe { self.ptr.as_ref() }
    }

    /// Elements in each dimension, fastest first.
    pub fn ne(&self) -> [i64; 4] {
        self.header().ne
    }

    /// Bytes between neighbours in each dimension.
    pub fn nb(&self) -> [usize; 4] {
        self.header().nb
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        DType(self.header().type_)
    }

    /// Elements in all.
    pub fn n_elements(&self) -> i64 {
        self.ne().iter().product()
    }

    /// Whether elements lie in one run without gaps.
    pub fn is_contiguous(&self) -> bool {
        let (ne, nb, dtype) = (self.ne(), self.nb(), self.dtype());
        let row = dtype.row_size(ne[0]);
        nb[1] == row && nb[2] == nb[1] * ne[1] as usize && nb[3] == nb[2] * ne[2] as usize
    }

    /// Names the node, as traces and golden tests know it.
    pub fn named(self, name: impl Into<String>) -> Self {
        let name = CString::new(name.into()).expect("node names have no NUL");
        // SAFETY: ggml copies at most 63 bytes of the name into the header.
        unsafe { sys::ggml_set_name(self.ptr.as_ptr(), name.as_ptr()) };
        self
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.dtype(), self.ne())
    }
}
