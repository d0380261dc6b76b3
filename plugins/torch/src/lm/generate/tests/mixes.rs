//! Random mixes of prompts, limits, seeds, filters and memories: what runs together gives what each gives alone.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as RunnerConfig, TestRng, TestRunner};
use tch::Device;

use super::fake::Fake;
use super::{Item, Setting, alone, complete};
use crate::lm::generate::backend::{Backend, PAGE_SIZE};
use crate::lm::generate::engine::Engine;
use crate::lm::generate::pages::pages_for;
use crate::lm::generate::torch::TorchBackend;
use crate::lm::sampler::Sampling;
use crate::lm::{CausalLm, config};

/// Mixes for the scheduler, whose backend costs nothing, and for a backend with a model.
const NUM_MIXES: u32 = 1000;
const NUM_MIXES_WITH_MODEL: u32 = 60;

const VOCAB_SIZE: i64 = 24;

#[derive(Debug, Clone)]
struct Mix {
    /// Two calls of the same engine.
    calls: [Vec<Item>; 2],
    setting: Setting,
    step_tokens: usize,
    /// Pages beside those that the longest sequence needs.
    spare_pages: usize,
    forgets: bool,
}

/// Prompts that begin like one of two texts and go on in their own way, or not at all.
fn item() -> impl Strategy<Value = Item> {
    let tail = vec(0..VOCAB_SIZE, 0..24);
    let prompt = (0..2_i64, 0..60_usize, tail).prop_map(|(text, cut, tail)| {
        let mut ids: Vec<i64> = (0..cut as i64)
            .map(|at| (at * (at + 3 + text) / 2) % VOCAB_SIZE)
            .collect();
        ids.extend(tail);
        if ids.is_empty() {
            ids.push(text);
        }
        ids
    });
    let ids = prop_oneof![4 => prompt, 1 => Just((0..40).map(|at| at % VOCAB_SIZE).collect())];
    (ids, vec(0..1000_u64, 0..5), 0..24_usize).prop_map(|(ids, seeds, max_new_tokens)| Item {
        ids,
        seeds,
        max_new_tokens,
    })
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let filters = (
        select(vec![0, 1, 3, 10, 100]),
        select(vec![1.0, 0.9, 0.5]),
        select(vec![0.0, 0.05, 0.3]),
    );
    (
        select(vec![0.0, 0.7, 1.0, 1.5]),
        filters,
        select(vec![1.0, 1.0, 1.3, 0.8]),
    )
        .prop_map(|(temperature, (top_k, top_p, min_p), repetition_penalty)| Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
        })
}

fn mix() -> impl Strategy<Value = Mix> {
    let stop = select(vec!["END", "é", "a a", "ab", "aE", "", "ééa"]).prop_map(str::to_owned);
    let setting = (
        sampling(),
        vec(0..VOCAB_SIZE, 0..3),
        vec(stop, 0..3),
        1..9_usize,
        prop_oneof![3 => Just(200_usize), 1 => 20..90_usize],
    )
        .prop_map(|(sampling, eos_token_ids, stop, max_batch_size, context)| Setting {
            sampling,
            eos_token_ids,
            stop,
            max_batch_size,
            context,
        });
    let spare_pages = prop_oneof![3 => 0..8_usize, 1 => Just(1000)];
    (
        vec(item(), 1..7),
        vec(item(), 0..4),
        setting,
        1..70_usize,
        spare_pages,
        any::<bool>(),
    )
        .prop_map(|(first, second, setting, step_tokens, spare_pages, forgets)| Mix {
            calls: [first, second],
            setting,
            step_tokens,
            spare_pages,
            forgets,
        })
}

impl Mix {
    /// Pages of the longest sequence, computed alone. One that is copied on the first write needs none beside it.
    fn num_pages(&self) -> usize {
        let longest = (self.calls.iter().flatten())
            .map(|item| {
                let room = self.setting.context.saturating_sub(item.ids.len());
                item.ids.len() + item.max_new_tokens.min(room)
            })
            .max();
        pages_for(longest.unwrap_or(0)) + self.spare_pages
    }

    fn check(
        &self,
        backend: Box<dyn Backend>,
        reference: &mut dyn Backend,
        tolerance: f32,
    ) -> Result<(), TestCaseError> {
        let cache_memory = self.num_pages() * backend.page_bytes();
        let mut engine = Engine::new(backend, cache_memory, self.step_tokens);
        for items in &self.calls {
            let together = complete(&mut engine, items, &self.setting);
            engine.assert_all_given_back();
            for (item, list) in items.iter().zip(&together) {
                prop_assert_eq!(list.len(), item.seeds.len());
                for (completion, &seed) in list.iter().zip(&item.seeds) {
                    let expected = alone(reference, item, seed, &self.setting);
                    prop_assert_eq!(&completion.ids, &expected.ids);
                    prop_assert_eq!(completion.finish, expected.finish);
                    prop_assert_eq!(completion.logprobs.len(), expected.logprobs.len());
                    for (got, wanted) in completion.logprobs.iter().zip(&expected.logprobs) {
                        prop_assert!((got - wanted).abs() <= tolerance, "{} instead of {}", got, wanted);
                    }
                }
            }
            if self.forgets {
                engine.forget();
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(RunnerConfig::with_cases(NUM_MIXES))]

    #[test]
    fn what_is_scheduled_together_gives_what_each_gives_alone(mix in mix()) {
        let (fake, log) = Fake::new(VOCAB_SIZE);
        let (mut reference, _) = Fake::new(VOCAB_SIZE);
        mix.check(Box::new(fake), &mut reference, 0.0)?;
        for step in &log.borrow().steps {
            prop_assert!(step.len() <= mix.setting.max_batch_size);
            let most = mix.step_tokens.max(step.len() - 1 + PAGE_SIZE);
            prop_assert!(step.iter().sum::<usize>() <= most, "{:?}", step);
        }
    }
}

#[test]
fn a_model_gives_together_what_it_gives_alone() {
    // The same mixes each time: floats are added in another order, so one draw in a million may fall on the other side.
    let config = RunnerConfig {
        cases: NUM_MIXES_WITH_MODEL,
        failure_persistence: None,
        ..RunnerConfig::default()
    };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let models = [
        model(4, 2, [None, None]),
        model(3, 1, [Some(5), None]),
        model(2, 2, [Some(20), Some(3)]),
    ];
    TestRunner::new_with_rng(config, rng)
        .run(&(mix(), 0..models.len()), |(mix, model_idx)| {
            let backend = || TorchBackend::new(models[model_idx].share(), 1);
            mix.check(Box::new(backend().without_free_padding()), &mut backend(), 1e-3)
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

/// A random model with two layers that see so many tokens.
fn model(num_attention_heads: i64, num_key_value_heads: i64, windows: [Option<i64>; 2]) -> CausalLm {
    let new = config::NewModel {
        hidden_size: num_attention_heads * 8,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads,
        num_key_value_heads,
        max_position_embeddings: 256,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
        initializer_range: 0.5,
    };
    let mut config = config::Config::new(&new, VOCAB_SIZE as usize, 0, 0).expect("the shape is sound");
    config.sliding_windows = windows.to_vec();
    CausalLm::random(config, 11, Device::Cpu).expect("it is made")
}
