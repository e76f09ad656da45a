//! What ggml says. Its chatter is not for users: what they need to know, the layers above say. Its last complaint
//! is kept, for the reason behind a refusal is nowhere else.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};

use ggml_sys as sys;

type Hook = Box<dyn Fn(&str) + Send + Sync>;

static LAST: Mutex<String> = Mutex::new(String::new());
static HOOK: OnceLock<Hook> = OnceLock::new();

thread_local! {
    static IS_HEARD: Cell<bool> = const { Cell::new(true) };
}

/// Longest complaint that is kept.
const MAX_BYTES: usize = 500;

/// The last error that any backend has logged, on one line; empty if there was none.
pub fn last_complaint() -> String {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Hands every complaint to `hook` as it comes, for a process that may end without another word. Only the first
/// hook counts.
pub fn on_complaint(hook: impl Fn(&str) + Send + Sync + 'static) {
    let _ = HOOK.set(Box::new(hook));
}

/// Makes nothing of what this thread complains of from now on.
#[cfg(feature = "rpc")]
pub(super) fn stop_hearing_this_thread() {
    IS_HEARD.set(false);
}

/// The log of this program's ggml and of its modules.
pub(super) unsafe extern "C" fn keep_errors(
    level: sys::ggml_log_level,
    text: *const c_char,
    _data: *mut c_void,
) {
    if level != sys::GGML_LOG_LEVEL_ERROR || text.is_null() || !IS_HEARD.get() {
        return;
    }
    // SAFETY: ggml passes a C string.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.truncate(line.floor_char_boundary(MAX_BYTES));
    if line.is_empty() {
        return;
    }
    if let Some(hook) = HOOK.get() {
        let _ = catch_unwind(AssertUnwindSafe(|| hook(&line)));
    }
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = line;
}
