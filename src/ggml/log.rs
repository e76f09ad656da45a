//! What ggml says. Its chatter is not for users: what they need to know, the layers above say. Its last complaint
//! is kept, for the reason behind a refusal is nowhere else.

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, PoisonError};

use ggml_sys as sys;

static LAST: Mutex<String> = Mutex::new(String::new());

/// Longest complaint that is kept.
const MAX_BYTES: usize = 500;

/// The last error that any backend has logged, on one line; empty if there was none.
pub fn last_complaint() -> String {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The log of this program's ggml and of its modules.
pub(super) unsafe extern "C" fn keep_errors(
    level: sys::ggml_log_level,
    text: *const c_char,
    _data: *mut c_void,
) {
    if level != sys::GGML_LOG_LEVEL_ERROR || text.is_null() {
        return;
    }
    // SAFETY: ggml passes a C string.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.truncate(line.floor_char_boundary(MAX_BYTES));
    if !line.is_empty() {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }
}
