//! `gust serve` as clients meet it, with the built-in model.

mod chat;
mod faults;
mod http;
mod messages;
mod responses;
