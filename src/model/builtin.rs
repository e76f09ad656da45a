//! The tiny model that is compiled into the program.
//!
//! It lets every command run without a download, and tests without a file. It is an ordinary GGUF
//! file from `models/tiny`, read by the same code as any other.

use crate::gguf::Gguf;

/// Name under which messages speak of the built-in model.
const NAME: &str = "built-in tiny model";

/// Bytes aligned as strictly as any backend wants a buffer aligned.
#[repr(C, align(4096))]
struct Aligned<T: ?Sized>(T);

static TINY: &Aligned<[u8]> = &Aligned(*include_bytes!("../../models/tiny/tiny-Q8_0.gguf"));

/// The built-in model.
pub fn builtin() -> Gguf {
    Gguf::from_static(NAME, &TINY.0).expect("the built-in model is a valid file: a test opens it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, YarnPolicy, validate};

    #[test]
    fn the_builtin_model_is_valid_and_aligned() {
        let gguf = builtin();
        let (hparams, warnings) = validate(&gguf, YarnPolicy::Correct).unwrap();
        assert_eq!((hparams.arch, hparams.n_layer), (Architecture::Mistral3, 4));
        assert_eq!(warnings, []);
        assert_eq!(gguf.parts()[0].bytes().as_ptr() as usize % 4096, 0);
    }
}
