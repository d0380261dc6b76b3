//! Work that did not fit into memory, done in smaller pieces.

use crate::lm::{LmError, device};

/// Does `work` with micro-batches of at most `micro_batch_tokens`; where memory runs out, again with half of them.
///
/// What fits is left in `micro_batch_tokens` for the steps to come, and `on_retry` hears of each new value. `lengths` are
/// those of the sequences: micro-batches never hold less than one.
///
/// # Errors
/// `work` fails otherwise, or not even one sequence at a time fits.
pub fn fitting<R>(
    micro_batch_tokens: &mut usize,
    lengths: &[usize],
    mut on_retry: impl FnMut(usize),
    mut work: impl FnMut(usize) -> Result<R, LmError>,
) -> Result<R, LmError> {
    let shortest_pair = {
        let mut lengths = lengths.to_vec();
        lengths.sort_unstable();
        lengths.get(1).map_or(usize::MAX, |second| 2 * second)
    };
    loop {
        match work(*micro_batch_tokens) {
            Err(LmError::OutOfMemory(message)) => {
                device::empty_cache();
                if *micro_batch_tokens < shortest_pair {
                    let longest = lengths.iter().copied().max().unwrap_or(0);
                    return Err(LmError::OutOfMemory(format!(
                        "{message}; sequences of up to {longest} tokens are computed one at a time already. Turn on \
                         gradient_checkpointing or bf16, train an adapter (lora) instead of all weights, or leave out \
                         sequences as long as that"
                    )));
                }
                let padded = lengths.iter().copied().max().unwrap_or(0) * lengths.len();
                *micro_batch_tokens = (*micro_batch_tokens).min(padded) / 2;
                on_retry(*micro_batch_tokens);
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does work that needs room for at most `room` tokens.
    fn in_room(room: usize, micro_batch_tokens: &mut usize, lengths: &[usize]) -> (Result<usize, LmError>, Vec<usize>) {
        let mut retries = Vec::new();
        let done = fitting(
            micro_batch_tokens,
            lengths,
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

    #[test]
    fn other_errors_pass() {
        let done = fitting(&mut 64, &[10, 10], |_| (), |_| Err::<(), _>(LmError::Stopped));
        assert!(matches!(done, Err(LmError::Stopped)));
    }
}
