//! What happens when ggml gives up: where it can't return an error, it ends the process.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use ggml_sys as sys;

type Hook = Box<dyn Fn(&str) + Send + Sync>;

static HOOK: OnceLock<Hook> = OnceLock::new();

/// Lets `hook` say what ggml gave up for, in whichever thread. If it returns, the process is aborted; only the
/// first hook counts. Without one, ggml prints its reason and a backtrace.
pub fn on_abort(hook: impl Fn(&str) + Send + Sync + 'static) {
    if HOOK.set(Box::new(hook)).is_ok() {
        // SAFETY: a plain function that never unwinds; whoever aborts reads the pointer.
        unsafe { sys::ggml_set_abort_callback(Some(aborted)) };
    }
}

unsafe extern "C" fn aborted(message: *const c_char) {
    // SAFETY: ggml passes a C string.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    if let Some(hook) = HOOK.get() {
        let _ = catch_unwind(AssertUnwindSafe(|| hook(&message)));
    }
}
