//! The generations of Mistral's chat format, and what each does its own way.
//!
//! `merge`, `validate` and `encode` are written once, for all of them; where the generations differ
//! they look at [`Rules`]. The numbers are those of mistral_common's tokenizer versions. Older ones
//! (v1 to v3) have no system prompt of their own and no model of this family uses them.

use crate::tokenizer::Tokenizer;

/// A generation of the chat format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Mistral Large 2411, Mistral Small 2501, Pixtral Large.
    V7,
    /// Mistral Small 3.2, Devstral Small 2505.
    V11,
    /// Magistral, Devstral 2507 and later, Mistral Large 3.
    V13,
    /// Mistral Small 4, Mistral Medium 3.5.
    V15,
}

/// Of all user messages, the one that tools and settings are written before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadAt {
    FirstUser,
    LastUser,
}

/// How the calls of one message are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallStyle {
    /// `[TOOL_CALLS][{"name": …, "arguments": …, "id": …}, …]`
    List,
    /// `[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}` for each
    WithId,
    /// `[TOOL_CALLS]name[ARGS]{…}` for each
    Plain,
}

/// What a call's id must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallIds {
    /// Nine letters and digits: the model reads and writes them.
    Nine,
    /// Anything but nothing.
    Any,
}

/// What differs between the generations.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) name: &'static str,
    pub(super) head_at: HeadAt,
    /// Whether `[MODEL_SETTINGS]` tells the reasoning effort.
    pub(super) settings: bool,
    /// Joins the text chunks of one message. Messages are always joined by a blank line.
    pub(super) chunk_separator: &'static str,
    pub(super) calls: CallStyle,
    pub(super) call_ids: CallIds,
    /// Whether results name the call that they answer: `[TOOL_RESULTS]id[TOOL_CONTENT]…`.
    pub(super) result_ids: bool,
    /// Whether results are put into the order of their calls.
    pub(super) sorts_results: bool,
    /// Whether results must have the ids of the calls, or only their number.
    pub(super) pairs_ids: bool,
    /// Roles whose messages may hold thinking chunks.
    pub(super) thinking_in: &'static [&'static str],
    /// Roles whose messages may hold pictures.
    pub(super) images_in: &'static [&'static str],
}

const V7: Rules = Rules {
    name: "v7",
    head_at: HeadAt::LastUser,
    settings: false,
    chunk_separator: "\n\n",
    calls: CallStyle::List,
    call_ids: CallIds::Nine,
    result_ids: true,
    sorts_results: false,
    pairs_ids: false,
    thinking_in: &[],
    images_in: &["user"],
};
const V11: Rules =
    Rules { name: "v11", calls: CallStyle::WithId, sorts_results: true, pairs_ids: true, ..V7 };
const V13: Rules = Rules {
    name: "v13",
    head_at: HeadAt::FirstUser,
    calls: CallStyle::Plain,
    call_ids: CallIds::Any,
    result_ids: false,
    thinking_in: &["system", "assistant"],
    ..V11
};
const V15: Rules = Rules {
    name: "v15",
    settings: true,
    chunk_separator: "",
    thinking_in: &["assistant"],
    images_in: &["user", "tool"],
    ..V13
};

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Version; 4] = [Version::V7, Version::V11, Version::V13, Version::V15];

    /// The version that a vocabulary's control tokens speak for. They cannot tell everything: a v13
    /// vocabulary without `[THINK]` looks like v11's.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let has = |name| tokenizer.control_token(name).is_some();
        if has("[MODEL_SETTINGS]") {
            Version::V15
        } else if has("[THINK]") || has("[ARGS]") && !has("[CALL_ID]") {
            Version::V13
        } else if has("[ARGS]") {
            Version::V11
        } else {
            Version::V7
        }
    }

    /// The name that mistral_common and tekken.json use, such as `v15`.
    pub fn name(self) -> &'static str {
        self.rules().name
    }

    /// The version of that name, in any letter case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name().eq_ignore_ascii_case(name))
    }

    pub(super) fn rules(self) -> &'static Rules {
        match self {
            Version::V7 => &V7,
            Version::V11 => &V11,
            Version::V13 => &V13,
            Version::V15 => &V15,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_belong_together() {
        for version in Version::ALL {
            assert_eq!(Version::from_name(&version.name().to_uppercase()), Some(version));
        }
        assert_eq!(Version::from_name("v3"), None);
        let tiny = Tokenizer::from_gguf(&crate::model::builtin()).unwrap();
        assert_eq!(Version::of(&tiny), Version::V15);
    }
}
