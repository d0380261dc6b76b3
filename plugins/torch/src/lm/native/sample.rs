//! From one row of logits to a token.
//!
//! What [`crate::lm::sampler`] does with tensors, for one row on the host, and without sorting the vocabulary. The filters
//! apply in transformers' order: repetition penalty, temperature, top-k, top-p, min-p.

use super::simd::{Isa, Kernel, Simd, exp, load_up_to, store_up_to};
use crate::lm::generate::backend::{Draw, Drawn};
use crate::lm::sampler::Sampling;

/// Weights whose sum is taken at once when a token is looked for.
const BLOCK: usize = 256;

/// Top-p counts tokens by their distance from the best score: this many steps in a natural-log unit.
const BUCKETS_PER_NAT: f32 = 64.0;

/// Buckets for distances up to 16; in the last one are all that are farther, with weights below 1.2e-7.
const NUM_BUCKETS: usize = 1025;

/// Copies of the buckets, which neighbours take in turn: an addition need not wait for the one before.
const BUCKET_COPIES: usize = 4;

/// Buffers for one row.
#[derive(Debug, Default)]
pub struct Sampler {
    /// Logits after penalty and temperature.
    scores: Vec<f32>,
    /// Probabilities, but for a factor that makes the greatest of them 1; 0 for what the filters drop.
    weights: Vec<f32>,
    best: Vec<f32>,
    /// The bucket of each score.
    places: Vec<f32>,
    buckets: Vec<[f64; BUCKET_COPIES]>,
    members: Vec<(f32, usize)>,
    block_sums: Vec<f64>,
}

/// Draws a token after the one whose logits `[V]` these are.
pub fn draw(isa: Isa, logits: &[f32], draw: &Draw<'_>, sampler: &mut Sampler) -> Drawn {
    let is_greedy = draw.sampling.temperature == 0.0;
    let greatest = sampler.filter(isa, logits, draw.sampling, draw.seen);
    let total = sampler.sum_blocks();
    let id = if is_greedy {
        sampler.scores.iter().position(|&score| score == greatest).unwrap_or(0)
    } else {
        sampler.find(draw.uniform * total)
    };
    Drawn {
        id: id as i64,
        logprob: (f64::from(sampler.scores[id] - greatest) - total.ln()) as f32,
    }
}

impl Sampler {
    /// Fills `scores` and `weights` and returns the greatest score.
    fn filter(&mut self, isa: Isa, logits: &[f32], sampling: Sampling, seen: &[i64]) -> f32 {
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        if sampling.repetition_penalty != 1.0 {
            self.penalize(logits, sampling.repetition_penalty as f32, seen);
        }
        let is_greedy = sampling.temperature == 0.0;
        if !is_greedy && sampling.temperature != 1.0 {
            let temperature = sampling.temperature as f32;
            self.scores.iter_mut().for_each(|score| *score /= temperature);
        }
        let mut greatest = f32::NEG_INFINITY;
        // SAFETY: the backend's instruction set is available.
        unsafe { isa.run(Greatest(&self.scores, &mut greatest)) };
        self.weights.resize(self.scores.len(), 0.0);
        let weights = Weigh {
            scores: &self.scores,
            greatest,
            weights: &mut self.weights,
        };
        // SAFETY: as above.
        unsafe { isa.run(weights) };
        if !is_greedy {
            self.drop_by_top_k(sampling.top_k);
            self.drop_by_top_p(isa, greatest, sampling.top_p);
            self.drop_by_min_p(sampling.min_p as f32);
        }
        greatest
    }

    /// transformers' `RepetitionPenaltyLogitsProcessor`: once for each token, however often it was seen.
    fn penalize(&mut self, logits: &[f32], penalty: f32, seen: &[i64]) {
        for &id in seen {
            let Some(&logit) = usize::try_from(id).ok().and_then(|id| logits.get(id)) else {
                continue;
            };
            self.scores[id as usize] = if logit < 0.0 { logit * penalty } else { logit / penalty };
        }
    }

    /// transformers' `TopKLogitsWarper`: what is as good as the k-th best stays.
    fn drop_by_top_k(&mut self, top_k: i64) {
        let Ok(k) = usize::try_from(top_k) else { return };
        if k == 0 || k >= self.scores.len() {
            return;
        }
        let descending = |a: &f32, b: &f32| b.total_cmp(a);
        let mut threshold = f32::NEG_INFINITY;
        self.best.clear();
        for &score in &self.scores {
            if score > threshold {
                self.best.push(score);
                if self.best.len() == 2 * k {
                    threshold = *self.best.select_nth_unstable_by(k - 1, descending).1;
                    self.best.truncate(k);
                }
            }
        }
        if self.best.len() > k {
            threshold = *self.best.select_nth_unstable_by(k - 1, descending).1;
        } else if let Some(&least) = self.best.iter().min_by(|a, b| a.total_cmp(b)) {
            threshold = threshold.max(least);
        }
        for (&score, weight) in self.scores.iter().zip(&mut self.weights) {
            if score < threshold {
                *weight = 0.0;
            }
        }
    }

    /// transformers' `TopPLogitsWarper`: a token goes when the better ones already reach the sum; the best always stays.
    /// Of equal ones, those with lower ids are the better ones.
    fn drop_by_top_p(&mut self, isa: Isa, greatest: f32, top_p: f64) {
        if top_p >= 1.0 {
            return;
        }
        self.places.resize(self.scores.len(), 0.0);
        let places = Place {
            scores: &self.scores,
            greatest,
            places: &mut self.places,
        };
        // SAFETY: the backend's instruction set is available.
        unsafe { isa.run(places) };
        self.buckets.clear();
        self.buckets.resize(NUM_BUCKETS, [0.0; BUCKET_COPIES]);
        for (idx, (&place, &weight)) in self.places.iter().zip(&self.weights).enumerate() {
            // SAFETY: a number from 0 to `NUM_BUCKETS - 1`, as `Place` says.
            let place = unsafe { place.to_int_unchecked::<i32>() } as usize;
            self.buckets[place][idx % BUCKET_COPIES] += f64::from(weight);
        }
        let mass = |at: usize| self.buckets[at].iter().sum::<f64>();
        let wanted = top_p * (0..NUM_BUCKETS).map(mass).sum::<f64>();
        let mut before = 0.0;
        let mut last = 0;
        while last + 1 < NUM_BUCKETS && before + mass(last) < wanted {
            before += mass(last);
            last += 1;
        }
        self.members.clear();
        for (id, (&place, weight)) in self.places.iter().zip(&mut self.weights).enumerate() {
            if place == last as f32 && *weight > 0.0 {
                self.members.push((self.scores[id], id));
            } else if place > last as f32 {
                *weight = 0.0;
            }
        }
        self.members
            .sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (idx, &(_, id)) in self.members.iter().enumerate() {
            let weight = f64::from(self.weights[id]);
            if before >= wanted && (last, idx) != (0, 0) {
                self.weights[id] = 0.0;
            }
            before += weight;
        }
    }

    /// transformers' `MinPLogitsWarper`; the greatest weight is 1.
    fn drop_by_min_p(&mut self, min_p: f32) {
        if min_p <= 0.0 {
            return;
        }
        for weight in &mut self.weights {
            if *weight < min_p {
                *weight = 0.0;
            }
        }
    }

    /// Sums the weights block by block, and returns the sum of all.
    fn sum_blocks(&mut self) -> f64 {
        self.block_sums.clear();
        self.block_sums.extend(self.weights.chunks(BLOCK).map(|block| {
            let mut lanes = [0.0; 8];
            for weights in block.chunks(8) {
                for (lane, &weight) in lanes.iter_mut().zip(weights) {
                    *lane += f64::from(weight);
                }
            }
            lanes.iter().sum::<f64>()
        }));
        self.block_sums.iter().sum()
    }

    /// Returns the first token whose cumulative weight is above `target`; the last one that there is if rounding leaves
    /// none.
    fn find(&self, target: f64) -> usize {
        let mut cumulative = 0.0;
        for (idx, (block, sum)) in self.weights.chunks(BLOCK).zip(&self.block_sums).enumerate() {
            if cumulative + sum > target {
                let mut last = 0;
                for (at, &weight) in block.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                    last = at;
                    cumulative += f64::from(weight);
                    if cumulative > target {
                        break;
                    }
                }
                return idx * BLOCK + last;
            }
            cumulative += sum;
        }
        self.weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0)
    }
}

/// The greatest of the numbers.
struct Greatest<'a>(&'a [f32], &'a mut f32);

impl Kernel for Greatest<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller has the instructions; addresses are within the slice.
        unsafe {
            let vectors = self.0.chunks_exact(S::LANES);
            let mut greatest = vectors.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut lanes = S::splat(f32::NEG_INFINITY);
            for vector in vectors {
                // In this order NaN does not get in.
                lanes = S::max(S::load(vector.as_ptr()), lanes);
            }
            greatest = greatest.max(S::max_lane(lanes));
            *self.1 = greatest;
        }
    }
}

/// `weights = exp(scores - greatest)`
struct Weigh<'a> {
    scores: &'a [f32],
    greatest: f32,
    weights: &'a mut [f32],
}

impl Kernel for Weigh<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let greatest = self.greatest;
        for (from, to) in self.scores.chunks(S::LANES).zip(self.weights.chunks_mut(S::LANES)) {
            // SAFETY: the caller has the instructions; both chunks have one length.
            unsafe {
                let score = load_up_to::<S>(from.as_ptr(), from.len());
                let weight = exp::<S>(S::sub(score, S::splat(greatest)));
                store_up_to::<S>(to.as_mut_ptr(), weight, to.len());
            }
        }
    }
}

/// The bucket of each score: whole numbers from 0 to `NUM_BUCKETS - 1`, whatever the scores are.
struct Place<'a> {
    scores: &'a [f32],
    greatest: f32,
    places: &'a mut [f32],
}

impl Kernel for Place<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (from, to) in self.scores.chunks(S::LANES).zip(self.places.chunks_mut(S::LANES)) {
            // SAFETY: the caller has the instructions; both chunks have one length.
            unsafe {
                let score = load_up_to::<S>(from.as_ptr(), from.len());
                let distance = S::sub(S::splat(self.greatest), score);
                let place = S::mul(distance, S::splat(BUCKETS_PER_NAT));
                // The bound comes second and so takes the place of NaN, too.
                let place = S::max(S::splat(0.0), S::min(place, S::splat((NUM_BUCKETS - 1) as f32)));
                store_up_to::<S>(to.as_mut_ptr(), S::round(place), to.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::Value;
    use tch::Tensor;

    use super::*;

    /// The probabilities after the filters.
    fn probabilities(isa: Isa, logits: &[f32], sampling: Sampling, seen: &[i64]) -> Vec<f64> {
        let mut sampler = Sampler::default();
        sampler.filter(isa, logits, sampling, seen);
        let total = sampler.sum_blocks();
        sampler
            .weights
            .iter()
            .map(|&weight| f64::from(weight) / total)
            .collect()
    }

    fn draw_one(logits: &[f32], sampling: Sampling, uniform: f64) -> Drawn {
        let wanted = Draw {
            sampling,
            uniform,
            seen: &[],
        };
        draw(Isa::best(), logits, &wanted, &mut Sampler::default())
    }

    const WARM: Sampling = Sampling {
        temperature: 0.7,
        ..Sampling::PLAIN
    };

    #[test]
    fn filters_keep_what_transformers_keeps() {
        let cases = [
            ("temperature_0.7", WARM),
            (
                "top_k_20",
                Sampling {
                    top_k: 20,
                    ..Sampling::PLAIN
                },
            ),
            (
                "top_p_0.9",
                Sampling {
                    top_p: 0.9,
                    ..Sampling::PLAIN
                },
            ),
            (
                "min_p_0.05",
                Sampling {
                    min_p: 0.05,
                    ..Sampling::PLAIN
                },
            ),
            (
                "repetition_penalty_1.3",
                Sampling {
                    repetition_penalty: 1.3,
                    ..Sampling::PLAIN
                },
            ),
            (
                "temperature_0.7+top_k_20+top_p_0.9",
                Sampling {
                    top_k: 20,
                    top_p: 0.9,
                    ..WARM
                },
            ),
        ];
        for model in ["llama3-gqa", "smollm-tied", "qwen2-bias-tied", "qwen3-qknorm"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/fixtures/models")
                .join(model);
            let golden: Value = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
            let tensors = Tensor::read_safetensors(dir.join("golden.safetensors")).unwrap();
            let (_, logits) = tensors.iter().find(|(name, _)| name == "logits.right").unwrap();
            let logits = Vec::<f32>::try_from(logits.get(0).get(4)).unwrap();
            let previous: Vec<i64> = serde_json::from_value(golden["sampling"]["previous_ids"].clone()).unwrap();
            for (name, sampling) in cases {
                let expected = &golden["sampling"]["probabilities"][name];
                for isa in Isa::available() {
                    let got = probabilities(isa, &logits, sampling, &previous);
                    let num_kept = got.iter().filter(|&&p| p > 0.0).count();
                    assert_eq!(
                        num_kept as u64,
                        expected["nonzero"].as_u64().unwrap(),
                        "{model} {name} {isa:?}"
                    );
                    let listed = expected["ids"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .zip(expected["p"].as_array().unwrap());
                    for (id, p) in listed {
                        let (id, p) = (id.as_u64().unwrap() as usize, p.as_f64().unwrap());
                        assert!((got[id] - p).abs() < 1e-5, "{model} {name} {isa:?}: token {id}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_token_seen_twice_is_penalized_once() {
        let sampling = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::PLAIN
        };
        let got = probabilities(Isa::best(), &[1.0, -1.0, 0.0, 1.0], sampling, &[0, 1, 0, 0, 1, 99, -1]);
        let weights = [0.5f64, -2.0, 0.0, 1.0].map(f64::exp);
        for (got, weight) in got.iter().zip(weights) {
            assert!((got - weight / weights.iter().sum::<f64>()).abs() < 1e-6);
        }
    }

    #[test]
    fn greedy_takes_the_first_of_equal_ones_and_its_plain_logprob() {
        let mut logits = vec![0.0f32; 40];
        logits[17] = 3.0;
        logits[33] = 3.0;
        let drawn = draw_one(&logits, Sampling::GREEDY, 0.99);
        let expected = 3.0 - (38.0 + 2.0 * 3f64.exp()).ln();
        assert_eq!(drawn.id, 17);
        assert!((f64::from(drawn.logprob) - expected).abs() < 1e-6);
    }

    #[test]
    fn one_candidate_left_is_certain() {
        let logits: Vec<f32> = (0..300)
            .map(|id| (id % 7) as f32 + if id == 123 { 5.5 } else { 0.0 })
            .collect();
        for sampling in [
            Sampling { top_k: 1, ..WARM },
            Sampling { top_p: 0.0, ..WARM },
            Sampling { min_p: 1.0, ..WARM },
        ] {
            for uniform in [0.0, 0.5, 0.999_999_999] {
                let drawn = draw_one(&logits, sampling, uniform);
                assert_eq!((drawn.id, drawn.logprob), (123, 0.0));
            }
        }
    }

    #[test]
    fn no_number_is_not_the_end_of_the_program() {
        for value in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
            for sampling in [
                Sampling::GREEDY,
                WARM,
                Sampling {
                    top_k: 3,
                    top_p: 0.5,
                    min_p: 0.1,
                    ..WARM
                },
            ] {
                let drawn = draw_one(&[value; 37], sampling, 0.5);
                assert!((0..37).contains(&drawn.id));
            }
        }
    }

    /// The filters as their definitions read, with a sorted vocabulary.
    fn by_sorting(logits: &[f32], sampling: Sampling) -> Vec<f64> {
        let scores: Vec<f32> = logits
            .iter()
            .map(|&logit| logit / sampling.temperature as f32)
            .collect();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let greatest = scores[order[0]];
        let mut weights: Vec<f64> = scores.iter().map(|score| f64::from(score - greatest).exp()).collect();
        if (1..scores.len()).contains(&(sampling.top_k as usize)) {
            let threshold = scores[order[sampling.top_k as usize - 1]];
            for (weight, &score) in weights.iter_mut().zip(&scores) {
                *weight *= f64::from(u8::from(score >= threshold));
            }
        }
        let wanted = sampling.top_p * weights.iter().sum::<f64>();
        let mut before = 0.0;
        for (rank, &id) in order.iter().enumerate() {
            let weight = weights[id];
            if sampling.top_p < 1.0 && rank > 0 && before >= wanted {
                weights[id] = 0.0;
            }
            before += weight;
        }
        weights.iter_mut().for_each(|weight| {
            if *weight < sampling.min_p {
                *weight = 0.0;
            }
        });
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    }

    proptest! {
        #[test]
        fn filters_without_sorting_are_those_with(
            logits in prop::collection::vec(-12f32..12.0, 2..700),
            top_k in prop_oneof![Just(0i64), 1i64..40, 600i64..800],
            top_p in prop_oneof![Just(1.0), 0.01..0.999],
            min_p in prop_oneof![Just(0.0), 1e-4..0.5],
            uniform in 0.0..1.0,
        ) {
            let sampling = Sampling { temperature: 0.9, top_k, top_p, min_p, repetition_penalty: 1.0 };
            let expected = by_sorting(&logits, sampling);
            let got = probabilities(Isa::best(), &logits, sampling, &[]);
            // A token on the very edge may fall on either side by rounding.
            let differing = got.iter().zip(&expected).filter(|(a, b)| (**a > 0.0) != (**b > 0.0)).count();
            prop_assert!(differing <= 1);
            if differing == 0 {
                for (a, b) in got.iter().zip(&expected) {
                    prop_assert!((a - b).abs() < 1e-6);
                }
            }
            let drawn = draw_one(&logits, sampling, uniform);
            let id = drawn.id as usize;
            prop_assert!((f64::from(drawn.logprob) - got[id].ln()).abs() < 1e-5);
            let below: f64 = got[..id].iter().sum();
            prop_assert!(below <= uniform + 1e-9 && uniform < below + got[id] + 1e-9);
        }
    }
}
