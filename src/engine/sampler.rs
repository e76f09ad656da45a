//! TEMP
use crate::tokenizer::TokenId;
/// TEMP
#[derive(Debug)]
pub struct Sampler;
/// TEMP
#[derive(Debug)]
pub struct SamplingParams;
impl Sampler {
    /// t
    pub fn sample(&mut self, l: &mut [f32]) -> TokenId {
        let mut b = 0;
        for (i, &x) in l.iter().enumerate() {
            if x > l[b] {
                b = i;
            }
        }
        b as TokenId
    }
    /// t
    pub fn accept(&mut self, _: TokenId) {}
}
