//! Completions as the shells get them: what the program answers, and the scripts in the shells that are there.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::project::Project;

const BREAKS: &str = " \t\n\"'@><=;|&(:";

const PIPELINE: &str = r#"volvelle: 1
params: { seed: 7, model: { size: 64 }, lr: 0.1 }
profiles: { quick: { params: { seed: 1 } }, quiet: {} }
stages:
  sft:
    uses: command
    matrix: { style: [search, direct], lr: [0.1, 1.0e-3] }
    outputs: { model: any, metrics: json }
    with: { run: "true" }
  score: { uses: command, needs: { model: sft.model }, outputs: { score: json }, with: { run: "true" } }
  sum: { uses: command, needs: { all: score.score }, gather: [lr], outputs: { out: json }, with: { run: "true" } }
  table: { uses: command, needs: { all: sum.out }, gather: [style], outputs: { csv: csv }, with: { run: "true" } }
"#;

/// Returns the answer for a line of bash: `space` or `nospace`, then the candidates.
fn answer(project: &Project, line: &str) -> Vec<String> {
    let ended = project.volvelle(&["__complete", "bash", line, BREAKS]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{line}");
    ended.stdout.lines().map(str::to_owned).collect()
}

fn project() -> Project {
    let project = Project::new(PIPELINE);
    project.write("notes.txt", "");
    project.write("more/q.yml", "");
    project
}

#[test]
fn a_line_is_completed_from_the_pipeline_in_it() {
    let project = project();
    for (line, expected) in [
        ("volvelle wh", "space why"),
        ("volvelle why ", "nospace more/ p.yaml"),
        ("volvelle why m", "space more/q.yml"),
        ("volvelle why p.yaml ", "nospace sft[ score[ sum[ table"),
        ("volvelle why p.yaml t", "space table"),
        ("volvelle why p.yaml 'sf", "nospace sft[lr= sft[style="),
        (
            "volvelle why p.yaml 'sft[st",
            "nospace sft[style=search, sft[style=direct,",
        ),
        (
            "volvelle why p.yaml 'sft[style=d",
            "space sft[style=direct,lr=0.1] sft[style=direct,lr=0.001]",
        ),
        ("volvelle why p.yaml sft[style=direct,lr=0.0", "space 0.001]"),
        ("volvelle why p.yaml 'sum[", "space sum[style=search] sum[style=direct]"),
        ("volvelle why p.yaml table ", "space"),
        ("volvelle why p.yaml 'sft[nothing=", "space"),
        ("volvelle run p.yaml --only s", "nospace sft sft[ score score[ sum sum["),
        ("volvelle run p.yaml --until=tab", "space table"),
        ("volvelle plan p.yaml --rerun 'sum[style=se", "space sum[style=search]"),
        ("volvelle run p.yaml --profile qui", "space quick quiet"),
        ("volvelle run p.yaml --profile=quie", "space quiet"),
        ("volvelle run p.yaml --set ", "nospace lr= model.size= seed= stages."),
        ("volvelle run p.yaml --set se", "nospace seed="),
        (
            "volvelle run p.yaml --set stages.table.with.f",
            "nospace stages.table.with.files=",
        ),
        (
            "volvelle show p.yaml 'sft[style=search,lr=0.1].m",
            "space sft[style=search,lr=0.1].metrics sft[style=search,lr=0.1].model",
        ),
        ("volvelle show p.yaml tab", "nospace table table."),
        ("volvelle lineage p", "space p.yaml"),
        ("volvelle lineage p.yaml tab", "nospace table table."),
        ("volvelle compare p.yaml s", "space sft score sum"),
        ("volvelle diff p.yaml mo", "space more/q.yml"),
        ("volvelle diff p.yaml more/q.yml --set-a se", "nospace seed="),
        ("volvelle watch p.yaml --profile quie", "space quiet"),
        ("volvelle kinds comm", "space command"),
        ("volvelle completions z", "space zsh"),
        ("volvelle run --jo", "space --jobs"),
        ("volvelle run --jobs ", "space"),
        ("volvelle run --cache mo", "nospace more/"),
        ("volvelle schema --output no", "space notes.txt"),
        ("volvelle --no-color sta", "space status"),
    ] {
        assert_eq!(answer(&project, line).join(" "), expected, "{line}");
    }
}

#[test]
fn stages_of_other_pipelines_fixed_points_and_sweeps_are_completed() {
    let project = Project::new(
        r#"volvelle: 1
params: { rate: 0.1, twice: "${params.rate}" }
stages:
  sft:
    uses: command
    needs: { x: "more/other.yaml#data[split=train].out", y: more/other.yaml#plain.out }
    outputs: { model: any }
    with: { run: "work ${params.twice}" }
  off: { uses: command, when: false, with: { run: "true" } }
"#,
    );
    project.write(
        "more/other.yaml",
        r#"volvelle: 1
params: { theirs: 1 }
stages:
  data: { uses: command, matrix: { split: [train, test], n: [1] }, outputs: { out: any, log: text }, with: { run: "true" } }
  plain: { uses: command, outputs: { out: any }, with: { run: "true" } }
  not_needed: { uses: command, with: { run: "true" } }
"#,
    );
    for (line, expected) in [
        ("volvelle why p.yaml s", "space sft[n=1]"),
        (
            "volvelle run p.yaml --from '",
            "nospace more/other.yaml#data more/other.yaml#data[ more/other.yaml#plain sft sft[",
        ),
        (
            "volvelle why p.yaml 'more/other.yaml#data[sp",
            "nospace more/other.yaml#data[split=train, more/other.yaml#data[split=test,",
        ),
        (
            "volvelle show p.yaml 'more/other.yaml#data[n=1,split=test].l",
            "space more/other.yaml#data[n=1,split=test].log",
        ),
        (
            "volvelle show p.yaml 'more/other.yaml#pl",
            "nospace more/other.yaml#plain more/other.yaml#plain.",
        ),
        (
            "volvelle show p.yaml 'more/other.yaml#plain.o",
            "space more/other.yaml#plain.out",
        ),
        // The point is fixed, so that the axis `split` is not an axis of `sft`.
        ("volvelle why p.yaml 'sft[", "space sft[n=1]"),
        ("volvelle plan p.yaml --sweep ", "nospace rate= twice= stages."),
        (
            "volvelle plan p.yaml --sweep stages.",
            "nospace stages.sft.with.run= stages.sft.with.files= stages.sft.with.env=",
        ),
        (
            "volvelle plan p.yaml --sweep rate=1,2 --only 'sft[r",
            "nospace sft[rate=1, sft[rate=1] sft[rate=2, sft[rate=2]",
        ),
        (
            "volvelle plan p.yaml --sweep rate=1,2 --until 'sft[n=1,rate=",
            "space sft[n=1,rate=1] sft[n=1,rate=2]",
        ),
        ("volvelle plan p.yaml --sweep nonsense --rerun sf", "nospace sft sft["),
    ] {
        assert_eq!(answer(&project, line).join(" "), expected, "{line}");
    }
}

#[test]
fn a_pipeline_that_is_broken_is_borne_in_silence() {
    let project = project();
    project.write("wrong.yaml", &PIPELINE.replace("uses: command", "uses: comand"));
    assert_eq!(answer(&project, "volvelle why wrong.yaml t"), ["space", "table"]);
    project.write(
        "circle.yaml",
        "volvelle: 1\nstages: { a: { needs: { x: b.o } }, b: { needs: { x: a.o } } }\n",
    );
    assert_eq!(answer(&project, "volvelle why circle.yaml "), ["space", "a", "b"]);
    project.write("flawed/x/plugin.yaml", "nonsense");
    for line in [
        "volvelle why broken.yaml ",
        "volvelle why missing.yaml 'a[",
        "volvelle why more ",
        "volvelle why p.yaml '",
        "volvelle why p.yaml --set nonsense --profile nothing --plugins flawed tab",
        "volvelle why \"p.yaml",
        "",
        " ",
        "volvelle",
        "volvelle run p.yaml --nothing=x",
    ] {
        project.write("broken.yaml", "volvelle: [1");
        answer(&project, line);
    }
    for words in [
        &["__complete", "bash"][..],
        &["__complete", "zsh"],
        &["__complete", "fish", "--", "-", "--set="],
    ] {
        let ended = project.volvelle(words);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{words:?}");
    }
}

/// Runs a script in a shell with the program's completions; none if the machine does not have the shell.
fn in_shell(project: &Project, shell: &[&str], script: &str) -> Option<String> {
    let completions = project.volvelle(&["completions", Path::new(shell[0]).file_stem()?.to_str()?]);
    assert_eq!(completions.code, Some(0));
    project.write("completions", &completions.stdout);
    let mut command = Command::new(shell[0]);
    command
        .args(&shell[1..])
        .args(["-c", script])
        .current_dir(project.path(""))
        .stdin(Stdio::null());
    let output = command.env("HOME", project.path("")).output().ok()?;
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn bash_gets_its_candidates() {
    let script = r#"
source ./completions
try() {
    COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=(volvelle) COMP_CWORD=0 COMPREPLY=()
    _volvelle volvelle
    printf '<%s>' "${COMPREPLY[@]}"
    echo
}
touch 'sft[style=search]' 'a b.yaml'
try "volvelle why p.yaml 'sft[style=d"
try "volvelle why p.yaml sum["
try "volvelle why a"
try "volvelle why nothing.yaml x"
complete -p volvelle
"#;
    let Some(told) = in_shell(&project(), &["bash", "--norc"], script) else {
        return;
    };
    let expected = "<sft[style=direct,lr=0.1]><sft[style=direct,lr=0.001]>\n<sum[style=search]><sum[style=direct]>\n\
                    <a\\ b.yaml>\n<>\ncomplete -F _volvelle volvelle\n";
    assert_eq!(told, expected);
}

#[test]
fn zsh_gets_its_candidates() {
    // The parts of zsh's completion system that the script meets, as far as it meets them.
    let script = r#"
compdef() { : }
compadd() { while [[ $1 != -- ]]; do shift; done; shift; print -r -- "<${(j:><:)@}>" }
source ./completions
try() { words=("$@"); CURRENT=$#; PREFIX=${@[-1]#\'}; _volvelle || print none }
try volvelle why p.yaml "'sft[style=d"
try volvelle wh
try volvelle why p.yaml ''
try volvelle why nothing.yaml x
"#;
    let Some(told) = in_shell(&project(), &["zsh", "-f"], script) else {
        return;
    };
    let expected = "<sft[style=direct,lr=0.1]><sft[style=direct,lr=0.001]>\n<why>\n<sft[><score[><sum[><table>\nnone\n";
    assert_eq!(told, expected);
}

#[test]
fn fish_gets_its_candidates() {
    let script = r#"
source ./completions
complete -C "volvelle why p.yaml 'sum["
complete -C 'volvelle wh'
complete -C 'volvelle run p.yaml --profile qui'
complete -C 'volvelle why nothing.yaml x'
"#;
    let Some(told) = in_shell(&project(), &["fish", "--no-config"], script) else {
        return;
    };
    assert_eq!(
        told,
        "sum[style=direct]\nsum[style=search]\nwhy\tExplain a node's key, part by part, against the nearest earlier record\nquick\nquiet\n"
    );
}
