//! Panics of other people's code, contained: a decoder or a grammar engine that gives up on hostile input
//! is that input's fault, not the program's end.
//!
//! The panic hook is the process's, so it is wrapped once and asks a flag of the panicking thread: what is
//! contained prints nothing, everything else does what it did before. Our own panics are bugs; only the server
//! contains them, so that a bug costs the request that found it and no other.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`; `None` if it panicked. What it was changing must not be used after that.
pub(crate) fn panics<T>(work: impl FnOnce() -> T) -> Option<T> {
    static WRAP: Once = Once::new();
    WRAP.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_CONTAINED.get() {
                hook(info);
            }
        }));
    });
    let outer = IS_CONTAINED.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    IS_CONTAINED.set(outer);
    done.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_inside_is_none_and_outside_is_a_panic() {
        assert_eq!(panics(|| 7), Some(7));
        let inner = || {
            assert_eq!(panics(|| -> i32 { panic!("contained") }), None);
            panic!("contained as well");
        };
        assert_eq!(panics(|| -> i32 { inner() }), None);
        assert!(!IS_CONTAINED.get());
    }
}
