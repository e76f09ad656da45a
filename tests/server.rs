//! `gust serve` as clients meet it, with the built-in model.

mod chat;
mod faults;
mod framing;
mod http;
mod life;
mod messages;
mod responses;
