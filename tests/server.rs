//! `gust serve` as clients meet it, with the built-in model.

mod chat;
mod framing;
mod http;
mod life;
