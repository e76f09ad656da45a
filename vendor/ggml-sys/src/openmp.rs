//! Bounds how long OpenMP threads spin at a barrier.
//!
//! ggml puts a barrier after every operation of a graph. libgomp waits there for up to 3 ms by spinning
//! before it sleeps; when another process holds one of the cores, each barrier then costs a scheduler's
//! slice, and a forward pass becomes a thousand times slower. A short spin costs next to nothing on a
//! quiet machine and lets the kernel run whoever is being waited for on a busy one.
//!
//! libgomp reads the environment in its own constructor. It is linked statically, so a constructor of
//! this binary with a higher priority runs before it, when libc is ready already.

use core::ffi::{c_char, c_int};

/// Rounds of the spin loop, some tens of microseconds; a user's own setting stays.
const SPIN_COUNT: &core::ffi::CStr = c"5000";

unsafe extern "C" {
    fn setenv(name: *const c_char, value: *const c_char, overwrite: c_int) -> c_int;
    fn getenv(name: *const c_char) -> *const c_char;
}

extern "C" fn bound_spinning() {
    // SAFETY: constructors run on the only thread, after libc's; the strings are static.
    unsafe {
        if getenv(c"OMP_WAIT_POLICY".as_ptr()).is_null() {
            setenv(c"GOMP_SPINCOUNT".as_ptr(), SPIN_COUNT.as_ptr(), 0);
        }
    }
}

#[used]
#[unsafe(link_section = ".init_array.00200")]
static BOUND_SPINNING: extern "C" fn() = bound_spinning;
