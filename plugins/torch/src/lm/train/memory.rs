//! Work that did not fit into memory, done in smaller pieces.

use crate::lm::{LmError, device};

/// Does `work` with micro-batches of at most `micro_batch_tokens`; where memory runs out, again with half of them, until
/// each holds one sequence alone.
///
/// What fits is left in `micro_batch_tokens` for the steps to come, and `on_retry` hears of each new value. `longest` is
/// the length of the longest sequence, in tokens. `largest_joint` tells, for a limit, the tokens of the largest micro-batch
/// of several sequences; none where there is none left.
///
/// # Errors
/// `work` fails otherwise, or not even one sequence at a time fits.
pub fn fitting<R>(
    micro_batch_tokens: &mut usize,
    longest: usize,
    largest_joint: impl Fn(usize) -> Option<usize>,
    mut on_retry: impl FnMut(usize),
    mut work: impl FnMut(usize) -> Result<R, LmError>,
) -> Result<R, LmError> {
    loop {
        match memory_errors(|| work(*micro_batch_tokens)) {
            Err(LmError::OutOfMemory(message)) => {
                device::empty_cache();
                let Some(largest) = largest_joint(*micro_batch_tokens) else {
                    return Err(LmError::OutOfMemory(format!(
                        "{message}; sequences of up to {longest} tokens are computed one at a time already. Turn on \
                         gradient_checkpointing or bf16, train an adapter (lora) instead of all weights, or leave out \
                         sequences as long as that"
                    )));
                };
                *micro_batch_tokens = (*micro_batch_tokens).min(largest) / 2;
                on_retry(*micro_batch_tokens);
            }
            done => return done,
        }
    }
}

/// Turns a panic of a tensor operator into an error where the reason is that memory ran out.
///
/// Operators of the model are those that panic: all that can go wrong in them is our bug, but for this. What `work` has
/// half done must not matter to who goes on after the error.
///
/// # Errors
/// Those of `work`, and [`LmError::OutOfMemory`].
pub fn memory_errors<R, E: From<LmError>>(work: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
    let panic = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => return result,
        Err(panic) => panic,
    };
    let text = panic.downcast_ref::<String>().map_or("", String::as_str);
    match LmError::from_torch(text.lines().next().unwrap_or_default().to_owned()) {
        error @ LmError::OutOfMemory(_) => Err(error.into()),
        _ => std::panic::resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::train::largest_joint;

    /// Does work that needs room for at most `room` tokens.
    fn in_room(room: usize, micro_batch_tokens: &mut usize, lengths: &[usize]) -> (Result<usize, LmError>, Vec<usize>) {
        let mut retries = Vec::new();
        let done = fitting(
            micro_batch_tokens,
            lengths.iter().copied().max().unwrap(),
            |tokens| largest_joint(lengths, tokens),
            |tokens| retries.push(tokens),
            |tokens| {
                if tokens > room {
                    return Err(LmError::OutOfMemory("out of memory".to_owned()));
                }
                Ok(tokens)
            },
        );
        (done, retries)
    }

    #[test]
    fn halves_until_it_fits_and_stays_there() {
        let mut tokens = usize::MAX;
        let (done, retries) = in_room(30, &mut tokens, &[10, 20, 20, 10]);
        assert_eq!((done.unwrap(), retries, tokens), (20, vec![40, 20], 20));
        let (_, retries) = in_room(30, &mut tokens, &[10, 20, 20, 10]);
        assert!(retries.is_empty());
    }

    #[test]
    fn says_what_to_change_where_nothing_fits() {
        let (done, retries) = in_room(0, &mut 64, &[10, 30]);
        let message = done.unwrap_err().to_string();
        assert_eq!(retries, [30]);
        for word in ["30 tokens", "gradient_checkpointing", "bf16", "lora"] {
            assert!(message.contains(word), "{message}");
        }
    }

    /// More than any machine has: libtorch's own error, as a panic of a plain operator.
    fn run_out_of_memory() {
        let _ = tch::Tensor::empty([1 << 50], (tch::Kind::Float, tch::Device::Cpu));
    }

    #[test]
    fn a_panic_for_memory_is_an_error_and_others_stay_panics() {
        let mut tokens = 64;
        let work = |tokens| {
            if tokens > 16 {
                run_out_of_memory();
            }
            Ok(tokens)
        };
        let done = fitting(&mut tokens, 8, Some, |_| (), work);
        assert_eq!((done.unwrap(), tokens), (16, 16));
        let bug = std::panic::catch_unwind(|| memory_errors(|| -> Result<(), LmError> { panic!("a bug") }));
        assert!(bug.is_err());
    }

    #[test]
    fn other_errors_pass() {
        let done = fitting(&mut 64, 10, |_| Some(20), |_| (), |_| Err::<(), _>(LmError::Stopped));
        assert!(matches!(done, Err(LmError::Stopped)));
    }
}
