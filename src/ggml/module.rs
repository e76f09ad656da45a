//! Backends in files of their own: found at start, loaded where they fit, explained where not.
//!
//! `scripts/build_backend.sh` makes such a file. It brings a hidden copy of ggml's core along, so it needs
//! nothing of this program; but both read the same structs, so it must be made of the same version of
//! ggml, and says which. Nothing of a file is called before its version is known to be right.

use std::ffi::{CStr, OsString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ggml_sys as sys;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::log::keep_errors;

/// Backends that may come as files.
const NAMES: &[&str] = &["cuda", "vulkan"];

/// Folders to look in before all others, separated as in `PATH`.
const VARIABLE: &str = "GUST_BACKENDS";

/// A file with a backend, or one that was expected to be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleNote {
    /// The file, or the folder of `GUST_BACKENDS` that has none.
    pub file: PathBuf,
    /// What became of it.
    pub outcome: ModuleOutcome,
}

/// What became of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModuleOutcome {
    /// Its devices are among [`devices`](super::devices).
    Loaded {
        /// Such as `CUDA`.
        backend: String,
        /// How many devices it found; a driver without a card has none.
        n_devices: usize,
    },
    /// The program goes on without it.
    Skipped {
        /// Why, for people.
        reason: String,
    },
}

static NOTES: OnceLock<Vec<ModuleNote>> = OnceLock::new();

/// What was found in the folders for modules, in the order in which it was looked at.
pub fn modules() -> &'static [ModuleNote] {
    super::devices(); // which loads them
    NOTES.get().map_or(&[], Vec::as_slice)
}

/// Loads what there is; called once, after the backends that are built in.
pub(super) fn load() {
    NOTES.get_or_init(|| {
        let exe = std::env::current_exe().ok();
        look(std::env::var_os(VARIABLE), exe.as_deref())
    });
}

/// One note for each file of a known name; the first that loads keeps later ones of its name away.
fn look(variable: Option<OsString>, exe: Option<&Path>) -> Vec<ModuleNote> {
    let mut notes = Vec::new();
    let mut loaded = Vec::new();
    for (folder, asked_for) in folders(variable, exe) {
        let n_before = notes.len();
        for name in NAMES.iter().filter(|name| !loaded.contains(*name)).collect::<Vec<_>>() {
            let file = folder.join(file_name(name));
            if !file.exists() {
                continue;
            }
            let outcome = match open(&file, name) {
                Ok((backend, n_devices)) => {
                    loaded.push(name);
                    ModuleOutcome::Loaded { backend, n_devices }
                }
                Err(reason) => ModuleOutcome::Skipped { reason },
            };
            notes.push(ModuleNote { file, outcome });
        }
        if asked_for && notes.len() == n_before && loaded.is_empty() {
            let reason = format!(
                "{VARIABLE} names this folder, but it has no {}",
                NAMES.iter().map(|name| file_name(name)).collect::<Vec<_>>().join(" or ")
            );
            notes.push(ModuleNote { file: folder, outcome: ModuleOutcome::Skipped { reason } });
        }
    }
    notes
}

/// Where modules may be, and whether the user named the place.
fn folders(variable: Option<OsString>, exe: Option<&Path>) -> Vec<(PathBuf, bool)> {
    let mut folders: Vec<(PathBuf, bool)> = variable
        .iter()
        .flat_map(std::env::split_paths)
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(|folder| (folder, true))
        .collect();
    if let Some(bin) = exe.and_then(Path::parent) {
        folders.push((bin.to_owned(), false));
        folders.push((bin.join("../lib/gust"), false));
    }
    folders
}

fn file_name(name: &str) -> String {
    format!("{}ggml-{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// Loads `file` and registers its backend; on an error nothing of it stays.
fn open(file: &Path, name: &str) -> Result<(String, usize), String> {
    if let Some(built_in) = registered(name) {
        return Err(format!("{built_in} is built into this program already"));
    }
    // SAFETY: loading runs the file's initialisers. Files come from the folders of this program or from
    // those that the user names: code that they trust as they trust this program.
    let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| why(&error).replace(&format!("{}: ", file.display()), ""))?;
    check_version(&library)?;
    // SAFETY: a module of this version has these functions with these types (build/gpu/module.c and
    // ggml-backend-impl.h). The library is never unloaded once its backend exists.
    unsafe {
        type LogSet = unsafe extern "C" fn(sys::ggml_log_callback, *mut c_void);
        type Init = unsafe extern "C" fn() -> sys::ggml_backend_reg_t;
        let log_set = library.get::<LogSet>(b"gust_module_log_set\0").map_err(|e| why(&e))?;
        let init = library.get::<Init>(b"ggml_backend_init\0").map_err(|e| why(&e))?;
        log_set(Some(keep_errors), std::ptr::null_mut());
        let registry = init();
        std::mem::forget(library);
        if registry.is_null() {
            return Err("its driver did not start".to_owned());
        }
        sys::ggml_backend_register(registry);
        let backend = super::text(sys::ggml_backend_reg_name(registry)).to_owned();
        Ok((backend, sys::ggml_backend_reg_dev_count(registry)))
    }
}

/// The backend of this name that there is already, as it calls itself.
fn registered(name: &str) -> Option<&'static str> {
    // SAFETY: the index is below the count; names are literals of the backends.
    (0..unsafe { sys::ggml_backend_reg_count() })
        .map(|i| unsafe { super::text(sys::ggml_backend_reg_name(sys::ggml_backend_reg_get(i))) })
        .find(|there| there.eq_ignore_ascii_case(name))
}

fn check_version(library: &Library) -> Result<(), String> {
    // SAFETY: the function takes nothing and returns a string literal (build/gpu/module.c).
    let found = unsafe {
        let version = library
            .get::<unsafe extern "C" fn() -> *const c_char>(b"gust_module_version\0")
            .map_err(|_| {
                "not a module of gust's; make one with scripts/build_backend.sh".to_owned()
            })?;
        CStr::from_ptr(version()).to_string_lossy().into_owned()
    };
    if found != super::version() {
        return Err(format!(
            "made of ggml {found}, but this gust needs {}; make it anew with scripts/build_backend.sh",
            super::version()
        ));
    }
    Ok(())
}

/// The loader's own words, which name a missing library.
fn why(error: &libloading::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Makes a shared library of this C code.
    fn compile(code: &str, file: &Path, more: &[&str]) {
        let source = file.with_extension("c");
        std::fs::write(&source, code).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(file).arg(&source).args(more);
        assert!(cc.status().unwrap().success());
    }

    /// What is said of a folder whose `libggml-cuda` is what `make` made.
    fn check(make: impl Fn(&Path), expect: &str) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(file_name("cuda"));
        make(&file);
        let notes = look(Some(dir.path().into()), None);
        let [ModuleNote { file: named, outcome: ModuleOutcome::Skipped { reason } }] = &*notes
        else {
            panic!("{notes:?}")
        };
        assert_eq!(*named, file);
        assert!(reason.contains(expect), "{reason}");
    }

    #[test]
    fn a_file_that_is_no_module_is_told() {
        check(|file| std::fs::write(file, "hello").unwrap(), "");
        check(|file| compile("int f(void) { return 1; }", file, &[]), "not a module of gust's");
    }

    #[test]
    fn a_library_that_a_module_lacks_is_named() {
        let make = |file: &Path| {
            let driver = file.with_file_name("libdriver.so.1");
            compile("void start(void) {}", &driver, &["-Wl,-soname,libdriver.so.1"]);
            let code = "void start(void); void call(void) { start(); }";
            compile(code, file, &["-Wl,--no-as-needed", driver.to_str().unwrap()]);
            std::fs::remove_file(driver).unwrap();
        };
        if cfg!(target_os = "linux") {
            check(make, "libdriver.so.1: cannot open shared object file");
        }
    }

    #[test]
    fn a_module_of_another_version_is_told() {
        let module = "const char * gust_module_version(void) { return \"0.1.2\"; }";
        check(|file| compile(module, file, &[]), "made of ggml 0.1.2, but this gust needs");
    }

    #[test]
    fn a_module_without_a_driver_is_told() {
        let module = format!(
            "const char * gust_module_version(void) {{ return \"{}\"; }}
             void gust_module_log_set(void * callback, void * data) {{}}
             void * ggml_backend_init(void) {{ return 0; }}",
            super::super::version()
        );
        check(|file| compile(&module, file, &[]), "its driver did not start");
    }

    #[test]
    fn a_named_folder_without_modules_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let notes = look(Some(dir.path().into()), None);
        let [ModuleNote { file, outcome: ModuleOutcome::Skipped { reason } }] = &*notes else {
            panic!("{notes:?}")
        };
        assert_eq!(*file, dir.path());
        assert!(reason.contains(&file_name("cuda")) && reason.contains(VARIABLE), "{reason}");
        assert_eq!(look(None, Some(&dir.path().join("bin/gust"))), []);
    }

    #[test]
    fn named_folders_come_first() {
        let folders = folders(Some("/a:/b:".into()), Some(Path::new("/usr/bin/gust")));
        let paths: Vec<_> = folders.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/a", "/b", "/usr/bin", "/usr/bin/../lib/gust"]);
    }
}
