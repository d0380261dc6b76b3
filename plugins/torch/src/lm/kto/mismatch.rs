//! Which completion stands in for another where the distance to the reference policy is estimated.

/// Returns for each item of a batch the one whose completion follows its prompt in the KL estimate.
///
/// KTO estimates the KL divergence from pairs that do not belong together, made of the batch itself, so that the completions
/// are those that the rewards are taken of. `prompts` tells prompts apart. Where all differ, each item gets the completion
/// of the one before it, as in TRL. Otherwise items of a prompt are put side by side, and each gets the completion of the
/// one so many places before it as the most frequent prompt has items: never one of its own prompt, unless that has more
/// than half of the batch.
pub fn mismatched<P: PartialEq>(prompts: &[P]) -> Vec<usize> {
    let first = |idx: usize| prompts.iter().position(|other| *other == prompts[idx]).unwrap_or(idx);
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&idx| first(idx));
    let longest = order
        .chunk_by(|&a, &b| prompts[a] == prompts[b])
        .map(<[usize]>::len)
        .max();
    let shift = longest.unwrap_or(0);
    let mut partners = vec![0; prompts.len()];
    for (place, &idx) in order.iter().enumerate() {
        partners[idx] = order[(place + order.len() - shift) % order.len()];
    }
    partners
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn different_prompts_are_rotated_by_one() {
        assert_eq!(mismatched(&["a", "b", "c"]), [2, 0, 1]);
        assert_eq!(mismatched(&["a"]), [0]);
        assert!(mismatched::<&str>(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn every_completion_is_used_once_and_not_after_its_own_prompt(prompts in prop::collection::vec(0_u8..5, 1..20)) {
            let partners = mismatched(&prompts);
            let mut seen = partners.clone();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..prompts.len()).collect::<Vec<_>>());
            let most = (0..5).map(|it| prompts.iter().filter(|&&prompt| prompt == it).count()).max().unwrap();
            if 2 * most <= prompts.len() {
                for (own, &partner) in partners.iter().enumerate() {
                    prop_assert_ne!(prompts[own], prompts[partner]);
                }
            }
        }
    }
}
