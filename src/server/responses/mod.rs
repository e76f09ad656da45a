//! Responses, as OpenAI has them: stateless, with its events.
