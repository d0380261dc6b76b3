//! Every diagnostic of a pipeline, as a user sees it: one fixture each, through the real program.
//!
//! Each fixture must be refused with exit code 2 and leave nothing behind: no run, no file next to the pipeline.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::project::Project;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Runs the program in the folder of the fixtures, with nothing of the caller's environment but PATH.
fn volvelle(cache: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_volvelle"));
    command
        .current_dir(fixtures().join("mistakes"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
        .args(args)
        .arg("--plugins")
        .arg("../plugins")
        .arg("--cache")
        .arg(cache);
    command.output().expect("the program starts")
}

/// Returns what the program says about a fixture, after checking that it refused it.
fn told(args: &[&str]) -> String {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let output = volvelle(cache.path(), args);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let runs = cache.path().join("runs");
    assert!(
        !runs.exists() || std::fs::read_dir(runs).expect("a folder").next().is_none(),
        "nothing was started"
    );
    String::from_utf8(output.stderr).expect("messages are UTF-8")
}

macro_rules! fixtures {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                insta::assert_snapshot!(told(&["run", concat!(stringify!($name), ".yaml")]));
            }
        )*

        #[test]
        fn every_fixture_has_a_test() {
            let mut found: Vec<String> = std::fs::read_dir(fixtures().join("mistakes"))
                .expect("the folder of the fixtures")
                .map(|entry| entry.expect("readable").path().file_stem().unwrap_or_default().to_string_lossy().into_owned())
                .collect();
            found.sort();
            let mut tested = vec![$(stringify!($name)),*];
            tested.sort_unstable();
            assert_eq!(found, tested);
        }
    };
}

fixtures!(
    ambiguous,
    anchors,
    axes,
    axis_draws,
    axis_forms,
    axis_points,
    axis_ranges,
    axis_unmatched,
    axis_zips,
    broken_yaml,
    command,
    cycle,
    defaults,
    duplicate_key,
    extends,
    extends_values,
    header,
    include_circle,
    include_inside,
    include_items,
    include_itself,
    include_missing,
    include_shape,
    missing,
    missing_file,
    names,
    nothing,
    other_pipelines,
    points,
    points_that_are_not,
    profiles,
    references,
    resources,
    tab,
    unknown_keys,
    unknown_names,
    when,
    when_off,
    wrong_type,
    wrong_values,
    yaml_after_quote,
    yaml_at_sign,
    yaml_block_ends,
    yaml_byte_order_mark,
    yaml_closing_bracket,
    yaml_colon_in_flow,
    yaml_colon_in_value,
    yaml_escape,
    yaml_indentation,
    yaml_keys,
    yaml_lists,
    yaml_no_space,
    yaml_no_space_in_flow,
    yaml_numbers,
    yaml_odd_spaces,
    yaml_open_bracket,
    yaml_open_quote,
    yaml_point_in_flow,
    yaml_reference_and_colon,
    yaml_reference_in_flow,
    yaml_star,
    yaml_too_deep,
    yaml_windows,
);

#[test]
fn options_are_told_like_files() {
    let set = [
        "--set",
        "seed=1",
        "--set",
        "stages.data.with.count=many",
        "--set",
        "stages.dta.with.count=1",
    ];
    let args = [
        &["plan", "../keys.yaml", "--profile", "quick"][..],
        &set,
        &["--set", "lr"],
    ]
    .concat();
    insta::assert_snapshot!(told(&args));
}

#[test]
fn sweeps_are_told_like_files() {
    let sweeps = [
        "lr",
        "seed=",
        "seed=1,1",
        "sede=1,2",
        "learning_rate={rnage: [1, 2]}",
        "stages.sft.with.learning_rate=fast,1e-4",
        "stages.sft.uses=a,b",
        "stages.stf.with.seed=1,2",
        "lr=1e-4,no",
    ];
    let args: Vec<&str> = sweeps.iter().flat_map(|sweep| ["--sweep", *sweep]).collect();
    insta::assert_snapshot!(told(&[&["plan", "../keys.yaml"][..], &args].concat()));
    let twice = ["--sweep", "lr=1e-4,2e-4", "--sweep", "stages.sft.with.lr=1,2"];
    insta::assert_snapshot!(told(&[&["plan", "../keys.yaml"][..], &twice].concat()));
    insta::assert_snapshot!(told(&["plan", "../keys.yaml", "--sweep", "seed=1,2"]));
    insta::assert_snapshot!(told(&[
        "plan",
        "../grid.yaml",
        "--sweep",
        "seeds=1,2",
        "--sweep",
        "unused=1,2"
    ]));
    insta::assert_snapshot!(told(&[
        "plan",
        "../keys.yaml",
        "--sweep",
        "stages.sft.with.learning_rate=0,1e-4"
    ]));
}

#[test]
fn a_pipeline_that_is_not_there_is_told() {
    insta::assert_snapshot!(told(&["plan", "noting.yaml"]));
    insta::assert_snapshot!(told(&["plan", "absent/p.yaml"]));
}

#[test]
fn a_node_that_is_not_there_is_told() {
    insta::assert_snapshot!(told(&["why", "../keys.yaml", "sft[style=search]"]));
    insta::assert_snapshot!(told(&["why", "../keys.yaml", "tabel"]));
    insta::assert_snapshot!(told(&["plan", "../keys.yaml", "--rerun", "evl"]));
    insta::assert_snapshot!(told(&["kinds", "demo.trian"]));
}

/// A project whose pipeline includes `file`.
fn including(file: &str) -> Project {
    Project::new(&format!(
        "volvelle: 1\ninclude: [{file}]\nstages: {{ a: {{ uses: command, with: {{ run: ls }} }} }}\n"
    ))
}

#[test]
fn what_is_no_file_of_a_sensible_size_is_refused_before_it_is_read() {
    let project = including("pipe.yaml");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        project.path("pipe.yaml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .expect("a pipe");
    // Without a writer a pipe would be waited for without end.
    insta::assert_snapshot!(project.volvelle(&["plan", "p.yaml"]).stderr);

    let project = including("/dev/zero");
    insta::assert_snapshot!(project.volvelle(&["plan", "p.yaml"]).stderr);

    let project = including("large.yaml");
    let large = std::fs::File::create(project.path("large.yaml")).expect("a file");
    large.set_len(1 << 40).expect("a sparse file");
    insta::assert_snapshot!(project.volvelle(&["plan", "p.yaml"]).stderr);
    let told = project.volvelle(&["plan", "large.yaml"]);
    assert_eq!(told.code, Some(2));
    assert!(told.stderr.contains("larger than 64 MiB"), "{}", told.stderr);

    let project = including("folder");
    project.write("folder/x.yaml", "");
    insta::assert_snapshot!(project.volvelle(&["plan", "p.yaml"]).stderr);

    let project = Project::new(
        "volvelle: 1\nstages: { a: { uses: command, needs: { x: /dev/zero.yaml#b.c, y: folder.yaml#b.c }, with: { run: ls } } }\n",
    );
    project.write("folder.yaml/x", "");
    insta::assert_snapshot!(project.volvelle(&["plan", "p.yaml"]).stderr);
}
