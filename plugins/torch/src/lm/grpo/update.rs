//! One optimizer step on groups of judged completions.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{BatchSize, GroupBatch, LossSettings, LossSums, Rollouts, loss};
use crate::lm::learner::Learner;
use crate::lm::train::{AdapterDropout, Compute, Head, backward_from_hidden, backward_with_entropies};
use crate::lm::{CausalLm, LmError};

/// The completions of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub prompt: Vec<i64>,
    pub completions: Vec<Completion>,
}

impl Group {
    /// Tokens that are computed for some completions, padding included.
    fn num_tokens(&self, completions: &[usize]) -> usize {
        let lengths = completions.iter().map(|&idx| self.completions[idx].labels().len());
        self.prompt.len() + completions.len() * lengths.max().unwrap_or(0)
    }
}

/// A sampled continuation with its verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completion {
    pub ids: Vec<i64>,
    pub advantage: f64,
    /// Leaves its tokens out of the loss.
    pub is_masked: bool,
    /// Log p of its tokens under the policy that sampled it; absent until a step or [`score_old`] has computed it, and
    /// then the policy being trained is taken for that policy.
    pub old_logprobs: Option<Vec<f32>>,
    /// The same under the reference policy, which never changes.
    pub ref_logprobs: Option<Vec<f32>>,
}

impl Completion {
    pub fn new(ids: Vec<i64>, advantage: f64, is_masked: bool) -> Self {
        Self {
            ids,
            advantage,
            is_masked,
            old_logprobs: None,
            ref_logprobs: None,
        }
    }

    /// The tokens that the loss looks at.
    fn labels(&self) -> &[i64] {
        if self.is_masked { &[] } else { &self.ids }
    }
}

/// What is minimized, and how.
#[derive(Debug, Clone, Copy)]
pub struct Objective {
    /// Of the sampling: log-probabilities are those of the distribution that was sampled from.
    pub temperature: f64,
    pub settings: LossSettings,
    pub dropout: AdapterDropout,
    /// Whether the distance to the reference is looked at although it is not in the loss: of all completions then.
    pub log_kl: bool,
}

impl Objective {
    /// Whether a completion is computed: without a KL term one whose advantage is 0 has no gradient, only a cost.
    fn needs(&self, completion: &Completion) -> bool {
        completion.advantage != 0.0 || self.settings.beta != 0.0 || self.log_kl
    }

    /// Returns the lengths, in tokens, of what an [`update`] computes: each prompt, and each of its completions.
    pub fn lengths(&self, groups: &[Group]) -> Vec<usize> {
        let mut lengths = Vec::new();
        for group in groups {
            let computed = group.completions.iter().filter(|completion| self.needs(completion));
            let before = lengths.len();
            lengths.extend(computed.map(|completion| completion.labels().len()));
            if lengths.len() > before {
                lengths.push(group.prompt.len());
            }
        }
        lengths
    }
}

/// The policy that another is compared with.
#[derive(Debug, Clone, Copy)]
pub enum Reference<'a> {
    Model(&'a CausalLm),
    /// The policy being trained, without its adapters.
    WithoutAdapters,
}

/// What one optimizer step did.
#[derive(Debug, Default)]
pub struct Update {
    pub loss: f64,
    /// Where it is not finite the step changed nothing.
    pub grad_norm: f64,
    /// Sum of the entropies, in nats, of the distributions that the tokens of `sums` are of, at the temperature of the
    /// sampling.
    pub entropy: f64,
    pub sums: LossSums,
}

/// Some completions of one group, by their indices.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    group: usize,
    completions: Vec<usize>,
}

/// What a micro-batch found out.
struct Outcome {
    loss: f64,
    entropy: f64,
    sums: LossSums,
    /// Log p of each label.
    logprobs: Vec<f32>,
    ref_logprobs: Option<Vec<f32>>,
}

/// Takes one optimizer step on all completions, and notes log-probabilities that later steps on them need.
///
/// The step does not depend on how it is cut into micro-batches: `bnpo` is the mean over its tokens. Where no completion
/// has a gradient, the optimizer steps with zeros, as in TRL: its moments decay and so do the weights.
///
/// # Errors
/// A prompt has no tokens, memory runs out, the step fails, or the worker is asked to stop: the weights are then as
/// before.
pub fn update(
    learner: &mut Learner,
    objective: &Objective,
    reference: Option<Reference<'_>>,
    groups: &mut [Group],
    compute: &Compute,
    learning_rate: f64,
) -> Result<Update, LmError> {
    let parts = parts(groups, |it| objective.needs(it), compute.micro_batch_tokens)?;
    // Completions that are not computed still count.
    let whole = BatchSize {
        num_rollouts: groups.iter().map(|group| group.completions.len()).sum(),
        num_tokens: groups
            .iter()
            .flat_map(|group| &group.completions)
            .map(|completion| completion.labels().len())
            .sum(),
    };
    let work: Vec<Work> = parts
        .iter()
        .map(|part| Work {
            part: part.clone(),
            reference: match reference {
                Some(Reference::Model(model)) => Some(Some(model.share())),
                Some(Reference::WithoutAdapters) => Some(None),
                None => None,
            },
        })
        .collect();
    let all: &[Group] = groups;
    let (outcomes, grad_norm) = learner.step(work, learning_rate, |model, work| {
        backward(model, work, objective, all, whole, compute)
    })?;
    let mut total = Update {
        grad_norm,
        ..Update::default()
    };
    for (part, outcome) in parts.iter().zip(outcomes) {
        total.loss += outcome.loss;
        total.entropy += outcome.entropy;
        total.sums.add(&outcome.sums);
        if !grad_norm.is_finite() {
            // Log-probabilities that are no numbers must not be learned from later.
            continue;
        }
        note(groups, part, &outcome.logprobs, |completion| {
            &mut completion.old_logprobs
        });
        if let Some(logprobs) = &outcome.ref_logprobs {
            note(groups, part, logprobs, |completion| &mut completion.ref_logprobs);
        }
    }
    Ok(total)
}

/// Notes the log-probabilities of all completions that steps will learn from, under the policy as it is, which sampled
/// them.
///
/// # Errors
/// A prompt has no tokens, or memory runs out.
pub fn score_old(
    model: &CausalLm,
    objective: &Objective,
    groups: &mut [Group],
    compute: &Compute,
) -> Result<(), LmError> {
    let parts = parts(groups, |it| objective.needs(it), compute.micro_batch_tokens)?;
    for part in parts {
        let joined = join(groups, &part, model);
        let logprobs = logprobs(model, &joined, objective, compute)?;
        note(groups, &part, &logprobs, |completion| &mut completion.old_logprobs);
    }
    Ok(())
}

/// Returns the tokens of the largest micro-batch of several completions that an [`update`] makes; none where there is none.
pub fn largest_joint(groups: &[Group], objective: &Objective, max_tokens: usize) -> Option<usize> {
    let parts = parts(groups, |it| objective.needs(it), max_tokens).ok()?;
    let joint = parts
        .iter()
        .filter(|part| part.iter().map(|piece| piece.completions.len()).sum::<usize>() > 1);
    let tokens = |piece: &Piece| groups[piece.group].num_tokens(&piece.completions);
    joint.map(|part| part.iter().map(tokens).sum()).max()
}

/// Cuts the completions that are to be computed into micro-batches of at most `max_tokens` tokens, padding of the
/// completions included, or of one completion. Completions of one group stay together where they can, since they share
/// their prompt.
fn parts(
    groups: &[Group],
    is_computed: impl Fn(&Completion) -> bool,
    max_tokens: usize,
) -> Result<Vec<Vec<Piece>>, LmError> {
    let mut parts: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for (group_idx, group) in groups.iter().enumerate() {
        let len = |&idx: &usize| group.completions[idx].labels().len();
        let mut order: Vec<usize> = (0..group.completions.len())
            .filter(|&idx| is_computed(&group.completions[idx]))
            .collect();
        if order.is_empty() {
            continue;
        }
        if group.prompt.is_empty() {
            return Err(LmError::Torch(
                "a prompt has no tokens, so nothing predicts a completion".to_owned(),
            ));
        }
        order.sort_by_key(len);
        let cost = |run: &[usize]| group.num_tokens(run);
        while !order.is_empty() {
            let fitting = (1..=order.len())
                .take_while(|&count| cost(&order[..count]) <= max_tokens)
                .last();
            let rest = order.split_off(fitting.unwrap_or(1));
            let piece = Piece {
                group: group_idx,
                completions: std::mem::replace(&mut order, rest),
            };
            let tokens = cost(&piece.completions);
            match parts.last_mut() {
                Some(part) if tokens <= room => {
                    room -= tokens;
                    part.push(piece);
                }
                _ => {
                    room = max_tokens.saturating_sub(tokens);
                    parts.push(vec![piece]);
                }
            }
        }
    }
    Ok(parts)
}

/// A micro-batch on its way to a thread.
struct Work {
    part: Vec<Piece>,
    /// Outside: whether there is one. Inside: the model, unless it is the policy without adapters.
    reference: Option<Option<CausalLm>>,
}

/// Leaves the gradient of one micro-batch in the model's parameters.
fn backward(
    model: &CausalLm,
    work: Work,
    objective: &Objective,
    groups: &[Group],
    whole: BatchSize,
    compute: &Compute,
) -> Result<Outcome, LmError> {
    let joined = join(groups, &work.part, model);
    if joined.batch.targets.numel() == 0 {
        return Ok(Outcome::nothing());
    }
    let ref_logprobs = match (
        &work.reference,
        stored(groups, &work.part, |it| it.ref_logprobs.as_deref()),
    ) {
        (None, _) => None,
        (Some(_), Some(known)) => Some(known),
        (Some(Some(reference)), None) => Some(logprobs(reference, &joined, objective, compute)?),
        (Some(None), None) => {
            let reference = model.without_adapters();
            Some(logprobs(&reference, &joined, objective, compute)?)
        }
    };
    let terms = Terms {
        joined: &joined,
        old: stored(groups, &work.part, |it| it.old_logprobs.as_deref()).map(|flat| joined.spread_from(&flat)),
        reference: ref_logprobs.as_ref().map(|flat| joined.spread_from(flat)),
        advantages: {
            let advantages: Vec<f32> = completions(groups, &work.part).map(|it| it.advantage as f32).collect();
            Tensor::from_slice(&advantages).to_device(model.device())
        },
        settings: &objective.settings.of_whole_step(),
        whole,
    };
    let dropping = objective.dropout.on(model, &sequences(groups, &work.part));
    let model = dropping.as_ref().unwrap_or(model);
    let ((logprobs, loss, sums), entropies) = if terms.is_linear() {
        backward_at_ratio_one(model, &terms, objective, compute)?
    } else {
        let mut attend = joined.attend();
        let temperature = objective.temperature;
        backward_with_entropies(model, &joined.batch, &mut attend, temperature, compute, |logprobs| {
            let (loss, sums) = terms.loss(logprobs);
            let value = loss.double_value(&[]);
            Ok((loss, (logprobs.detach(), value, sums)))
        })?
    };
    Ok(Outcome {
        loss,
        entropy: entropies.sum(Kind::Double).double_value(&[]),
        sums,
        logprobs: Vec::try_from(logprobs)?,
        ref_logprobs,
    })
}

/// On policy and without a KL term the ratio is 1 whatever the log-probabilities are, so the gradient with respect to
/// them is known before they are: the logits are computed once instead of twice.
fn backward_at_ratio_one(
    model: &CausalLm,
    terms: &Terms<'_>,
    objective: &Objective,
    compute: &Compute,
) -> Result<((Tensor, f64, LossSums), Tensor), LmError> {
    let batch = &terms.joined.batch;
    let any = Tensor::zeros(batch.targets.size(), (Kind::Float, model.device())).set_requires_grad(true);
    let (loss, sums) = terms.loss(&any);
    loss.f_backward()?;
    let grads = any.grad();
    let head = Head::new(model, &batch.targets, objective.temperature, compute.logits_bytes);
    let mut attend = terms.joined.attend();
    let done = backward_from_hidden(model, batch, &mut attend, compute.gradient_checkpointing, |hidden| {
        let done = head.backward(hidden, &grads, true)?;
        Ok((done.grad, (done.logprobs, done.entropies)))
    })?;
    let (logprobs, entropies) = done;
    let entropies = entropies.expect("they were asked for");
    Ok(((logprobs, loss.double_value(&[]), sums), entropies))
}

/// Returns log p of each label of a micro-batch, without gradients.
fn logprobs(
    model: &CausalLm,
    joined: &GroupBatch,
    objective: &Objective,
    compute: &Compute,
) -> Result<Vec<f32>, LmError> {
    if joined.batch.targets.numel() == 0 {
        return Ok(Vec::new());
    }
    let _no_grad = tch::no_grad_guard();
    let head = Head::new(
        model,
        &joined.batch.targets,
        objective.temperature,
        compute.logits_bytes,
    );
    Ok(Vec::try_from(head.logprobs(&joined.predictors(model))?)?)
}

/// What the loss of a micro-batch depends on besides the log-probabilities.
struct Terms<'a> {
    joined: &'a GroupBatch,
    /// `[B, T]`; absent on policy.
    old: Option<Tensor>,
    /// `[B, T]`
    reference: Option<Tensor>,
    /// `[B]`
    advantages: Tensor,
    settings: &'a LossSettings,
    whole: BatchSize,
}

impl Terms<'_> {
    /// Whether the gradient does not depend on the log-probabilities.
    fn is_linear(&self) -> bool {
        self.old.is_none() && self.reference.is_none()
    }

    /// The loss for log p of each label, `[L]`.
    fn loss(&self, logprobs: &Tensor) -> (Tensor, LossSums) {
        let logprobs = self.joined.spread(logprobs);
        let on_policy = logprobs.detach();
        let rollouts = Rollouts {
            logprobs: &logprobs,
            old_logprobs: self.old.as_ref().unwrap_or(&on_policy),
            ref_logprobs: self.reference.as_ref(),
            advantages: &self.advantages,
            mask: &self.joined.mask,
        };
        loss(&rollouts, self.settings, self.whole)
    }
}

impl GroupBatch {
    fn spread_from(&self, values: &[f32]) -> Tensor {
        self.spread(&Tensor::from_slice(values).to_device(self.mask.device()))
    }
}

impl Outcome {
    fn nothing() -> Self {
        Self {
            loss: 0.0,
            entropy: 0.0,
            sums: LossSums::default(),
            logprobs: Vec::new(),
            ref_logprobs: None,
        }
    }
}

fn join(groups: &[Group], part: &[Piece], model: &CausalLm) -> GroupBatch {
    let joined: Vec<(&[i64], Vec<&[i64]>)> = part
        .iter()
        .map(|piece| {
            let group = &groups[piece.group];
            let labels = piece.completions.iter().map(|&idx| group.completions[idx].labels());
            (group.prompt.as_slice(), labels.collect())
        })
        .collect();
    GroupBatch::new(&joined, model.device())
}

/// A number for each prompt and completion of a micro-batch, in their order, and its length; the same in whatever micro-batch
/// it is.
fn sequences(groups: &[Group], part: &[Piece]) -> Vec<(u64, usize)> {
    part.iter()
        .flat_map(|piece| {
            let (group, number) = (&groups[piece.group], (piece.group as u64) << 32);
            let completion = move |&idx: &usize| (number + 1 + idx as u64, group.completions[idx].labels().len());
            std::iter::once((number, group.prompt.len())).chain(piece.completions.iter().map(completion))
        })
        .collect()
}

fn completions<'a>(groups: &'a [Group], part: &'a [Piece]) -> impl Iterator<Item = &'a Completion> {
    part.iter().flat_map(|piece| {
        piece
            .completions
            .iter()
            .map(|&idx| &groups[piece.group].completions[idx])
    })
}

/// Returns what was noted of each label of a micro-batch, if it was for all of them.
fn stored<'a>(
    groups: &'a [Group],
    part: &'a [Piece],
    of: impl Fn(&'a Completion) -> Option<&'a [f32]>,
) -> Option<Vec<f32>> {
    let mut flat = Vec::new();
    for completion in completions(groups, part).filter(|completion| !completion.labels().is_empty()) {
        flat.extend_from_slice(of(completion)?);
    }
    Some(flat)
}

/// Notes a number for each label of a micro-batch where none is noted yet.
fn note(groups: &mut [Group], part: &[Piece], values: &[f32], slot: impl Fn(&mut Completion) -> &mut Option<Vec<f32>>) {
    let mut rest = values;
    for piece in part {
        for &idx in &piece.completions {
            let completion = &mut groups[piece.group].completions[idx];
            let (own, after) = rest.split_at(completion.labels().len().min(rest.len()));
            rest = after;
            slot(completion).get_or_insert_with(|| own.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::grpo::{ImportanceSamplingLevel, LossType};
    use crate::lm::train::fitting;

    fn group(prompt: usize, lengths: &[usize]) -> Group {
        let completion = |&length: &usize| Completion::new(vec![1; length], 1.0, false);
        Group {
            prompt: vec![1; prompt],
            completions: lengths.iter().map(completion).collect(),
        }
    }

    fn cut(groups: &[Group], max_tokens: usize) -> Vec<Vec<(usize, Vec<usize>)>> {
        let parts = parts(groups, |_| true, max_tokens).unwrap();
        let plain = |piece: Piece| (piece.group, piece.completions);
        parts
            .into_iter()
            .map(|part| part.into_iter().map(plain).collect())
            .collect()
    }

    #[test]
    fn completions_of_a_group_stay_together_where_they_can() {
        let groups = [group(10, &[5, 9, 5]), group(4, &[1, 1])];
        assert_eq!(cut(&groups, 100), [vec![(0, vec![0, 2, 1]), (1, vec![0, 1])]]);
        assert_eq!(cut(&groups, 37), [vec![(0, vec![0, 2, 1])], vec![(1, vec![0, 1])]]);
        assert_eq!(
            cut(&groups, 20),
            [vec![(0, vec![0, 2])], vec![(0, vec![1])], vec![(1, vec![0, 1])]]
        );
        assert_eq!(cut(&groups, 1).len(), 5, "one at a time at least");
        assert!(parts(&[group(0, &[3])], |_| true, 9).is_err());
        assert!(parts(&[group(0, &[3])], |_| false, 9).unwrap().is_empty());
    }

    #[test]
    fn memory_is_looked_for_until_each_completion_is_alone() {
        let objective = Objective {
            temperature: 1.0,
            settings: LossSettings {
                loss_type: LossType::Dapo,
                importance_sampling_level: ImportanceSamplingLevel::Token,
                epsilon: 0.2,
                epsilon_high: 0.2,
                delta: None,
                beta: 0.0,
                use_bias_correction_kl: false,
                max_completion_length: 8,
            },
            dropout: AdapterDropout {
                probability: 0.0,
                seed: 0,
            },
            log_kl: false,
        };
        // Completions of a long prompt together take hardly more than one, but more.
        let groups = [group(1000, &[8, 8, 8, 8])];
        let mut tokens = 1024;
        let mut retries = Vec::new();
        let done = fitting(
            &mut tokens,
            1008,
            |tokens| largest_joint(&groups, &objective, tokens),
            |tokens| retries.push(tokens),
            |tokens| match cut(&groups, tokens).len() {
                4 => Ok(()),
                _ => Err(LmError::OutOfMemory("out of memory".to_owned())),
            },
        );
        assert!(done.is_ok(), "{done:?}");
        assert_eq!(retries, [512]);
    }

    #[test]
    fn notes_go_to_the_completions_that_they_are_of() {
        let mut groups = [group(1, &[2, 1])];
        groups[0].completions.push(Completion::new(vec![1, 1], 1.0, true));
        let part = [Piece {
            group: 0,
            completions: vec![1, 2, 0],
        }];
        note(&mut groups, &part, &[1.0, 2.0, 3.0], |it| &mut it.old_logprobs);
        let old: Vec<_> = groups[0].completions.iter().map(|it| it.old_logprobs.clone()).collect();
        assert_eq!(old, [Some(vec![2.0, 3.0]), Some(vec![1.0]), Some(vec![])]);
        assert_eq!(
            stored(&groups, &part, |it| it.old_logprobs.as_deref()),
            Some(vec![1.0, 2.0, 3.0])
        );
        assert_eq!(stored(&groups, &part, |it| it.ref_logprobs.as_deref()), None);
    }
}
