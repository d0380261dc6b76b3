//! The verifier's rules, one solution each, and a search over whole game trees as the oracle.

use proptest::prelude::*;

use super::*;
use crate::formats::VerifierName;
use game::legal_moves;

fn game() -> Game {
    Game {
        numbers: vec![7, 3, 4],
        target: 40,
        max_value: 40,
    }
}

/// Expands W (wait, wrong), B (go back to), R (restart with) and Y (yes) into the sentences.
fn text(short: &str) -> String {
    let wording = Wording::of(VerifierName::Countdown);
    let expand = |paragraph: &str| match paragraph.split_once(' ') {
        _ if paragraph == "Y" => wording.approval(),
        Some(("B", state)) => wording.backtrack(state, false),
        Some(("R", state)) => wording.backtrack(state, true),
        _ => paragraph.to_owned(),
    };
    short.split(" ; ").map(expand).collect::<Vec<_>>().join(" ; ")
}

fn verdict(short: &str) -> Verdict {
    judge(&game(), &text(short), &Wording::of(VerifierName::Countdown))
}

fn failure_of(short: &str) -> Option<&'static str> {
    let verdict = verdict(short);
    assert_eq!(verdict.correct, verdict.failure.is_none());
    verdict.failure
}

const FIRST: &str = "7 + 3 = 10 | 4 10";
const RIGHT: &str = "7 + 3 = 10 | 4 10 ; 10 * 4 = 40 , 40 ? 40";
const WRONG: &str = "7 + 3 = 10 | 4 10 ; 10 + 4 = 14 , 14 ? 40";

#[test]
fn a_direct_solution_ends_with_its_check() {
    assert_eq!(failure_of(RIGHT), None);
    assert_eq!(verdict(RIGHT).answer.as_deref(), Some("40"));
    assert_eq!(failure_of(WRONG), Some("wrong_answer"));
    assert_eq!(verdict(WRONG).answer.as_deref(), Some("14"));
    assert_eq!(failure_of(FIRST), Some("unfinished"));
    assert_eq!(failure_of(""), Some("unfinished"));
    assert_eq!(failure_of("10 * 4 = 40"), Some("format"));
}

#[test]
fn each_error_on_the_final_path_has_its_name() {
    assert_eq!(
        failure_of("7 + 3 = 11 | 4 11 ; 11 * 4 = 40 , 40 ? 40"),
        Some("arithmetic")
    );
    assert_eq!(failure_of("7 * 7 = 40 | 4 40 ; 40 * 4 = 40 , 40 ? 40"), Some("operand"));
    assert_eq!(failure_of("7 + 3 = 10 | 3 10 ; 10 * 4 = 40 , 40 ? 40"), Some("state"));
    assert_eq!(
        failure_of("7 + 3 = 10 | 4 10 ; 10 + 4 = 14 , 40 ? 40"),
        Some("false_yes")
    );
    assert_eq!(
        failure_of("7 + 3 = 10 | 4 10 ; 10 + 4 = 14 , 14 ? 14"),
        Some("false_yes")
    );
    assert_eq!(failure_of("7 + 3 = 10 | 4 10 ; 10 * 4 = 40 , 39 ? 40"), Some("state"));
    assert_eq!(failure_of("7 + 3 = 10 , 40 ? 40"), Some("unfinished"));
    assert_eq!(
        failure_of("7 + 3 = 10 | 4 10 ; so 40 ; 10 * 4 = 40 , 40 ? 40"),
        Some("format")
    );
    assert_eq!(failure_of(&format!("{RIGHT} ; 40 + 0 = 40 , 40 ? 40")), Some("format"));
    // 7 * 4 = 28, and 28 * 3 would leave the allowed range.
    assert_eq!(
        failure_of("7 * 4 = 28 | 3 28 ; 28 * 3 = 84 , 84 ? 40"),
        Some("arithmetic")
    );
}

#[test]
fn a_searching_solution_goes_back_and_ends_with_yes() {
    let back = format!("{WRONG} ; B 4 10 ; 10 * 4 = 40 , 40 ? 40 ; Y");
    assert_eq!(
        verdict(&back),
        Verdict {
            correct: true,
            answer: Some("40".into()),
            num_backtracks: 1,
            failure: None,
        }
    );
    let restart = format!("{WRONG} ; R 7 3 4 ; {RIGHT} ; Y");
    assert_eq!(failure_of(&restart), None);
    assert_eq!(failure_of(&format!("{RIGHT} ; Y")), None);
    assert_eq!(
        failure_of(&format!("{FIRST} ; Y ; 10 * 4 = 40 , 40 ? 40 ; Y")),
        None,
        "approval between steps"
    );
    assert_eq!(
        failure_of(&format!("{WRONG} ; B 10 4 ; 10 * 4 = 40 , 40 ? 40 ; Y")),
        None,
        "named in another order"
    );
}

#[test]
fn a_searching_solution_owes_a_true_verdict() {
    assert_eq!(failure_of(&format!("{WRONG} ; Y")), Some("false_yes"));
    assert_eq!(
        failure_of(&format!("{WRONG} ; B 4 10 ; 10 * 4 = 40 , 40 ? 40")),
        Some("unfinished")
    );
    assert_eq!(
        failure_of(&format!("{WRONG} ; B 4 10 ; 10 - 4 = 6 , 6 ? 40")),
        Some("unfinished")
    );
    assert_eq!(failure_of(&format!("{WRONG} ; B 4 10")), Some("unfinished"));
    assert_eq!(failure_of(&format!("{RIGHT} ; Y ; {FIRST}")), Some("format"));
}

#[test]
fn a_return_must_name_a_state_of_the_current_path() {
    assert_eq!(
        failure_of(&format!("{WRONG} ; B 3 10 ; 10 * 4 = 40 , 40 ? 40 ; Y")),
        Some("state")
    );
    assert_eq!(failure_of(&format!("{WRONG} ; R 7 3 5 ; {RIGHT} ; Y")), Some("state"));
    assert_eq!(
        failure_of(&format!("{WRONG} ; B the start ; {RIGHT} ; Y")),
        Some("state")
    );
    // After the restart, `4 10` is no longer on the path.
    let gone = format!("{WRONG} ; R 7 3 4 ; 7 - 4 = 3 | 3 3 ; 3 + 3 = 6 , 6 ? 40 ; B 4 10 ; 10 * 4 = 40 , 40 ? 40 ; Y");
    assert_eq!(failure_of(&gone), Some("state"));
    assert_eq!(verdict(&gone).num_backtracks, 2);
}

#[test]
fn errors_in_an_abandoned_branch_do_not_count_unless_built_on() {
    let abandoned = format!("7 + 3 = 12 | 4 12 ; 12 + 4 = 15 , 15 ? 40 ; R 7 3 4 ; {RIGHT} ; Y");
    assert_eq!(failure_of(&abandoned), None);
    let unreadable = format!("7 plus 3 ; R 7 3 4 ; {RIGHT} ; Y");
    assert_eq!(failure_of(&unreadable), None);
    let built_on = "7 + 3 = 12 | 4 12 ; 12 + 4 = 16 , 16 ? 40 ; B 4 12 ; 12 * 4 = 40 , 40 ? 40 ; Y";
    assert_eq!(failure_of(built_on), Some("arithmetic"));
}

#[test]
fn answers_and_states_are_read_from_steps() {
    assert_eq!(stated_answer("10 + 4 = 14 , 14 ? 24").as_deref(), Some("14"));
    assert_eq!(stated_answer("? 24"), None);
    let problem = Problem {
        version: 1,
        id: "p".into(),
        problem: "7 3 4 -> 24".into(),
        answer: "24".into(),
        verifier: VerifierName::Countdown,
        meta: serde_json::Map::new(),
    };
    assert_eq!(state_after(&problem, None), "7 3 4");
    assert_eq!(state_after(&problem, Some(FIRST)), "4 10");
}

proptest! {
    /// Legal play is judged by its value alone; a random text never crashes and is never right by chance.
    #[test]
    fn legal_play_is_right_exactly_when_it_hits(
        numbers in prop::collection::vec(1i64..=12, 2..=4),
        target in 5i64..=40,
        choices in prop::collection::vec(0usize..1000, 4),
    ) {
        let game = Game { numbers: numbers.clone(), target, max_value: 40 };
        let (mut state, mut steps) = (numbers, Vec::new());
        for choice in choices {
            let moves = legal_moves(&state, game.max_value);
            if moves.is_empty() {
                break;
            }
            let chosen = moves[choice % moves.len()];
            state = make_move(&state, chosen).unwrap();
            steps.push(game.step_text(chosen, &state));
        }
        let verdict = judge(&game, &steps.join(" ; "), &Wording::of(VerifierName::Countdown));
        prop_assert_eq!(verdict.correct, state == [target]);
        prop_assert_eq!(verdict.failure, (state != [target]).then_some(failure::WRONG_ANSWER));
    }

    #[test]
    fn any_text_is_judged(tokens in prop::collection::vec("[0-9]{1,20}|[-+*/=|,?;]|\n\n|Let's restart|é", 0..40)) {
        judge(&game(), &tokens.join(" "), &Wording::of(VerifierName::Countdown));
    }
}
