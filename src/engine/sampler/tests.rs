//! The search against one that sorts everything, and the choices against their probabilities.

use proptest::prelude::*;

use super::*;

/// The ids that survive and their probabilities, the way the documentation puts it.
fn survivors_plainly(logits: &[f32], params: &SamplingParams) -> Vec<(TokenId, f64)> {
    let clean = |x: f32| if x.is_nan() { f64::NEG_INFINITY } else { f64::from(x) };
    let mut ranked: Vec<(TokenId, f64)> = (0..).zip(logits.iter().map(|&x| clean(x))).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let max = ranked[0].1;
    let temperature = f64::from(params.temperature);
    for (_, x) in &mut ranked {
        *x = if *x == max { 1.0 } else { ((*x - max) / temperature).exp() };
    }
    ranked.retain(|&(_, w)| w >= f64::from(params.min_p));
    if params.top_k > 0 {
        ranked.truncate(params.top_k as usize);
    }
    let total: f64 = ranked.iter().map(|c| c.1).sum();
    let mut before = 0.0;
    ranked.retain(|&(_, w)| {
        let keep = params.top_p >= 1.0 || before < f64::from(params.top_p) * total;
        before += w;
        keep || before == w
    });
    ranked
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    let usual = (0..400u32).prop_map(|x| x as f32 / 10.0 - 25.0);
    let odd = proptest::sample::select(vec![f32::NAN, f32::NEG_INFINITY, 0.0, -0.0, 15.0]);
    proptest::collection::vec(prop_oneof![9 => usual, 1 => odd], 1..700)
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let top_k = proptest::sample::select(vec![0, 0, 1, 2, 7, 40, 300, 5000]);
    let top_p = proptest::sample::select(vec![0.0, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0]);
    let min_p = proptest::sample::select(vec![0.0, 0.0, 0.01, 0.05, 0.5, 1.0]);
    (top_k, top_p, min_p, 1..30u32).prop_map(|(top_k, top_p, min_p, t)| SamplingParams {
        temperature: t as f32 / 10.0,
        top_k,
        top_p,
        min_p,
        ..SamplingParams::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn survivors_are_those_of_sorting(logits in logits(), params in params()) {
        prop_assume!(logits.iter().any(|x| x.is_finite()));
        let expected = survivors_plainly(&logits, &params);
        let mut selector = Selector::default();
        let ours = selector.survivors(&logits, &params);
        let total: f64 = expected.iter().map(|c| c.1).sum();
        // Rounding may move a token over a limit, or several that weigh nothing.
        let stray: f64 = expected
            .iter()
            .filter(|(id, _)| ours.iter().all(|c| c.id != *id))
            .map(|c| c.1)
            .chain(ours.iter().filter(|c| expected.iter().all(|(id, _)| *id != c.id))
                .map(|c| f64::from(c.weight)))
            .sum();
        let one_at_most = ours.len().abs_diff(expected.len()) <= 1;
        prop_assert!(stray < 1e-5 * total || one_at_most, "{stray} of {total}");
        prop_assert!(ours.windows(2).all(|pair| pair[0].id < pair[1].id));
    }

    #[test]
    fn every_choice_is_a_survivor(logits in logits(), params in params(), seed: u64) {
        prop_assume!(logits.iter().any(|x| x.is_finite()));
        let mut selector = Selector::default();
        let allowed: Vec<TokenId> =
            selector.survivors(&logits, &params).iter().map(|c| c.id).collect();
        let mut sampler =
            Sampler::new(SamplingParams { seed: Some(seed), ..params }, logits.len()).unwrap();
        for _ in 0..5 {
            let id = sampler.sample(&mut logits.clone()).unwrap();
            prop_assert!(allowed.contains(&id));
            prop_assert!(logits[id as usize].is_finite());
        }
    }

    #[test]
    fn greedy_takes_the_first_maximum(logits in logits()) {
        let params = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        let mut sampler = Sampler::new(params, logits.len()).unwrap();
        let max = logits.iter().copied().filter(|x| !x.is_nan()).fold(f32::NEG_INFINITY, f32::max);
        let first = logits.iter().position(|&x| x == max).unwrap_or(0);
        prop_assert_eq!(sampler.sample(&mut logits.clone()).unwrap() as usize, first);
    }
}

fn frequencies(params: &SamplingParams, logits: &[f32]) -> Vec<f64> {
    let mut sampler = Sampler::new(params.clone(), logits.len()).unwrap();
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..20_000 {
        counts[sampler.sample(&mut logits.to_vec()).unwrap() as usize] += 1.0 / 20_000.0;
    }
    counts
}

#[test]
fn choices_come_as_often_as_they_are_likely() {
    let logits: Vec<f32> = (0..200).map(|i| ((i * 37) % 200) as f32 / 25.0).collect();
    let base = SamplingParams { seed: Some(7), top_p: 1.0, ..SamplingParams::default() };
    for params in [
        base.clone(),
        SamplingParams { top_p: 0.8, ..base.clone() },
        SamplingParams { top_k: 12, ..base.clone() },
        SamplingParams { min_p: 0.1, temperature: 1.5, ..base },
    ] {
        let found = frequencies(&params, &logits);
        let expected = survivors_plainly(&logits, &params);
        let total: f64 = expected.iter().map(|c| c.1).sum();
        for (id, weight) in expected {
            let (found, expected) = (found[id as usize], weight / total);
            assert!((found - expected).abs() < 0.015, "{id}: {found} for {expected}, {params:?}");
        }
    }
}

#[test]
fn a_seed_gives_the_same_tokens_for_ever() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 100.0).collect();
    let params = SamplingParams { seed: Some(42), ..SamplingParams::default() };
    let mut sampler = Sampler::new(params, logits.len()).unwrap();
    let ids: Vec<TokenId> = (0..6).map(|_| sampler.sample(&mut logits.clone()).unwrap()).collect();
    assert_eq!(ids, [742, 173, 284, 346, 50, 877]);
}

#[test]
fn without_a_chance_the_first_token_is_chosen() {
    for params in [
        SamplingParams::default(),
        SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        SamplingParams { top_p: 1.0, ..SamplingParams::default() },
        SamplingParams { top_k: 3, min_p: 0.1, ..SamplingParams::default() },
    ] {
        let mut sampler = Sampler::new(params, 100).unwrap();
        assert!(sampler.sample(&mut [f32::NAN; 100]).unwrap() < 100);
        assert!(sampler.sample(&mut [f32::NEG_INFINITY; 100]).unwrap() < 100);
        let mut logits = [0.0; 100];
        logits[77] = f32::INFINITY;
        assert_eq!(sampler.sample(&mut logits).unwrap(), 77);
    }
}

fn logits_after(params: SamplingParams, history: &[TokenId], logits: &[f32]) -> Vec<f32> {
    let mut sampler = Sampler::new(params, logits.len()).unwrap();
    history.iter().for_each(|&id| sampler.accept(id));
    let mut logits = logits.to_vec();
    sampler.sample(&mut logits).unwrap();
    logits
}

#[test]
fn a_reply_does_not_end_before_its_least_length() {
    let params =
        SamplingParams { temperature: 0.0, late_end: Some((1, 2)), ..SamplingParams::default() };
    let mut sampler = Sampler::new(params, 3).unwrap();
    let chosen = std::iter::repeat_with(|| {
        let id = sampler.sample(&mut [0.0, 9.0, 1.0]).unwrap();
        sampler.accept(id);
        id
    });
    assert_eq!(chosen.take(4).collect::<Vec<_>>(), [2, 2, 1, 1]);
}

#[test]
fn penalties_and_bias_change_the_logits_they_should() {
    let off = SamplingParams::default();
    let logits = [2.0, -2.0, 1.0, 0.5];
    let history = [0, 1, 1, 9_999];
    let repetition = SamplingParams { repetition_penalty: 2.0, ..off.clone() };
    assert_eq!(logits_after(repetition, &history, &logits), [1.0, -4.0, 1.0, 0.5]);
    let frequency = SamplingParams { frequency_penalty: 0.25, ..off.clone() };
    assert_eq!(logits_after(frequency, &history, &logits), [1.75, -2.5, 1.0, 0.5]);
    let presence = SamplingParams { presence_penalty: 0.5, ..off.clone() };
    assert_eq!(logits_after(presence.clone(), &history, &logits), [1.5, -2.5, 1.0, 0.5]);
    let bias = SamplingParams { logit_bias: vec![(3, 1.0), (0, f32::NEG_INFINITY)], ..off };
    assert_eq!(logits_after(bias, &[], &logits), [f32::NEG_INFINITY, -2.0, 1.0, 1.5]);
}

#[test]
fn the_prompt_counts_for_repetition_only() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        frequency_penalty: 1.0,
        presence_penalty: 1.0,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params, 4).unwrap();
    sampler.read(&[0, 1, 9_999]);
    sampler.accept(1);
    let mut logits = [2.0; 4];
    sampler.sample(&mut logits).unwrap();
    assert_eq!(logits, [1.0, -1.0, 2.0, 2.0]);
}

#[test]
fn parameters_out_of_range_are_errors() {
    let base = SamplingParams::default();
    let bad = [
        SamplingParams { temperature: -1.0, ..base.clone() },
        SamplingParams { temperature: f32::NAN, ..base.clone() },
        SamplingParams { temperature: f32::INFINITY, ..base.clone() },
        SamplingParams { top_p: 1.1, ..base.clone() },
        SamplingParams { min_p: -0.1, ..base.clone() },
        SamplingParams { repetition_penalty: 0.0, ..base.clone() },
        SamplingParams { frequency_penalty: f32::NAN, ..base.clone() },
        SamplingParams { logit_bias: vec![(10, 0.0)], ..base.clone() },
        SamplingParams { logit_bias: vec![(1, f32::NAN)], ..base },
    ];
    for params in bad {
        assert!(params.check(10).is_err(), "{params:?}");
    }
}
