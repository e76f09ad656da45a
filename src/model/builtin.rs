//! The tiny model that is compiled into the program, and its vision tower.
//!
//! They let every command run without a download, and tests without a file. They are ordinary GGUF
//! files from `models/tiny`, read by the same code as any other.

use crate::gguf::Gguf;

/// Name under which messages speak of the built-in model.
const NAME: &str = "built-in tiny model";

/// Bytes aligned as strictly as any backend wants a buffer aligned.
#[repr(C, align(4096))]
struct Aligned<T: ?Sized>(T);

static TINY: &Aligned<[u8]> = &Aligned(*include_bytes!("../../models/tiny/tiny-Q8_0.gguf"));

static TINY_MMPROJ: &Aligned<[u8]> =
    &Aligned(*include_bytes!("../../models/tiny/mmproj-tiny-bf16.gguf"));

/// The built-in model.
pub fn builtin() -> Gguf {
    Gguf::from_static(NAME, &TINY.0).expect("the built-in model is a valid file: a test opens it")
}

/// The built-in model's vision tower and projector.
pub fn builtin_mmproj() -> Gguf {
    Gguf::from_static("built-in tiny mmproj", &TINY_MMPROJ.0)
        .expect("the built-in projector is a valid file: a test opens it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, YarnPolicy, check_mmproj, validate};

    #[test]
    fn the_builtin_model_is_valid_and_aligned() {
        let gguf = builtin();
        let (hparams, warnings) = validate(&gguf, YarnPolicy::Correct).unwrap();
        assert_eq!((hparams.arch, hparams.n_layer), (Architecture::Mistral3, 4));
        assert_eq!(warnings, []);
        assert_eq!(gguf.parts()[0].bytes().as_ptr() as usize % 4096, 0);
        let mmproj = builtin_mmproj();
        check_mmproj(&mmproj, &hparams).unwrap();
        assert_eq!(mmproj.parts()[0].bytes().as_ptr() as usize % 4096, 0);
    }
}
