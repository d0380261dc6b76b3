//! What helps to write pipelines: the schema for editors, the starter, completions.

use serde_json::Value;

use crate::project::Project;

#[test]
fn the_schema_goes_to_a_file_or_to_the_screen() {
    let project = Project::new("volvelle: 1\n");
    let printed = project.volvelle(&["schema"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""));
    let schema: Value = serde_json::from_str(&printed.stdout).expect("JSON");
    let uses = &schema["$defs"]["stage"]["properties"]["uses"];
    assert!(
        uses["enum"]
            .as_array()
            .is_some_and(|kinds| kinds.contains(&"command".into()))
    );

    let written = project.volvelle(&["schema", "--output", "s.json"]);
    assert_eq!((written.code, written.stdout.as_str()), (Some(0), ""));
    assert_eq!(project.read("s.json"), printed.stdout);

    let failed = project.volvelle(&["schema", "--output", "nowhere/s.json"]);
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("nowhere/s.json"), "{}", failed.stderr);
}

#[test]
fn the_schema_has_the_kinds_of_the_plugins_that_are_named() {
    let project = Project::new("volvelle: 1\n");
    let plugin = "plugin: 1\nname: own\ncommand: [sh]\nkinds: {own.kind: {version: 1, summary: Does it.}}\n";
    project.write("mine/own/plugin.yaml", plugin);
    project.write("mine/flawed/plugin.yaml", "plugin: 1\nname: flawed\n");
    let printed = project.volvelle(&["schema", "--plugins", "mine"]);
    let schema: Value = serde_json::from_str(&printed.stdout).expect("JSON");
    let uses = &schema["$defs"]["stage"]["properties"]["uses"];
    assert_eq!(
        (&uses["enum"][1], &uses["enumDescriptions"][1]),
        (&"own.kind".into(), &"Does it.".into())
    );
    assert!(printed.stderr.contains("missing field"), "{}", printed.stderr);
}

/// Returns the commands in the comments of a pipeline, in words as a shell makes them of these.
fn commands(pipeline: &str) -> Vec<Vec<String>> {
    let lines = pipeline.lines().filter_map(|line| line.strip_prefix("#   volvelle "));
    let words = |line: &str| line.split(" #").next().unwrap_or_default().replace('\'', "");
    lines
        .map(|line| words(line).split_whitespace().map(str::to_owned).collect())
        .collect()
}

#[test]
fn the_starter_plans_runs_and_is_cached() {
    let project = Project::new("");
    let made = project.volvelle(&["init", "demo folder", "--name", "my: \"first\""]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    insta::assert_snapshot!(made.stdout);

    let volvelle = |arguments: &[&str]| {
        let output = project
            .command(arguments)
            .current_dir(project.path("demo folder"))
            .output()
            .expect("it starts");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let plan = volvelle(&["plan", "pipeline.yaml", "--json"]).1;
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    assert_eq!(
        (&plan["pipeline"], &plan["counts"]["run"]),
        (&"my: \"first\"".into(), &11.into())
    );
    let (code, told) = volvelle(&["run", "pipeline.yaml"]);
    assert!(code == Some(0) && told.contains("11 executed"), "{told}");
    let (_, told) = volvelle(&["run", "pipeline.yaml"]);
    assert!(told.starts_with("nothing to do: 11 nodes cached"), "{told}");
    let (_, table) = volvelle(&["show", "pipeline.yaml", "table.csv"]);
    assert!(table.lines().count() == 10 && table.contains("\n1.0,1000,"), "{table}");

    let commands = commands(&project.read("demo folder/pipeline.yaml"));
    assert_eq!(commands.len(), 8);
    for command in commands {
        let (code, told) = volvelle(&command.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(code, Some(0), "{command:?} says {told}");
    }
    assert!(!project.read("demo folder/.gitignore").is_empty() && !project.exists("cache"));
}

#[test]
fn the_smallest_starter_runs_and_fits_the_schema() {
    for starter in ["minimal", "sweep"] {
        let project = Project::new("");
        assert_eq!(project.volvelle(&["init", "--starter", starter]).code, Some(0));
        let schema: Value = serde_json::from_str(&project.read("volvelle.schema.json")).expect("JSON");
        let pipeline = project.read("pipeline.yaml");
        assert!(pipeline.starts_with("# yaml-language-server: $schema=volvelle.schema.json\n"));
        let document: Value = serde_yaml::from_str(&pipeline).expect("YAML");
        jsonschema::draft202012::validate(&schema, &document).expect("valid");
        for command in commands(&pipeline) {
            let ended = project.volvelle(&command.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(ended.code, Some(0), "{command:?} says {}", ended.stderr);
        }
    }
}

#[test]
fn init_overwrites_nothing() {
    let project = Project::new("");
    project.write("a/.gitignore", "mine\n");
    assert_eq!(project.volvelle(&["init", "a"]).code, Some(0));
    assert_eq!(project.read("a/.gitignore"), "mine\n");
    let first = project.read("a/pipeline.yaml");

    let again = project.volvelle(&["init", "a", "--starter", "minimal"]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(2), ""));
    let told = "error: a/pipeline.yaml is there already, and init overwrites nothing; name another folder\n";
    assert_eq!(again.stderr, told);
    assert_eq!(project.read("a/pipeline.yaml"), first);
    let failed = project.volvelle(&["init", "p.yaml/b"]);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
}
