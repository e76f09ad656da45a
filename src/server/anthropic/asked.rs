//! What Anthropic's clients ask of a reply.
//!
//! What only their provider's machines can do is refused by name: a client that waits for a search which
//! nobody makes would not know why. What tunes those machines (`service_tier`, `container`, caching) means
//! nothing here and is passed over.

use std::ops::Bound;

use crate::chat::Fields;
use crate::server::App;
use crate::server::http::ApiError;
use crate::server::request::fields::{fault, flag, float, object, stops, whole};
use crate::server::request::{Asked, SamplingWishes, model};

/// Above zero: no token is that likely.
const TOP_P: (Bound<f32>, Bound<f32>) = (Bound::Excluded(0.0), Bound::Included(1.0));
/// Larger ones are mistakes; those beyond the context only mean its end.
const MAX_TOKENS: u64 = (1 << 31) - 1;

/// Reads the fields beside the conversation. The budget of thinking is the conversation reader's.
pub(super) fn asked(fields: &Fields<'_>, app: &App) -> Result<Asked, ApiError> {
    refuse_provided(fields)?;
    let single_call = match fields.get("tool_choice") {
        Some(choice) if choice.is_object() => {
            flag(&choice.fields()?, "disable_parallel_tool_use")?.unwrap_or(false)
        }
        _ => false,
    };
    Ok(Asked {
        model: model(fields, app)?,
        stream: flag(fields, "stream")?.unwrap_or(false),
        sampling: SamplingWishes {
            temperature: float(fields, "temperature", 0.0..=1.0)?,
            top_k: whole(fields, "top_k", 0..=u64::from(u32::MAX))?.map(|k| k as u32),
            top_p: float(fields, "top_p", TOP_P)?,
            ..SamplingWishes::default()
        },
        n_max: whole(fields, "max_tokens", 1..=MAX_TOKENS)?.map(|n| n as u32),
        stop: stops(fields, "stop_sequences")?,
        single_call,
        ..Asked::default()
    })
}

/// Refuses tools that the provider defines or runs itself.
pub(super) fn refuse_provided(fields: &Fields<'_>) -> Result<(), ApiError> {
    if let Some(servers) = fields.get("mcp_servers")
        && (!servers.is_list() || !servers.items()?.is_empty())
    {
        let problem = "no MCP servers are called from here; offer their tools in \"tools\"";
        return Err(fault("mcp_servers", problem));
    }
    let tools = match fields.get("tools") {
        Some(tools) => tools.items()?,
        None => Vec::new(),
    };
    for (k, tool) in tools.iter().enumerate() {
        // What is no tool at all is the conversation reader's to refuse.
        let Some(tool) = tool.is_object().then(|| tool.fields()).transpose()? else { continue };
        let kind = tool.kind()?;
        let is_described =
            tool.get("input_schema").is_some() || object(&tool, "function")?.is_some();
        if !is_described && !matches!(kind.as_str(), "" | "custom" | "function") {
            let name = tool.text("name")?.unwrap_or_else(|| kind.clone());
            let problem = format!(
                "the tool {name:?} ({kind}) is Anthropic's own and does not exist here; leave it out, or \
                 describe a tool of your own with \"input_schema\""
            );
            return Err(fault(&format!("tools[{k}]"), &problem));
        }
    }
    Ok(())
}
