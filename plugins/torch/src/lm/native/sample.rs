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

/// Buffers for one row.
#[derive(Debug, Default)]
pub struct Sampler {
    /// Logits after penalty and temperature.
    scores: Vec<f32>,
    /// Probabilities, but for a factor that makes the greatest of them 1; 0 for what the filters drop.
    weights: Vec<f32>,
    best: Vec<f32>,
    buckets: Vec<f64>,
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
            self.drop_by_top_p(greatest, sampling.top_p);
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
    fn drop_by_top_p(&mut self, greatest: f32, top_p: f64) {
        if top_p >= 1.0 {
            return;
        }
        let bucket = |score: f32| (((greatest - score) * BUCKETS_PER_NAT) as usize).min(NUM_BUCKETS - 1);
        self.buckets.clear();
        self.buckets.resize(NUM_BUCKETS, 0.0);
        for (&score, &weight) in self.scores.iter().zip(&self.weights) {
            self.buckets[bucket(score)] += f64::from(weight);
        }
        let wanted = top_p * self.buckets.iter().sum::<f64>();
        let mut before = 0.0;
        let mut last = 0;
        while last + 1 < NUM_BUCKETS && before + self.buckets[last] < wanted {
            before += self.buckets[last];
            last += 1;
        }
        self.members.clear();
        for (id, (&score, weight)) in self.scores.iter().zip(&mut self.weights).enumerate() {
            let at = bucket(score);
            if at == last && *weight > 0.0 {
                self.members.push((score, id));
            } else if at > last {
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
