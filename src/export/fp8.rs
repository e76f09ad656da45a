//! The 8-bit float of FP8 checkpoints.
//!
//! Four bits of exponent and three of mantissa, as PyTorch's `float8_e4m3fn`. The values of all codes are
//! a table of 1 KiB, made by the compiler; rows are looked up in it.

/// The value of every code.
pub(super) const E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = e4m3_to_f32(code as u8);
        code += 1;
    }
    table
};

/// The value of an E4M3FN code: bias 7, at most 448, no infinity; 0x7f and 0xff are NaN.
pub const fn e4m3_to_f32(code: u8) -> f32 {
    let (exponent, mantissa) = (code >> 3 & 15, code & 7);
    if code & 0x7f == 0x7f {
        return f32::NAN;
    }
    let magnitude = if exponent == 0 {
        mantissa as f32 / 512.0
    } else {
        // 2^(exponent - 7) · (1 + mantissa / 8), put together from f32's own fields.
        f32::from_bits((exponent as u32 + 120) << 23 | (mantissa as u32) << 20)
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}
