//! Chat completions, completions and fill-in-the-middle, as OpenAI and Mistral have them.
