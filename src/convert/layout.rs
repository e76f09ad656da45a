//! The two ways in which checkpoints are laid out, and the files of each in a folder.

/// How a folder names its files, its tensors and its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `config.json` and `model*.safetensors`.
    HuggingFace,
    /// `params.json` and `consolidated*.safetensors`, Mistral's own.
    Native,
}
