//! What is known of graphics cards: how fast they read their memory and multiply.
//!
//! From the vendors' data sheets: GB/s, and dense TFLOPS of half-precision products summed in single precision.
//! A card is found by a part of the name that its driver gives it; the longer names come first.

/// Numbers of a device that its speed follows from.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Card {
    /// GB/s.
    pub(super) bandwidth: Option<f64>,
    /// TFLOPS.
    pub(super) tflops: Option<f64>,
}

/// Part of the name, GB/s, TFLOPS.
const CARDS: &[(&str, f64, f64)] = &[
    ("B200", 8000.0, 2250.0),
    ("GH200", 4000.0, 990.0),
    ("H200", 4800.0, 990.0),
    ("H100 NVL", 3900.0, 835.0),
    ("H100 PCIe", 2000.0, 756.0),
    ("H100", 3350.0, 990.0),
    ("H800", 3350.0, 990.0),
    ("H20", 4000.0, 148.0),
    ("A100-SXM4-40GB", 1555.0, 312.0),
    ("A100-PCIE-40GB", 1555.0, 312.0),
    ("A100", 2039.0, 312.0),
    ("A800", 2039.0, 312.0),
    ("A40", 696.0, 150.0),
    ("A30", 933.0, 165.0),
    ("A10", 600.0, 125.0),
    ("L40S", 864.0, 362.0),
    ("L40", 864.0, 181.0),
    ("L4", 300.0, 121.0),
    ("V100", 900.0, 125.0),
    ("T4", 320.0, 65.0),
    ("RTX PRO 6000", 1792.0, 503.0),
    ("RTX PRO 5000", 1344.0, 300.0),
    ("RTX 6000 Ada", 960.0, 364.0),
    ("RTX A6000", 768.0, 155.0),
    ("RTX A5000", 768.0, 111.0),
    ("RTX 5090", 1792.0, 209.0),
    ("RTX 5080", 960.0, 113.0),
    ("RTX 5070 Ti", 896.0, 88.0),
    ("RTX 4090", 1008.0, 165.0),
    ("RTX 4080", 717.0, 97.0),
    ("RTX 3090 Ti", 1008.0, 80.0),
    ("RTX 3090", 936.0, 71.0),
    ("RTX 3080 Ti", 912.0, 68.0),
    ("RTX 3080", 760.0, 60.0),
    ("MI300X", 5300.0, 1307.0),
    ("MI250", 3277.0, 362.0),
    ("MI210", 1638.0, 181.0),
    ("7900 XTX", 960.0, 123.0),
    ("9070 XT", 640.0, 195.0),
    ("W7900", 864.0, 123.0),
    ("M4 Max", 546.0, 34.0),
    ("M3 Ultra", 819.0, 57.0),
    ("M3 Max", 400.0, 28.0),
    ("M2 Ultra", 800.0, 54.0),
    ("M2 Max", 400.0, 27.0),
    ("M1 Ultra", 800.0, 42.0),
    ("M1 Max", 400.0, 21.0),
];

/// What is known of the device that calls itself `description`.
pub(super) fn card(description: &str) -> Card {
    let known = |name: &str| {
        // Not within a longer word: `L4` is not in `L40`.
        description.match_indices(name).any(|(at, _)| {
            let outside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
            let (before, after) = (&description[..at], &description[at + name.len()..]);
            outside(before.chars().next_back()) && outside(after.chars().next())
        })
    };
    match CARDS.iter().find(|(name, ..)| known(name)) {
        Some(&(_, bandwidth, tflops)) => Card { bandwidth: Some(bandwidth), tflops: Some(tflops) },
        None => Card::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_known_by_their_drivers_names() {
        let bandwidth = |name| card(name).bandwidth;
        assert_eq!(bandwidth("NVIDIA H100 80GB HBM3"), Some(3350.0));
        assert_eq!(bandwidth("NVIDIA H100 PCIe"), Some(2000.0));
        assert_eq!(bandwidth("NVIDIA A100-SXM4-80GB"), Some(2039.0));
        assert_eq!(bandwidth("NVIDIA A100-SXM4-40GB"), Some(1555.0));
        assert_eq!(bandwidth("NVIDIA GeForce RTX 3090 Ti"), Some(1008.0));
        assert_eq!(bandwidth("NVIDIA L40S"), Some(864.0));
        assert_eq!(bandwidth("Apple M3 Ultra"), Some(819.0));
        assert_eq!(bandwidth("Intel(R) Xeon(R)"), None);
        for (i, (name, ..)) in CARDS.iter().enumerate() {
            let first = CARDS.iter().position(|(other, ..)| name.contains(other));
            assert_eq!(first, Some(i), "{name} comes too late");
        }
    }
}
