//! Bounds how long OpenMP threads spin at a barrier.
//!
//! ggml puts a barrier after every operation of a graph. libgomp waits there for up to 15 ms by spinning
//! before it sleeps; when another process holds one of the cores, each barrier then costs a scheduler's
//! slice, and a forward pass becomes a thousand times slower. Sleeping too soon is as bad: to wake a thread
//! takes up to 0.3 ms on a virtual machine, and if the one that wakes is given up on meanwhile, the two go on
//! missing each other at every barrier. One millisecond is beyond that, and within what the kernel lets
//! a thread run anyway.
//!
//! libgomp counts rounds, which take 5 to 50 ns by the processor, so they are timed. It reads the
//! environment in its own constructor. It is linked statically, so a constructor of this binary with a
//! higher priority runs before it, when libc is ready already.

use core::ffi::{c_char, c_int};
use std::time::{Duration, Instant};

const SPIN: Duration = Duration::from_millis(1);
const ROUNDS_TIMED: u32 = 1000;
/// Whatever is measured, which an interruption may spoil.
const ROUNDS: core::ops::RangeInclusive<u128> = 5_000..=200_000;

unsafe extern "C" {
    fn setenv(name: *const c_char, value: *const c_char, overwrite: c_int) -> c_int;
    fn getenv(name: *const c_char) -> *const c_char;
}

extern "C" fn bound_spinning() {
    let Ok(n_rounds) = std::ffi::CString::new(n_rounds().to_string()) else { return };
    // SAFETY: constructors run on the only thread, after libc's; `setenv` copies.
    unsafe {
        if getenv(c"OMP_WAIT_POLICY".as_ptr()).is_null() {
            // A user's own setting stays.
            setenv(c"GOMP_SPINCOUNT".as_ptr(), n_rounds.as_ptr(), 0);
        }
    }
}

/// Rounds of libgomp's loop that take [`SPIN`].
fn n_rounds() -> u128 {
    let start = Instant::now();
    (0..ROUNDS_TIMED).for_each(|_| core::hint::spin_loop());
    let rounds = SPIN.as_nanos() * u128::from(ROUNDS_TIMED) / start.elapsed().as_nanos().max(1);
    rounds.clamp(*ROUNDS.start(), *ROUNDS.end())
}

#[used]
#[unsafe(link_section = ".init_array.00200")]
static BOUND_SPINNING: extern "C" fn() = bound_spinning;
