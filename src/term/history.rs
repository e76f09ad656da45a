//! Where the REPL keeps what was typed, as the XDG base directory specification has it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// `$XDG_STATE_HOME/gust/history`, or `~/.local/state/gust/history`; `None` without a home.
pub(super) fn path() -> Option<PathBuf> {
    path_in(env::var_os("XDG_STATE_HOME"), env::home_dir())
}

/// The specification says that a relative path is to be ignored.
fn path_in(state: Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let state = state.map(PathBuf::from).filter(|path| path.is_absolute());
    let home = home.filter(|home| home.is_absolute()).map(|home| home.join(".local/state"));
    Some(state.or(home)?.join(Path::new("gust/history")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(state: Option<&str>, home: Option<&str>, expected: Option<&str>) {
        let found = path_in(state.map(OsString::from), home.map(PathBuf::from));
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn the_history_lies_where_xdg_says() {
        check(Some("/s"), Some("/h"), Some("/s/gust/history"));
        check(Some(""), Some("/h"), Some("/h/.local/state/gust/history"));
        check(Some("rel"), Some("/h"), Some("/h/.local/state/gust/history"));
        check(None, None, None);
    }
}
