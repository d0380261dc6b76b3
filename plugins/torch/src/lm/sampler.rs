//! From logits to the next token.

use tch::{Kind, Tensor};

/// How a token is drawn; filters apply in the order of transformers: temperature, top-k, top-p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// Keeps the k likeliest tokens; 0 keeps all.
    pub top_k: i64,
    /// Keeps the likeliest tokens whose probabilities first reach this sum; 1 keeps all.
    pub top_p: f64,
    /// Keeps the tokens with at least this share of the likeliest one's probability; 0 keeps all.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of tokens that occurred before (CTRL, arXiv:1909.05858, sec.
    /// 4.1); 1 changes nothing.
    pub repetition_penalty: f64,
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        ..Self::PLAIN
    };

    /// The model's own distribution.
    pub const PLAIN: Self = Self {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
    };
}

/// Draws one token for each row of `logits` `[B, V]`.
///
/// `uniforms` has one number in [0, 1) for each row: the CDF is inverted at it, so that a row's token depends on its
/// own random numbers and logits alone. Returns the ids and their log-probabilities in the distribution sampled from.
pub fn sample(logits: &Tensor, sampling: Sampling, uniforms: &[f64]) -> (Vec<i64>, Vec<f32>) {
    let logits = logits.to_kind(Kind::Float);
    let (ids, logprobs) = if sampling.temperature == 0.0 {
        (logits.argmax(-1, true), logits.log_softmax(-1, Kind::Float))
    } else {
        let logprobs = filter(&logits, sampling).log_softmax(-1, Kind::Float);
        let cumulative = logprobs.exp().cumsum(-1, Kind::Double);
        let last = logits.size()[1] - 1;
        let total = cumulative.narrow(-1, last, 1);
        let uniforms = Tensor::from_slice(uniforms).to_device(logits.device()).unsqueeze(-1);
        let ids = cumulative
            .le_tensor(&(uniforms * total))
            .sum_dim_intlist(-1, true, Kind::Int64)
            .clamp_max(last);
        (ids, logprobs)
    };
    let chosen = logprobs.gather(-1, &ids, false);
    (to_vec(&ids.squeeze_dim(-1)), to_vec(&chosen.squeeze_dim(-1)))
}

/// Returns the logits scaled by the temperature, with the tokens that the filters drop at minus infinity.
pub fn filter(logits: &Tensor, sampling: Sampling) -> Tensor {
    let mut logits = logits / sampling.temperature;
    let vocab_size = logits.size()[1];
    if (1..vocab_size).contains(&sampling.top_k) {
        let (best, _) = logits.topk(sampling.top_k, -1, true, true);
        let threshold = best.narrow(-1, sampling.top_k - 1, 1);
        logits = logits.masked_fill(&logits.lt_tensor(&threshold), f64::NEG_INFINITY);
    }
    if sampling.top_p < 1.0 {
        let (sorted, order) = logits.sort(-1, true);
        let probs = sorted.softmax(-1, Kind::Float);
        // A token goes when the ones before it already reach the sum; the likeliest always stays.
        let before = probs.cumsum(-1, Kind::Float) - &probs;
        let dropped = before.ge(sampling.top_p);
        let dropped = dropped.scatter(-1, &order, &dropped);
        logits = logits.masked_fill(&dropped, f64::NEG_INFINITY);
    }
    logits
}

fn to_vec<T: tch::kind::Element>(tensor: &Tensor) -> Vec<T>
where
    Vec<T>: TryFrom<Tensor, Error = tch::TchError>,
{
    Vec::try_from(tensor.shallow_clone()).expect("a vector of the tensor's own kind")
}
