//! From logits to the next token.

use tch::{Device, Kind, Tensor};

use crate::lm::LmError;
use crate::lm::generate::backend::{Draw, Drawn};

/// Logits that are filtered at once: beside them lie half a dozen tensors of their size.
const MAX_NUMBERS: usize = 1 << 24;

/// How a token is drawn; filters apply in the order of transformers: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token; then only the repetition penalty applies.
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

    fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

/// Draws a token for each of `draws` from row `rows[i]` of `logits` `[C, V]`.
///
/// The cumulative distribution, in the order of the vocabulary, is inverted at the draw's own uniform number, so that a
/// token depends on nothing but its draw and its logits. Logits come to the host in no other way than as drawn tokens,
/// in one transfer.
///
/// # Errors
/// The device fails or is out of memory.
pub fn sample(logits: &Tensor, rows: &Tensor, draws: &[&Draw<'_>]) -> Result<Vec<Drawn>, LmError> {
    let vocab_size = logits.size()[1] as usize;
    let rows_at_once = (MAX_NUMBERS / vocab_size.max(1)).max(1);
    let mut parts = Vec::new();
    for (part_idx, part) in draws.chunks(rows_at_once).enumerate() {
        let rows = rows.narrow(0, (part_idx * rows_at_once) as i64, part.len() as i64);
        let logits = logits.index_select(0, &rows).to_kind(Kind::Float);
        parts.push(invert(&logits, part));
    }
    let drawn = Tensor::cat(&parts, 1).to_device(Device::Cpu); // [2, R]
    let column = |idx: i64| -> Result<Vec<f64>, LmError> { Ok(Vec::try_from(drawn.get(idx))?) };
    let pairs = column(0)?.into_iter().zip(column(1)?);
    Ok(pairs
        .map(|(id, logprob)| Drawn {
            id: id as i64,
            logprob: logprob as f32,
        })
        .collect())
}

/// Returns ids and log-probabilities `[2, R]`, as f64, of the tokens drawn from `logits` `[R, V]`.
fn invert(logits: &Tensor, draws: &[&Draw<'_>]) -> Tensor {
    let filtered = filtered(logits, draws);
    let logprobs = filtered.log_softmax(-1, Kind::Float);
    let is_greedy = |draw: &&Draw<'_>| draw.sampling.is_greedy();
    let ids = if draws.iter().all(is_greedy) {
        filtered.argmax(-1, true)
    } else {
        let cumulative = logprobs.exp().cumsum(-1, Kind::Double);
        let total = cumulative.narrow(-1, logits.size()[1] - 1, 1);
        let uniforms = column(draws, logits.device(), |draw| draw.uniform);
        let count = |mask: Tensor| mask.sum_dim_intlist(-1, true, Kind::Int64);
        let ids = count(cumulative.le_tensor(&(uniforms * &total)));
        // Rounding must not lead behind the last token that has a probability.
        let ids = ids.minimum(&count(cumulative.lt_tensor(&total)));
        if draws.iter().any(is_greedy) {
            let greedy = column(draws, logits.device(), |draw| f64::from(draw.sampling.is_greedy())).gt(0.5);
            filtered.argmax(-1, true).where_self(&greedy, &ids)
        } else {
            ids
        }
    };
    let chosen = logprobs.gather(-1, &ids, false);
    Tensor::cat(&[ids.to_kind(Kind::Double), chosen.to_kind(Kind::Double)], -1).transpose(0, 1)
}

/// Returns logits `[R, V]`, as f32, as the draws' filters leave them: scaled, and minus infinity where a token is dropped.
///
/// Agrees with `RepetitionPenaltyLogitsProcessor`, `TemperatureLogitsWarper`, `TopKLogitsWarper`, `TopPLogitsWarper` and
/// `MinPLogitsWarper` of transformers' `generation/logits_process.py`, each with the row's own setting.
pub fn filtered(logits: &Tensor, draws: &[&Draw<'_>]) -> Tensor {
    let device = logits.device();
    let vocab_size = logits.size()[1];
    let setting =
        |get: &dyn Fn(&Sampling) -> f64| column(draws, device, |draw| get(&draw.sampling)).to_kind(Kind::Float);
    let any = |is_set: &dyn Fn(&Sampling) -> bool| draws.iter().any(|draw| is_set(&draw.sampling));
    let warps = |sampling: &Sampling| !sampling.is_greedy();

    let mut logits = penalized(logits, draws);
    if any(&|sampling| warps(sampling) && sampling.temperature != 1.0) {
        // Not `/=`, which would change the caller's logits.
        logits = logits.divide(&setting(&|sampling| {
            if warps(sampling) { sampling.temperature } else { 1.0 }
        }));
    }
    let top_k = |sampling: &Sampling| match sampling.top_k {
        k if warps(sampling) && (1..vocab_size).contains(&k) => k,
        _ => vocab_size,
    };
    if any(&|sampling| top_k(sampling) < vocab_size) {
        let largest = draws
            .iter()
            .map(|draw| top_k(&draw.sampling))
            .max()
            .unwrap_or(vocab_size);
        let (best, _) = logits.topk(largest, -1, true, true);
        let last = column(draws, device, |draw| top_k(&draw.sampling) as f64).to_kind(Kind::Int64) - 1;
        logits = logits.masked_fill(&logits.lt_tensor(&best.gather(-1, &last, false)), f64::NEG_INFINITY);
    }
    let top_p = |sampling: &Sampling| if warps(sampling) { sampling.top_p } else { 1.0 };
    if any(&|sampling| top_p(sampling) < 1.0) {
        let (sorted, order) = logits.sort(-1, true);
        let probs = sorted.softmax(-1, Kind::Float);
        // A token goes when the ones before it already reach the sum; the likeliest always stays.
        let before = probs.cumsum(-1, Kind::Float) - &probs;
        let limits = setting(&|sampling| match top_p(sampling) {
            p if p < 1.0 => p,
            _ => f64::INFINITY,
        });
        let dropped = before.ge_tensor(&limits);
        let _ = dropped.narrow(-1, 0, 1).fill_(0);
        let dropped = dropped.scatter(-1, &order, &dropped);
        logits = logits.masked_fill(&dropped, f64::NEG_INFINITY);
    }
    let min_p = |sampling: &Sampling| if warps(sampling) { sampling.min_p } else { 0.0 };
    if any(&|sampling| min_p(sampling) > 0.0) {
        let probs = logits.softmax(-1, Kind::Float);
        let limits = probs.amax([-1], true) * setting(&|sampling| min_p(sampling).min(1.0));
        logits = logits.masked_fill(&probs.lt_tensor(&limits), f64::NEG_INFINITY);
    }
    logits
}

/// Applies each row's repetition penalty to the tokens that it has seen.
fn penalized(logits: &Tensor, draws: &[&Draw<'_>]) -> Tensor {
    let is_penalized = |draw: &Draw<'_>| draw.sampling.repetition_penalty != 1.0 && !draw.seen.is_empty();
    let longest = draws
        .iter()
        .filter(|draw| is_penalized(draw))
        .map(|draw| draw.seen.len())
        .max();
    let Some(longest) = longest else {
        return logits.shallow_clone();
    };
    // Shorter rows repeat their first token; rows without a penalty multiply any token by 1.
    let mut seen = Vec::with_capacity(draws.len() * longest);
    for draw in draws {
        let own = if is_penalized(draw) { draw.seen } else { &[] };
        let first = own.first().copied().unwrap_or(0);
        seen.extend(own.iter().copied().chain(std::iter::repeat(first)).take(longest));
    }
    let device = logits.device();
    let seen = Tensor::from_slice(&seen).to_device(device).view([-1, longest as i64]);
    let penalty = column(draws, device, |draw| {
        if is_penalized(draw) {
            draw.sampling.repetition_penalty
        } else {
            1.0
        }
    });
    let penalty = penalty.to_kind(Kind::Float);
    let scores = logits.gather(-1, &seen, false);
    let scores = (&scores * &penalty).where_self(&scores.lt(0.0), &(&scores / &penalty));
    logits.scatter(-1, &seen, &scores)
}

/// Returns one number of each draw, `[R, 1]`, as f64.
fn column(draws: &[&Draw<'_>], device: Device, get: impl Fn(&Draw<'_>) -> f64) -> Tensor {
    let values: Vec<f64> = draws.iter().map(|draw| get(draw)).collect();
    Tensor::from_slice(&values).to_device(device).unsqueeze(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [1.0, -1.0, 0.5, 0.5];

    fn draw<'a>(sampling: Sampling, uniform: f64, seen: &'a [i64]) -> Draw<'a> {
        Draw {
            sampling,
            uniform,
            seen,
        }
    }

    fn drawn(logits: &[f32], draws: &[Draw<'_>]) -> Vec<Drawn> {
        let logits = Tensor::from_slice(logits).view([-1, 4]);
        let rows = Tensor::zeros([draws.len() as i64], (Kind::Int64, Device::Cpu));
        sample(&logits, &rows, &draws.iter().collect::<Vec<_>>()).expect("it is drawn")
    }

    #[test]
    fn rows_with_settings_of_their_own_do_not_touch_each_other() {
        let settings = [
            Sampling::PLAIN,
            Sampling::GREEDY,
            Sampling {
                temperature: 0.5,
                ..Sampling::PLAIN
            },
            Sampling {
                top_k: 2,
                ..Sampling::PLAIN
            },
            Sampling {
                top_k: 9,
                ..Sampling::PLAIN
            },
            Sampling {
                top_p: 0.4,
                ..Sampling::PLAIN
            },
            Sampling {
                min_p: 0.5,
                ..Sampling::PLAIN
            },
            Sampling {
                repetition_penalty: 3.0,
                ..Sampling::PLAIN
            },
            Sampling {
                top_k: 1,
                top_p: 0.1,
                min_p: 0.9,
                ..Sampling::GREEDY
            },
        ];
        let draws: Vec<Draw<'_>> = settings.iter().map(|&setting| draw(setting, 0.7, &[0, 1, 0])).collect();
        let together = drawn(&LOGITS, &draws);
        for (draw, together) in draws.iter().zip(&together) {
            assert_eq!(
                drawn(&LOGITS, std::slice::from_ref(draw))[0],
                *together,
                "{:?}",
                draw.sampling
            );
        }
        assert_eq!(
            together[1], together[8],
            "the filters leave the likeliest token and its probability as they are"
        );
    }

    #[test]
    fn a_penalty_counts_a_token_once_and_makes_it_less_likely_either_way() {
        let penalty = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::PLAIN
        };
        let seen = draw(penalty, 0.0, &[0, 1, 0]);
        let logits = filtered(&Tensor::from_slice(&LOGITS).view([1, 4]), &[&seen]);
        let expected = Tensor::from_slice(&[0.5_f32, -2.0, 0.5, 0.5]).view([1, 4]);
        assert_eq!((logits - expected).abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn ties_at_the_kth_place_stay_and_the_likeliest_always_does() {
        let kept = |sampling: Sampling| {
            let logits = filtered(&Tensor::from_slice(&LOGITS).view([1, 4]), &[&draw(sampling, 0.0, &[])]);
            Vec::<bool>::try_from(logits.isfinite().view([-1])).expect("booleans")
        };
        let plain = Sampling::PLAIN;
        assert_eq!(kept(Sampling { top_k: 2, ..plain }), [true, false, true, true]);
        assert_eq!(kept(Sampling { top_p: 1e-9, ..plain }), [true, false, false, false]);
        assert_eq!(kept(Sampling { min_p: 1.0, ..plain }), [true, false, false, false]);
    }

    #[test]
    fn a_uniform_number_is_inverted_in_the_order_of_the_vocabulary() {
        let logits: Vec<f32> = [0.2_f32, 0.3, 0.1, 0.4].iter().map(|p| p.ln()).collect();
        let ids = |uniforms: &[f64]| -> Vec<i64> {
            let draws: Vec<Draw<'_>> = uniforms
                .iter()
                .map(|&uniform| draw(Sampling::PLAIN, uniform, &[]))
                .collect();
            drawn(&logits, &draws).iter().map(|drawn| drawn.id).collect()
        };
        assert_eq!(
            ids(&[0.0, 0.19, 0.21, 0.49, 0.51, 0.59, 0.61, 1.0 - f64::EPSILON / 2.0]),
            [0, 0, 1, 1, 2, 2, 3, 3]
        );
        // The last token has no probability: rounding does not lead there.
        let last = draw(Sampling::PLAIN, 1.0 - f64::EPSILON / 2.0, &[]);
        assert_eq!(drawn(&[0.3, 0.1, 0.2, f32::NEG_INFINITY], &[last])[0].id, 2);
    }
}
