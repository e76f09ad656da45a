//! The integration tests, one binary. Each module tests one part through the program or its library.

mod gguf;
mod util;
