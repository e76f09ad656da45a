//! `gust serve` as clients meet it, with the built-in model.

mod http;
