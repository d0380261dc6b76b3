//! Properties of comparing answers, and inputs that try its bounds.

use proptest::prelude::*;

use super::answer::trimmed;
use super::lex::lex;
use super::*;

#[test]
fn the_same_value_in_another_form_is_equal() {
    for (a, b) in [
        ("42", " 42. "),
        ("1234", "1,234"),
        ("1234", "1{,}234"),
        ("12345", "12\\,345"),
        ("18", "\\$18.00"),
        ("18", "18 dollars"),
        ("\\frac{3}{4}", "0.75"),
        ("\\frac{3}{4}", "\\dfrac34"),
        ("-\\frac{2}{3}", "\\frac{-2}{3}"),
        ("1/2", ".5"),
        ("2.5", "2\\frac{1}{2}"),
        ("5/2", "2 1/2"),
        ("28", "28\\%"),
        ("0.28", "28%"),
        ("5", "x = 5"),
        ("5", "2 + 3 = 5"),
        ("120", "5!"),
        ("5050", "\\frac{100 \\cdot 101}{2}"),
        ("1024", "2^{10}"),
        ("90", "90^\\circ"),
        ("\\text{(B)}", "b"),
        ("\\text{Evelyn}", "evelyn"),
        ("10 cm", "10\\text{ cm}"),
        ("10", "10 square centimeters"),
        ("3\\sqrt{2}", "3 \\sqrt{2}"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"),
        ("1/3", "0.333333"),
    ] {
        assert!(equal(a, b), "{a} = {b}");
        assert!(equal(b, a), "{b} = {a}");
    }
}

#[test]
fn doubt_is_difference() {
    for (a, b) in [
        ("42", "24"),
        ("1/3", "0.33"),
        ("21/2", "2 1/2"),
        ("12", "1 2"),
        ("5", "5 or 6"),
        ("5", "5 million"),
        ("5", "5 squared"),
        ("5", "5x"),
        ("5", "5i"),
        ("5", "5\\pi"),
        ("6", "x = 5, y = 6"),
        ("4", "x^2 = 4"),
        ("5", "x \\geq 5"),
        ("5 cm", "5 m"),
        ("(1,234)", "1234"),
        ("11_2", "11"),
        ("x", "X y"),
        ("ab", "AB"),
        ("0.28", "0.28%"),
        ("-5", "5"),
        ("5", "not 5"),
        ("5", ""),
        ("[1,2]", "(1,2)"),
        ("2^{-99}", "2^{-98}"),
        ("10^{40}", "10^{41}"),
        ("1/0", "2/0"),
    ] {
        assert!(!equal(a, b), "{a} is not {b}");
        assert!(!equal(b, a), "{b} is not {a}");
    }
}

/// Inputs that would take all time or memory, if nothing were bounded.
#[test]
fn monsters_are_refused() {
    let nested = |open: &str, close: &str, times: usize| open.repeat(times) + "1" + &close.repeat(times);
    let monsters = [
        "(".repeat(100_000),
        "-".repeat(3_900),
        "(".repeat(3_900),
        "{".repeat(3_900),
        "5".to_owned() + &"!".repeat(3_900),
        "5".to_owned() + &" !".repeat(1_900),
        "5".to_owned() + &"^\\circ".repeat(600),
        "1".to_owned() + &"/1".repeat(1_900),
        "1".to_owned() + &"*1/1".repeat(900),
        "x".to_owned() + &"'".repeat(3_900),
        "1".to_owned() + &"+1".repeat(1_900),
        "1".to_owned() + &"\\pm 1".repeat(700),
        "1".to_owned() + &",1".repeat(1_900),
        "(0,1)".to_owned() + &"\\cup(0,1)".repeat(300),
        "x".to_owned() + &"<x".repeat(1_900),
        "2^".repeat(1_900) + "2",
        nested("2^{", "}", 900),
        nested("\\sqrt{", "}", 500),
        nested("\\frac{1}{", "}", 350),
        nested("\\text{", "}", 500),
        nested("\\{", "\\}", 900),
        nested("|", "|", 1_900),
        nested("\\boxed{", "}", 400),
        nested("\\sum_{i=1}^{5000} (", ")", 30),
        nested("\\begin{cases}", "\\end{cases}", 120),
        "9^{9^{9^{9}}}".to_owned(),
        "(10^{30})!".to_owned(),
        "100000!".to_owned(),
        "\\binom{10^{9}}{5 \\cdot 10^{8}}".to_owned(),
        "\\sum_{k=1}^{1000000000} k".to_owned(),
        "\\sqrt{340282366920938463463374607431768211297}".to_owned(),
        "0.\\overline{".to_owned() + &"1".repeat(3_000) + "}",
        "0.".to_owned() + &"3".repeat(3_000),
        "1".to_owned() + &"0".repeat(3_900),
    ];
    for monster in &monsters {
        assert!(
            equal(monster, monster) || trimmed(&lex(monster).unwrap_or_default()).is_empty(),
            "{monster:.40}"
        );
        for other in monsters.iter().map(String::as_str).chain(["1", "x", "\\frac{1}{3}"]) {
            assert_eq!(
                equal(monster, other),
                equal(other, monster),
                "{monster:.40} {other:.40}"
            );
        }
        compare_texts("1", monster);
    }
}

/// Whole responses of half a megabyte, in which each place looks like the beginning of an answer.
#[test]
fn long_responses_are_read_once() {
    for piece in [
        "1 ",
        "1,",
        "1 and ",
        "$1$ ",
        "\\boxed{1} ",
        "\\boxed{",
        "\\frac{1}{",
        "answer is ",
        "#### ",
        "<think></think>",
        "option ",
        "x+1 ",
        "1. a\n",
        "7",
        "$",
        "\u{301}\u{1f600}",
    ] {
        let text = piece.repeat(500_000 / piece.len());
        compare_texts("1", &text);
        compare_texts(&text, &text);
        judge("1", &text);
    }
}

/// Text that is like LaTeX, well formed or not.
fn fragments() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "1",
        "2",
        "12",
        "0",
        "0.5",
        ".",
        ",",
        ";",
        " ",
        "+",
        "-",
        "*",
        "/",
        "^",
        "_",
        "!",
        "=",
        "<",
        ">",
        "|",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "\\{",
        "\\}",
        "\\frac",
        "\\sqrt",
        "\\sqrt[3]",
        "\\pi",
        "e",
        "i",
        "x",
        "y",
        "f(x)",
        "\\text{",
        "\\text{ cm}",
        "\\text{ and }",
        "\\pm",
        "\\infty",
        "\\cup",
        "\\cap",
        "\\setminus",
        "\\mathbb{R}",
        "\\in",
        "\\le",
        "\\ne",
        "\\approx",
        "\\sin",
        "\\log_2",
        "\\ln",
        "\\binom",
        "\\left",
        "\\right",
        "^\\circ",
        "\\%",
        "\\$",
        "$",
        "\\boxed{",
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "\\begin{cases}",
        "\\end{cases}",
        "&",
        "\\\\",
        "\\sum_{k=1}^{3}",
        "\\overline{3}",
        "\\lfloor",
        "\\rfloor",
        "{,}",
        "\\!",
        "\\,",
        "a:b",
        "3:4",
        "(B)",
        "or",
        "the answer is",
        "####",
        "<think>",
        "</think>",
        "é",
        "√",
        "½",
        "million",
        "\\over",
        "\\not",
        "'",
    ]);
    prop::collection::vec(pieces, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn comparison_is_reflexive_and_symmetric(a in fragments(), b in fragments()) {
        let something = lex(a.trim()).is_some_and(|tokens| !trimmed(&tokens).is_empty());
        prop_assert_eq!(equal(&a, &a), something);
        prop_assert_eq!(equal(&a, &b), equal(&b, &a));
        compare_texts(&a, &b);
    }

    #[test]
    fn a_value_is_the_same_in_another_form_and_its_neighbour_is_not(num in -400i64..400, den in 1i64..40, times in 1i64..5) {
        let value = format!("\\frac{{{num}}}{{{den}}}");
        for form in [
            format!("{}/{}", num * times, den * times),
            format!("\\dfrac{{{}}}{{{}}}", -num * times, -den * times),
            format!("{}+\\frac{{{}}}{{{den}}}", num.div_euclid(den), num.rem_euclid(den)),
            format!("\\sqrt{{{}}} \\cdot \\frac{{{num}}}{{{}}}", times * times, den * times),
            format!("x = {num} \\div {den}"),
        ] {
            prop_assert!(equal(&value, &form), "{} {}", value, form);
        }
        let neighbour = format!("\\frac{{{}}}{{{den}}}", num + 1);
        prop_assert!(!equal(&value, &neighbour));
        let near = format!("\\frac{{{num}}}{{{den}}} + 10^{{-20}}");
        prop_assert!(!equal(&value, &near));
    }

    #[test]
    fn products_are_their_expansion(a in -9i64..10, b in -9i64..10, c in -9i64..10) {
        let factored = format!("(x+{a})(x+{b})(x+{c})").replace("+-", "-");
        let expanded = |constant: i64| {
            format!("x^3+{}x^2+{}x+{constant}", a + b + c, a * b + a * c + b * c).replace("+-", "-")
        };
        prop_assert!(equal(&factored, &expanded(a * b * c)));
        prop_assert!(!equal(&factored, &expanded(a * b * c + 1)));
    }
}

proptest! {
    #[test]
    fn different_integers_are_never_equal(a in -100_000i64..100_000, b in -100_000i64..100_000) {
        prop_assert_eq!(equal(&a.to_string(), &b.to_string()), a == b);
    }

    #[test]
    fn any_two_texts_are_compared(a in "[-0-9a-z\\\\{}()^/*!%.,=$ ]{0,60}", b in ".{0,60}") {
        equal(&a, &b);
        let something = lex(a.trim()).is_some_and(|tokens| !trimmed(&tokens).is_empty());
        prop_assert_eq!(equal(&a, &a), something);
    }
}

#[test]
fn the_last_answer_counts() {
    let verdict = judge(
        "6",
        "So \\boxed{4}.\n\nBut wait. Let's go back to Step 1.\n\nThus \\boxed{6}.",
    );
    assert!(verdict.correct);
    assert_eq!((verdict.num_backtracks, verdict.answer.as_deref()), (1, Some("6")));
    let verdict = judge("4", "So \\boxed{4}, but that forgot a term: \\boxed{6}.");
    assert_eq!((verdict.correct, verdict.failure), (false, Some("wrong_answer")));
    assert_eq!(judge("4", "I do not know.").failure, Some("unfinished"));
}

#[test]
fn steps_are_named_by_heading_or_beginning() {
    assert_eq!(
        name_of_step("## Step 2: Simplify the sum.\nText"),
        "Step 2: Simplify the sum"
    );
    assert_eq!(
        name_of_step("She sells 9 eggs. Then"),
        "where we wrote \"She sells 9 eggs\""
    );
    assert_eq!(
        name_of_step("It is 1.5 m long. Then"),
        "where we wrote \"It is 1.5 m long. Then\""
    );
    assert_eq!(name_of_step(""), "where we wrote \"\"");
}

#[test]
fn a_step_with_an_answer_is_terminal() {
    assert!(states_final_answer("Thus $\\boxed{3}$."));
    assert!(states_final_answer("so\n#### 12"));
    assert!(!states_final_answer("\\boxed{3"));
}
