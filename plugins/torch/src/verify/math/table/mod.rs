//! Pairs of answers that mean the same, and pairs that do not. Each is tried in both directions.

mod different;
mod equal;
mod written;

use super::{compare_texts, equal};
use different::DIFFERENT;
use equal::EQUAL;

#[test]
fn pairs_that_mean_the_same_are_equal() {
    let wrong = |(gold, pred): &&(&str, &str)| !compare_texts(gold, pred).equal;
    let missed: Vec<_> = EQUAL.iter().chain(written::EQUAL).filter(wrong).collect();
    assert!(missed.is_empty(), "{} missed: {missed:#?}", missed.len());
    // Bare answers can be taken in either order.
    let wrong = |(gold, pred): &&(&str, &str)| equal(gold, pred) != equal(pred, gold);
    let one_sided: Vec<_> = EQUAL.iter().chain(written::EQUAL).filter(wrong).collect();
    assert!(one_sided.is_empty(), "{one_sided:#?}");
}

#[test]
fn pairs_that_differ_are_not_equal() {
    let wrong =
        |(gold, pred): &&(&str, &str)| compare_texts(gold, pred).equal || equal(gold, pred) || equal(pred, gold);
    let false_positives: Vec<_> = DIFFERENT.iter().chain(written::DIFFERENT).filter(wrong).collect();
    assert!(false_positives.is_empty(), "{false_positives:#?}");
}
