//! What the engine promises beside the right tokens: what is computed once, what memory it needs, when it reports.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use super::fake::{Fake, Log, PAGE_BYTES};
use super::{Item, Setting, alone, complete, run};
use crate::lm::generate::backend::PAGE_SIZE;
use crate::lm::generate::engine::Engine;
use crate::lm::generate::{Completion, Finish, Follower, Generator, Options, Request};
use crate::lm::sampler::Sampling;
use crate::lm::{LmError, Tokenizer};

const VOCAB_SIZE: i64 = 512;

fn engine(num_pages: usize, step_tokens: usize) -> (Engine, Rc<RefCell<Log>>) {
    let (fake, log) = Fake::new(VOCAB_SIZE);
    (Engine::new(Box::new(fake), num_pages * PAGE_BYTES, step_tokens), log)
}

fn assert_as_alone(items: &[Item], together: &[Vec<Completion>], setting: &Setting) {
    let (mut reference, _) = Fake::new(VOCAB_SIZE);
    for (item, list) in items.iter().zip(together) {
        for (completion, &seed) in list.iter().zip(&item.seeds) {
            assert_eq!(*completion, alone(&mut reference, item, seed, setting));
        }
    }
}

#[test]
fn the_completions_of_a_prompt_share_its_computation() {
    let (mut engine, log) = engine(1000, 512);
    let items = [Item::new(0..40, 8, 5)];
    let together = complete(&mut engine, &items, &Setting::plain());
    assert_as_alone(&items, &together, &Setting::plain());
    // The first token of each is drawn after the prompt; the last one is never computed.
    assert_eq!(log.borrow().num_tokens(), 40 + 8 * 4);
    assert_eq!(log.borrow().steps[0], [40]);
    assert_eq!(log.borrow().steps[1], [1; 8]);
}

#[test]
fn equal_prompts_and_common_beginnings_are_computed_once() {
    let (mut engine, log) = engine(1000, 512);
    let sibling = |tail: i64| Item::new((0..32).chain([tail; 5]), 2, 3);
    let items = [sibling(100), sibling(101), sibling(102), sibling(101)];
    let together = complete(&mut engine, &items, &Setting::plain());
    assert_as_alone(&items, &together, &Setting::plain());
    assert_eq!(together[1], together[3]);
    assert_eq!(log.borrow().num_tokens(), 32 + 3 * 5 + 4 * 2 * 2);
}

#[test]
fn a_later_call_begins_with_what_an_earlier_one_computed() {
    let (mut engine, log) = engine(1000, 512);
    let first = [Item::new(0..40, 1, 30)];
    let completion = complete(&mut engine, &first, &Setting::plain())[0][0].clone();
    // The child of a search tree's node: prompt and completion, and a few tokens more.
    let child: Vec<i64> = (0..40).chain(completion.ids).chain([5; 4]).collect();
    let computed = |engine: &mut Engine| {
        let before = log.borrow().num_tokens();
        complete(engine, &[Item::new(child.clone(), 1, 1)], &Setting::plain());
        log.borrow().num_tokens() - before
    };
    let (known, len) = (69 / PAGE_SIZE * PAGE_SIZE, 74);
    assert_eq!(computed(&mut engine), len - known);
    engine.forget();
    assert_eq!(computed(&mut engine), len, "the weights may have changed");
}

#[test]
fn a_long_prompt_does_not_hold_up_the_others() {
    let (mut engine, log) = engine(1000, 20);
    let items = [Item::new(0..10, 3, 300), Item::new(100..300, 1, 5)];
    let setting = Setting::plain();
    assert_as_alone(&items, &complete(&mut engine, &items, &setting), &setting);
    let log = log.borrow();
    // The completions of the short one grow by a token in each step beside the chunks of the long one.
    let beside = log.steps.iter().filter(|step| **step == [1, 1, 1, 17]).count();
    assert_eq!(beside, 190 / 17, "{:?}", log.steps);
    assert!(
        log.steps.iter().all(|step| step.iter().sum::<usize>() <= 20),
        "{:?}",
        log.steps
    );
}

#[test]
fn places_that_fall_free_are_taken_at_the_next_step() {
    let (mut engine, log) = engine(1000, 512);
    let setting = Setting {
        max_batch_size: 4,
        ..Setting::plain()
    };
    let items: Vec<Item> = (0..12).map(|idx| Item::new([idx], 1, 1 + idx as usize)).collect();
    assert_as_alone(&items, &complete(&mut engine, &items, &setting), &setting);
    // 78 tokens with never more than 4 at once: 20 steps would be perfect.
    assert!(log.borrow().steps.len() <= 21, "{} steps", log.borrow().steps.len());
}

#[test]
fn more_samples_than_places() {
    let (mut engine, log) = engine(1000, 512);
    let setting = Setting {
        max_batch_size: 3,
        ..Setting::plain()
    };
    let items = [Item::new(0..40, 10, 6)];
    assert_as_alone(&items, &complete(&mut engine, &items, &setting), &setting);
    assert!(log.borrow().steps.iter().all(|step| step.len() <= 3));
    engine.assert_all_given_back();
}

#[test]
fn where_pages_run_out_the_youngest_is_computed_again() {
    let setting = Setting::plain();
    let items: Vec<Item> = (0..6).map(|idx| Item::new([idx; 10], 2, 60)).collect();
    let (mut engine, log) = engine(8, 512);
    assert_as_alone(&items, &complete(&mut engine, &items, &setting), &setting);
    engine.assert_all_given_back();
    let least = items.len() * (10 + 2 * 59);
    assert!(log.borrow().num_tokens() > least, "some of it is computed twice");
    assert!(
        log.borrow().num_tokens() < 2 * least,
        "{} of {least}",
        log.borrow().num_tokens()
    );
}

#[test]
fn a_sequence_that_cannot_fit_is_an_error_that_says_what_would_help() {
    let (mut engine, log) = engine(4, 512);
    let prompt = [Item::new(0..70, 1, 5)];
    let (_, result) = run(&mut engine, &prompt, &Setting::plain());
    let message = result.expect_err("70 tokens need five pages").to_string();
    assert!(
        message.contains("70 tokens") && message.contains("room for") && message.contains("64 tokens"),
        "{message}"
    );
    assert!(log.borrow().steps.is_empty());

    // It outgrows the memory; what was finished by then has been reported.
    let items = [Item::new(0..20, 1, 100), Item::new(30..40, 2, 3)];
    let (lists, result) = run(&mut engine, &items, &Setting::plain());
    assert!(matches!(result, Err(LmError::Generation(_))));
    assert_eq!(lists[0], None);
    assert_eq!(lists[1].as_ref().map(Vec::len), Some(2));
    engine.assert_all_given_back();
    // The engine goes on afterwards.
    complete(&mut engine, &items[1..], &Setting::plain());
}

#[test]
fn a_device_with_less_memory_than_it_was_said_to_have() {
    let (fake, _) = Fake::new(VOCAB_SIZE);
    let mut engine = Engine::new(Box::new(fake.with_memory_for(64)), 1000 * PAGE_BYTES, 512);
    let setting = Setting::plain();
    let items: Vec<Item> = (0..30).map(|idx| Item::new([idx; 50], 1, 60)).collect();
    assert_as_alone(&items, &complete(&mut engine, &items, &setting), &setting);
    engine.assert_all_given_back();
}

#[test]
fn steps_that_do_not_fit_are_computed_in_smaller_ones_from_then_on() {
    let setting = Setting::plain();
    let items: Vec<Item> = (0..30).map(|idx| Item::new([idx; 50], 2, 20)).collect();
    let (fake, log) = Fake::new(VOCAB_SIZE);
    let mut engine = Engine::new(Box::new(fake.with_memory_for_steps_of(7)), 1000 * PAGE_BYTES, 512);
    assert_as_alone(&items, &complete(&mut engine, &items, &setting), &setting);
    engine.assert_all_given_back();
    assert!(
        log.borrow()
            .steps
            .iter()
            .all(|chunks| chunks.iter().sum::<usize>() <= 7)
    );

    let (fake, _) = Fake::new(VOCAB_SIZE);
    let mut engine = Engine::new(Box::new(fake.with_memory_for_steps_of(0)), 1000 * PAGE_BYTES, 512);
    let (_, result) = run(&mut engine, &items, &setting);
    let Err(LmError::OutOfMemory(message)) = result else {
        panic!("{result:?}")
    };
    assert!(
        message.contains("one token at a time") && message.contains("bf16"),
        "{message}"
    );
    engine.assert_all_given_back();
}

#[test]
fn what_is_kept_does_not_grow_without_end() {
    let (mut engine, _) = engine(512, 512);
    for call in 0..50 {
        complete(
            &mut engine,
            &[Item::new((0..64).map(|at| at * (call + 1) % VOCAB_SIZE), 1, 100)],
            &Setting::plain(),
        );
    }
    assert!(engine.num_pages() <= 512 / 8 + 64, "{} pages", engine.num_pages());
}

#[test]
fn completions_end_with_the_context() {
    let (mut engine, _) = engine(1000, 512);
    let setting = Setting {
        context: 50,
        ..Setting::plain()
    };
    let items = [
        Item::new(0..45, 2, 100),
        Item::new(0..50, 1, 100),
        Item::new(0..60, 1, 3),
        Item::new(0..9, 1, 0),
    ];
    let lengths: Vec<Vec<usize>> = (complete(&mut engine, &items, &setting).iter())
        .map(|list| list.iter().map(|completion| completion.ids.len()).collect())
        .collect();
    assert_eq!(lengths, [vec![5, 5], vec![0], vec![0], vec![0]]);
}

/// Knows the completions of some requests and keeps the others.
#[derive(Default)]
struct Keeper {
    known: Vec<Option<Vec<Completion>>>,
    finished: Vec<usize>,
    progress: Vec<(usize, usize)>,
}

impl Follower for Keeper {
    fn recall(&mut self, request_idx: usize) -> Option<Vec<Completion>> {
        self.known.get_mut(request_idx)?.take()
    }

    fn finished(&mut self, requests: &[usize], completions: &[Vec<Completion>]) {
        assert_eq!(requests.len(), completions.len());
        self.known.resize(self.known.len().max(10), None);
        for (&idx, list) in requests.iter().zip(completions) {
            self.finished.push(idx);
            self.known[idx] = Some(list.clone());
        }
    }

    fn progress(&mut self, num_done: usize, num_tokens: usize) {
        self.progress.push((num_done, num_tokens));
    }
}

#[test]
fn a_follower_gets_each_request_as_it_is_finished_and_what_it_recalls_is_not_computed() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/smollm-tied");
    let tokenizer = Tokenizer::load(&model).expect("the fixture loads");
    let (engine, log) = engine(1000, 512);
    let mut generator = Generator {
        engine,
        vocab_size: VOCAB_SIZE,
        context: 500,
    };
    let options = Options {
        max_new_tokens: 9,
        sampling: Sampling::PLAIN,
        eos_token_ids: (0..60).collect(),
        stop: vec!["e".to_owned()],
        max_batch_size: 4,
        num_threads: 1,
        cache_memory: None,
    };
    let request = |idx: i64| Request {
        ids: vec![idx + 1; 20],
        seeds: (0..idx as u64 % 4).collect(),
    };
    let requests: Vec<Request> = (0..10).map(request).collect();
    let mut keeper = Keeper::default();
    let all = generator
        .generate(&tokenizer, &requests, &options, &mut keeper)
        .expect("it is generated");
    assert!(
        all.iter()
            .zip(&requests)
            .all(|(list, request)| list.len() == request.seeds.len())
    );
    assert!(
        all.iter()
            .flatten()
            .any(|completion| completion.finish != Finish::Length)
    );
    let mut finished = keeper.finished.clone();
    finished.sort_unstable();
    assert_eq!(finished, [1, 2, 3, 5, 6, 7, 9], "each that asks for completions, once");
    let num_tokens = all.iter().flatten().map(|completion| completion.ids.len()).sum();
    assert_eq!(keeper.progress[0], (0, 0));
    assert_eq!(keeper.progress.last(), Some(&(13, num_tokens)));
    assert!(
        keeper.progress.is_sorted() && keeper.progress.len() > 9,
        "it hears of every step"
    );

    // Interrupted after three requests, then continued: what it has is not computed again.
    generator.forget();
    let before = log.borrow().num_tokens();
    let known = keeper
        .known
        .iter()
        .enumerate()
        .map(|(idx, list)| list.clone().filter(|_| idx < 6));
    let mut continued = Keeper {
        known: known.collect(),
        ..Keeper::default()
    };
    let again = generator
        .generate(&tokenizer, &requests, &options, &mut continued)
        .expect("it is generated");
    assert_eq!(again, all);
    continued.finished.sort_unstable();
    assert_eq!(continued.finished, [6, 7, 9]);
    assert_eq!(continued.progress[0].0, 7, "progress begins with what is known");
    let least: usize = all[6..]
        .iter()
        .flatten()
        .map(|completion| completion.ids.len() - 1)
        .sum();
    assert_eq!(log.borrow().num_tokens() - before, 3 * 20 + least);

    let foreign = [Request {
        ids: vec![3, 512],
        seeds: vec![0],
    }];
    let error = generator.generate(&tokenizer, &foreign, &options, &mut Keeper::default());
    assert!(
        error
            .expect_err("512 is no token")
            .to_string()
            .contains("prompt 1: token id 512")
    );
}
