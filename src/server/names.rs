//! The names that the served model answers to.
//!
//! Whatever file is served has the family's names, so that clients work with their defaults. A name that is
//! none of them is refused rather than taken for an alias: clients probe for smaller models that way.

use super::http::{ApiError, ErrorKind};

/// Names that clients know, the primary one first.
const KNOWN: &[&str] = &[
    "mistral-medium-3.5",
    "mistral-medium-3-5",
    "mistral-medium-2604",
    "mistral-medium-latest",
    "magistral-medium-latest",
    "mistral-vibe-cli-latest",
    "mistral-vibe-cli-with-tools",
    "mistral-medium-3.5-128b",
];

/// The names of the one model that is served.
#[derive(Debug, Clone)]
pub(crate) struct Names(Vec<String>);

impl Names {
    /// The known names and `aliases`.
    pub(crate) fn new(aliases: &[String]) -> Self {
        let mut names: Vec<String> = KNOWN.iter().map(|&name| name.to_owned()).collect();
        for alias in aliases.iter().map(|alias| plain(alias)) {
            if !names.contains(&alias) {
                names.push(alias);
            }
        }
        Self(names)
    }

    /// The name that lists tell.
    pub(crate) fn primary(&self) -> &str {
        &self.0[0]
    }

    /// The other names.
    pub(crate) fn aliases(&self) -> &[String] {
        &self.0[1..]
    }

    /// All names.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The name as the client wrote it, if it means this model; the primary one if it gave none.
    pub(crate) fn check(&self, asked: Option<&str>) -> Result<String, ApiError> {
        let Some(asked) = asked else { return Ok(self.primary().to_owned()) };
        if self.0.contains(&plain(asked)) {
            return Ok(asked.to_owned());
        }
        let mut shown: String = asked.chars().take(100).collect();
        if shown.len() < asked.len() {
            shown.push('…');
        }
        let message = format!(
            "invalid_model: the model {shown:?} is not served here; use {:?}, or start the server with \
             --alias {shown:?}",
            self.primary(),
        );
        let param = Some("model".to_owned());
        Err(ApiError::new(ErrorKind::ModelNotFound, message).about(param))
    }
}

/// Names are compared in lower case, without an owner in front.
fn plain(name: &str) -> String {
    name.rsplit('/').next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_by_their_last_part_in_any_case() {
        let names = Names::new(&["Acme/My-Model".to_owned(), "MISTRAL-MEDIUM-3.5".to_owned()]);
        assert_eq!(names.aliases().len(), KNOWN.len());
        for (asked, is_known) in [
            ("mistral-medium-3.5", true),
            ("mistralai/Mistral-Medium-3.5-128B", true),
            ("openai/mistralai/mistral-medium-latest", true),
            ("my-model", true),
            ("mistral-small-latest", false),
            ("mistral-vibe-cli-fast", false),
            ("mistral-medium-3.5/", false),
            ("", false),
        ] {
            let checked = names.check(Some(asked));
            match checked {
                Ok(name) => assert!(is_known && name == asked, "{asked}"),
                Err(error) => {
                    assert!(!is_known, "{asked}");
                    assert_eq!(error.code(), Some("model_not_found"));
                    assert!(error.message.contains("invalid_model"));
                }
            }
        }
        assert_eq!(names.check(None).as_deref(), Ok("mistral-medium-3.5"));
    }
}
