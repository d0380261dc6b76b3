//! Folders as artifacts: what is taken over comes back as it was, and what has no place in a folder never reaches a disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::tests::{Tested, put, put_path, store};
use super::tree::Inside;
use super::*;

/// What lies at a path.
#[derive(Clone, Debug, PartialEq)]
enum Entry {
    File(Vec<u8>, bool),
    Link(String),
    Empty,
}

type Tree = BTreeMap<String, Entry>;

fn write_tree(root: &Path, tree: &Tree) -> std::io::Result<()> {
    fs::create_dir(root)?;
    for (path, entry) in tree {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        match entry {
            Entry::File(bytes, executable) => {
                fs::write(&path, bytes)?;
                fs::set_permissions(
                    &path,
                    fs::Permissions::from_mode(if *executable { 0o755 } else { 0o640 }),
                )?;
            }
            Entry::Link(target) => symlink(target, &path)?,
            Entry::Empty => fs::create_dir(&path)?,
        }
    }
    Ok(())
}

fn read_tree(root: &Path) -> std::io::Result<Tree> {
    let mut found = Tree::new();
    let mut ahead = vec![root.to_path_buf()];
    while let Some(folder) = ahead.pop() {
        let mut is_empty = true;
        for entry in fs::read_dir(&folder)? {
            is_empty = false;
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if metadata.is_dir() {
                ahead.push(path);
            } else if metadata.is_symlink() {
                found.insert(name, Entry::Link(fs::read_link(&path)?.to_string_lossy().into_owned()));
            } else {
                found.insert(name, Entry::File(fs::read(&path)?, metadata.mode() & 0o100 != 0));
            }
        }
        if is_empty && folder != root {
            let name = folder
                .strip_prefix(root)
                .unwrap_or(&folder)
                .to_string_lossy()
                .into_owned();
            found.insert(name, Entry::Empty);
        }
    }
    Ok(found)
}

/// Names that programs have tripped over; composed and decomposed letters are two names.
fn names() -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        Just("a b".to_owned()),
        Just("new\nline".to_owned()),
        Just("quo\"te's".to_owned()),
        Just("\u{e9}".to_owned()),
        Just("e\u{301}".to_owned()),
        Just("-rf".to_owned()),
        Just("x".repeat(255)),
        Just("..dots".to_owned()),
    ];
    prop_oneof![3 => "[a-d]", 1 => odd]
}

fn trees() -> impl Strategy<Value = Tree> {
    let path = proptest::collection::vec(names(), 1..4).prop_map(|names| names.join("/"));
    let target = prop_oneof![
        "[a-d]",
        "\\.\\./[a-d]",
        "\\./[a-d]/[a-d]",
        "\\.\\./\\.\\./[a-d]",
        Just(".".to_owned())
    ];
    let entry = prop_oneof![
        4 => (proptest::collection::vec(any::<u8>(), 0..40), any::<bool>()).prop_map(|(bytes, mode)| Entry::File(bytes, mode)),
        2 => target.prop_map(Entry::Link),
        1 => Just(Entry::Empty),
    ];
    proptest::collection::vec((path, entry), 1..10).prop_map(|entries| {
        let mut tree = Tree::new();
        for (path, entry) in entries {
            // What would lie in the place of another, or below one, is left out.
            let clashes = |other: &String| {
                format!("{path}/").starts_with(&format!("{other}/")) || other.starts_with(&format!("{path}/"))
            };
            if !tree.keys().any(clashes) {
                tree.insert(path, entry);
            }
        }
        tree
    })
}

/// Checks a law of folders on one store, as a new one costs more than all else; each case has a folder of its own.
fn law<S: Strategy>(
    strategy: S,
    check: impl Fn(&Store, &Path, S::Value) -> Result<(), Box<dyn std::error::Error>>,
) -> Tested {
    let (folder, store) = store()?;
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(64));
    let kept = runner.run(&strategy, |value| {
        let failed = |error: Box<dyn std::error::Error>| TestCaseError::fail(error.to_string());
        let case = tempfile::tempdir_in(folder.path()).map_err(|error| failed(error.into()))?;
        check(&store, case.path(), value).map_err(failed)
    });
    // The error holds the value, which need not outlive this.
    kept.map_err(|error| error.to_string().into())
}

#[test]
fn a_folder_comes_back_as_it_was_or_is_refused_for_a_link() -> Tested {
    law(trees(), |store, folder, tree| {
        let output = folder.join("output");
        write_tree(&output, &tree)?;
        let artifacts = match store.admit(&[("out".to_owned(), output.clone())]) {
            Err(StoreError::BadLink { .. }) => {
                let leaves = |(path, entry): (&String, &Entry)| match entry {
                    Entry::Link(target) => leads_out(&output, path, target),
                    _ => false,
                };
                assert!(tree.iter().any(leaves), "no link of {tree:?} leads out");
                assert_eq!(read_tree(&output)?, tree, "what is refused stays as it is");
                return Ok(());
            }
            admitted => admitted?,
        };
        let artifact = &artifacts["out"];
        let (placed, exported) = (folder.join("placed"), folder.join("exported"));
        let handed = store.place(artifact, None, &placed)?;
        assert_eq!(read_tree(&placed)?, tree);
        assert_eq!(store.changes(&handed), [] as [PathBuf; 0]);
        store.export(artifact, None, &exported)?;
        assert_eq!(read_tree(&exported)?, tree);
        // The copy is a folder like the first.
        assert_eq!(&store.admit(&[("out".to_owned(), exported)])?["out"], artifact);
        let has_more = tree.values().any(|entry| !matches!(entry, Entry::File(..)));
        let format = store.manifest(artifact)?.map(|manifest| manifest.format);
        assert_eq!(format, Some(if has_more { 2 } else { 1 }));
        // `tempfile` can't remove a folder that is read-only where we are not root.
        Ok(store.remove_folder(&placed)?)
    })
}

#[test]
fn no_manifest_makes_anything_outside_its_folder() -> Tested {
    let hostile = (hostile_paths(), hostile_paths(), hostile_links());
    law(hostile, |store, folder, (files, folders, links)| {
        let blob = put(store, "blob", b"bytes")?.artifacts["out"].digest;
        let file = |path: String| TreeFile {
            digest: blob,
            executable: false,
            path,
            size: 5,
        };
        let link = |(path, target): (String, String)| TreeLink { path, target };
        let manifest = Manifest::new(
            files.into_iter().map(file).collect(),
            folders,
            links.into_iter().map(link).collect(),
        );
        let artifact = put_manifest(store, &manifest)?;
        let inner = folder.join("far/inner");
        fs::create_dir_all(&inner)?;
        let to = inner.join("placed");
        match store.place(&artifact, None, &to) {
            Err(StoreError::RefusedManifest { .. }) => assert!(!to.exists()),
            Err(error) => panic!("{manifest:?} was begun: {error}"),
            Ok(_) => {
                // Whoever reads through any of it ends inside, or nowhere.
                for link in &manifest.links {
                    if let Ok(end) = to.join(&link.path).canonicalize() {
                        assert!(end.starts_with(to.canonicalize()?), "{link:?} leads to {end:?}");
                    }
                }
            }
        }
        let others = fs::read_dir(&inner)?
            .flatten()
            .filter(|entry| entry.file_name() != "placed");
        let beside = others.count() + fs::read_dir(folder.join("far"))?.count();
        assert_eq!(beside, 1, "{manifest:?}");
        Ok(store.remove_folder(&to)?)
    })
}

/// Tells by the disk whether a link leads out of a folder, or to itself.
fn leads_out(root: &Path, path: &str, target: &str) -> bool {
    let link = root.join(path);
    let from = link.parent().unwrap_or(root).to_path_buf();
    let mut place = from;
    for name in target.split('/') {
        match name {
            "." => continue,
            ".." if place == *root => return true,
            ".." => {
                place.pop();
            }
            name => place.push(name),
        }
        if place == link {
            return true;
        }
        if let Ok(next) = fs::read_link(&place) {
            let rest = place
                .strip_prefix(root)
                .unwrap_or(&place)
                .to_string_lossy()
                .into_owned();
            // Links that lead to links: that one of them leads out, or in a circle, is enough.
            return leads_out(root, &rest, &next.to_string_lossy()) || target.contains("..") || next.as_os_str() == ".";
        }
    }
    false
}

fn hostile_paths() -> impl Strategy<Value = Vec<String>> {
    let path = prop_oneof![
        4 => "[ab]",
        3 => "[ab]/[ab]",
        1 => "[ab]/[ab]/[ab]",
        1 => Just("..".to_owned()),
        1 => Just("../x".to_owned()),
        1 => Just("a/../../x".to_owned()),
        1 => Just("/tmp/volvelle-hostile".to_owned()),
        1 => Just("a//b".to_owned()),
        1 => Just("./a".to_owned()),
        1 => Just("a/".to_owned()),
        1 => Just(String::new()),
        1 => Just("nul\0".to_owned()),
        1 => Just("y".repeat(256)),
        1 => Just("z/".repeat(2100) + "z"),
    ];
    proptest::collection::vec(path, 0..3)
}

fn hostile_links() -> impl Strategy<Value = Vec<(String, String)>> {
    let target = prop_oneof![
        3 => "[ab]",
        2 => "\\.\\./[ab]",
        1 => "[ab]/\\.\\./\\.\\.",
        1 => "\\.\\./\\.\\./[ab]",
        1 => Just("/etc".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
    ];
    proptest::collection::vec(("[abc](/[ab]){0,2}", target), 0..4)
}

/// Puts a manifest into the store as a record from elsewhere would name it, whatever it says.
fn put_manifest(store: &Store, manifest: &Manifest) -> Result<Artifact, Box<dyn std::error::Error>> {
    let text = serde_json::to_string(manifest)?;
    store.commit_blobs(vec![store.prepare_bytes(text.as_bytes())?])?;
    Ok(Artifact::of_folder(manifest, &text))
}

fn file(path: &str) -> TreeFile {
    TreeFile {
        digest: Digest::of(path.as_bytes()),
        executable: false,
        path: path.to_owned(),
        size: path.len() as u64,
    }
}

fn link(path: &str, target: &str) -> TreeLink {
    TreeLink {
        path: path.to_owned(),
        target: target.to_owned(),
    }
}

#[test]
fn the_known_ways_out_of_a_folder_are_refused() {
    let with = |files: &[&str], folders: &[&str], links: &[(&str, &str)]| {
        Manifest::new(
            files.iter().map(|path| file(path)).collect(),
            folders.iter().map(|path| (*path).to_owned()).collect(),
            links.iter().map(|(path, target)| link(path, target)).collect(),
        )
        .check()
    };
    for path in [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/./b",
        "a//b",
        "a/",
        "",
        ".",
        "..",
        "a\0b",
    ] {
        assert!(
            matches!(with(&[path], &[], &[]), Err(TreeFault::Path { .. })),
            "{path:?}"
        );
        assert!(
            matches!(with(&[], &[path], &[]), Err(TreeFault::Path { .. })),
            "{path:?}"
        );
        assert!(
            matches!(with(&[], &[], &[(path, "x")]), Err(TreeFault::Path { .. })),
            "{path:?}"
        );
    }
    let clash = |checked: Result<(), TreeFault>| matches!(checked, Err(TreeFault::Clash { .. }));
    assert!(clash(with(&["a", "a"], &[], &[])), "twice");
    assert!(clash(with(&["a"], &["a"], &[])), "a file and a folder");
    assert!(clash(with(&["a", "a-b", "a/b"], &[], &[])), "a file as a folder");
    assert!(clash(with(&["a/passwd"], &[], &[("a", "b")])), "a link as a folder");
    assert!(
        clash(with(&["a/b/c"], &["a/b"], &[])),
        "an empty folder with something in it"
    );
    let refused = |checked: Result<(), TreeFault>| match checked {
        Err(TreeFault::Link { fault, .. }) => Some(fault),
        _ => None,
    };
    assert_eq!(refused(with(&[], &[], &[("a", "/etc")])), Some(LinkFault::Absolute));
    assert_eq!(refused(with(&[], &[], &[("a", "..")])), Some(LinkFault::Leaves));
    assert_eq!(
        refused(with(&["d/x"], &[], &[("d/a", "../../d/x")])),
        Some(LinkFault::Leaves)
    );
    assert_eq!(
        refused(with(&[], &[], &[("a", "b"), ("b", "a")])),
        Some(LinkFault::Loops)
    );
    assert_eq!(refused(with(&[], &[], &[("a", "")])), Some(LinkFault::NoPath));
    // Each by itself stays inside by its text; together they would not.
    assert_eq!(
        refused(with(&["d/e/x"], &[], &[("l", "d/.."), ("m", "l/..")])),
        Some(LinkFault::Leaves)
    );
    assert_eq!(
        with(&["d/x"], &["e"], &[("a", "d/x"), ("d/b", "../e"), ("gone", "nowhere")]),
        Ok(())
    );
}

#[test]
fn formats_and_sizes_that_can_not_be_are_refused() -> Tested {
    let refused = |text: &str| Manifest::read(text.as_bytes()).err();
    assert_eq!(refused(r#"{"files":[],"format":1}"#), None);
    assert_eq!(
        refused(r#"{"files":[],"format":2}"#),
        Some(TreeFault::Format { format: 2 })
    );
    assert_eq!(
        refused(r#"{"files":[],"folders":["a"],"format":1}"#),
        Some(TreeFault::Format { format: 1 })
    );
    assert_eq!(
        refused(r#"{"files":[],"format":3}"#),
        Some(TreeFault::Format { format: 3 })
    );
    assert_eq!(refused(r#"{"files":[],"format":1,"more":1}"#), Some(TreeFault::Syntax));
    let mut large = Manifest::new(vec![file("a"), file("b")], Vec::new(), Vec::new());
    large.files.iter_mut().for_each(|file| file.size = u64::MAX);
    assert_eq!(large.check(), Err(TreeFault::Size));
    // A manifest that is fine, but of another folder than the artifact's digest says.
    let (_folder, store) = store()?;
    let artifact = put_manifest(&store, &Manifest::new(vec![file("a")], Vec::new(), Vec::new()))?;
    let other = Artifact {
        digest: Digest::of(b"other"),
        ..artifact
    };
    assert!(matches!(store.manifest(&other), Err(StoreError::BadManifest { .. })));
    Ok(())
}

#[test]
fn a_part_takes_what_its_links_lead_to_along() {
    // As the Hugging Face cache lays models out.
    let manifest = Manifest::new(
        vec![
            file("blobs/1"),
            file("blobs/2"),
            file("snapshots/r/own"),
            file("more/deep/x"),
        ],
        vec!["snapshots/r/none".into()],
        vec![
            link("snapshots/r/config.json", "../../blobs/1"),
            link("snapshots/r/inner", "own"),
            link("snapshots/r/more", "../../more"),
            link("snapshots/r/gone", "../../nothing"),
            link("latest", "snapshots/r"),
        ],
    );
    assert_eq!(manifest.check(), Ok(()));
    let moved = |path: &str, from: &str| TreeFile {
        path: path.to_owned(),
        ..file(from)
    };
    let expected = Manifest::new(
        vec![
            moved("config.json", "blobs/1"),
            moved("own", "snapshots/r/own"),
            moved("more/deep/x", "more/deep/x"),
        ],
        vec!["none".into()],
        vec![link("inner", "own")],
    );
    assert_eq!(manifest.at("snapshots/r"), Some(Inside::Folder(expected.clone())));
    assert_eq!(manifest.at("latest/"), Some(Inside::Folder(expected)));
    assert_eq!(manifest.at("latest/config.json"), Some(Inside::File(file("blobs/1"))));
    assert_eq!(
        manifest.at("latest/more/deep/x"),
        Some(Inside::File(file("more/deep/x")))
    );
    for nothing in ["latest/gone", "nothing", "../x", "latest/../..", "snap", ""] {
        assert_eq!(manifest.at(nothing), None, "{nothing:?}");
    }
    // Folders that lead to each other come to an end.
    let around = Manifest::new(
        vec![file("a/x"), file("b/y")],
        Vec::new(),
        vec![link("a/b", "../b"), link("b/a", "../a"), link("b/all", "..")],
    );
    assert_eq!(around.check(), Ok(()));
    let Some(Inside::Folder(part)) = around.at("a") else {
        panic!("a folder")
    };
    assert_eq!(part.check(), Ok(()));
    assert!(part.files.iter().any(|file| file.path == "b/y"));
}

#[test]
fn absolute_links_into_the_output_are_kept_as_relative_ones() -> Tested {
    let (folder, store) = store()?;
    let output = folder.path().join("output");
    fs::create_dir_all(output.join("d/e"))?;
    fs::write(output.join("checkpoint"), b"1")?;
    symlink(output.join("checkpoint"), output.join("d/e/last"))?;
    symlink(&output, output.join("d/all"))?;
    symlink(output.join("checkpoint"), output.join("last"))?;
    let artifact = store
        .admit(&[("out".to_owned(), output)])?
        .remove("out")
        .ok_or("one output")?;
    let links = store.manifest(&artifact)?.ok_or("a folder")?.links;
    assert_eq!(
        links,
        [
            link("d/all", "../"),
            link("d/e/last", "../../checkpoint"),
            link("last", "checkpoint")
        ]
    );
    Ok(())
}

#[test]
fn names_of_one_file_become_one_blob_without_a_copy() -> Tested {
    let (folder, store) = store()?;
    let output = folder.path().join("output");
    fs::create_dir(&output)?;
    fs::write(output.join("a"), b"bytes")?;
    let inode = fs::metadata(output.join("a"))?.ino();
    fs::hard_link(output.join("a"), output.join("b"))?;
    fs::write(output.join("c"), b"bytes")?;
    let record = put_path(&store, "linked", output.clone())?;
    let manifest = store.manifest(&record.artifacts["out"])?.ok_or("a folder")?;
    assert_eq!(manifest.files.len(), 3);
    let blob = fs::metadata(store.blob_path(Digest::of(b"bytes")))?;
    assert_eq!((blob.ino() == inode, blob.nlink()), (true, 1));
    assert_eq!(fs::read_dir(&output)?.count(), 0, "no name of the blob is left");
    Ok(())
}

#[test]
fn an_output_that_is_still_open_for_writing_is_copied() -> Tested {
    let (folder, store) = store()?;
    let output = folder.path().join("output");
    fs::write(&output, b"before")?;
    let stray = fs::File::options().write(true).open(&output)?;
    let record = put_path(&store, "held", output)?;
    stray.write_all_at(b"after!", 0)?;
    let kept = store.read_file(&record.artifacts["out"], None)?;
    assert_eq!(kept, Some(b"before".to_vec()));
    Ok(())
}

#[test]
fn outputs_that_were_made_read_only_are_taken_over_and_failures_leave_nothing() -> Tested {
    let (folder, store) = store()?;
    let output = folder.path().join("output");
    fs::create_dir_all(output.join("sub"))?;
    fs::write(output.join("sub/file"), b"bytes")?;
    fs::set_permissions(output.join("sub/file"), fs::Permissions::from_mode(0o000))?;
    fs::set_permissions(output.join("sub"), fs::Permissions::from_mode(0o500))?;
    fs::set_permissions(&output, fs::Permissions::from_mode(0o500))?;
    let artifact = put_path(&store, "locked", output)?.artifacts["out"].clone();
    // A blob that is gone: whatever was laid out until then is removed, and no temporary file is left.
    fs::remove_file(store.blob_path(Digest::of(b"bytes")))?;
    for to in ["placed", "exported"].map(|to| folder.path().join(to)) {
        let laid = match to.ends_with("placed") {
            true => store.place(&artifact, None, &to).map(|_| ()),
            false => store.export(&artifact, None, &to),
        };
        assert!(matches!(laid, Err(StoreError::MissingBlob { .. })), "{laid:?}");
        assert!(!to.exists());
    }
    assert_eq!(fs::read_dir(store.tmp())?.count(), 0);
    Ok(())
}

#[test]
fn sparse_files_stay_sparse() -> Tested {
    let (folder, store) = store()?;
    let output = folder.path().join("output");
    fs::create_dir(&output)?;
    let file = fs::File::create(output.join("run"))?;
    file.set_len(256 << 20)?;
    file.write_all_at(b"end", (256 << 20) - 3)?;
    fs::set_permissions(output.join("run"), fs::Permissions::from_mode(0o755))?;
    drop(file);
    let artifact = put_path(&store, "sparse", output)?.artifacts["out"].clone();
    store.place(&artifact, None, &folder.path().join("placed"))?;
    store.export(&artifact, None, &folder.path().join("exported"))?;
    for path in ["placed/run", "exported/run"] {
        let metadata = fs::metadata(folder.path().join(path))?;
        assert_eq!(metadata.len(), 256 << 20);
        assert!(
            metadata.blocks() * 512 < 1 << 20,
            "{path} has {} blocks",
            metadata.blocks()
        );
    }
    Ok(())
}

#[test]
fn a_change_is_found_though_size_and_time_are_put_back() -> Tested {
    let (folder, store) = store()?;
    let record = put(&store, "a", b"bytes")?;
    let artifact = &record.artifacts["out"];
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    let placed = store.place(artifact, None, &first)?;
    // Links that the store makes and removes meanwhile change nothing.
    let other = store.place(artifact, None, &second)?;
    assert!(store.changes(&placed).is_empty());
    assert!(store.changes(&other).is_empty());
    store.take_back(&other);
    assert!(store.changes(&placed).is_empty());
    // Nor does a link that somebody else makes, or write permission that somebody gives: the bytes are the same.
    fs::hard_link(&first, folder.path().join("third"))?;
    fs::set_permissions(&first, fs::Permissions::from_mode(0o644))?;
    assert!(store.changes(&placed).is_empty());
    assert_eq!(fs::metadata(&first)?.mode() & 0o777, 0o444);

    let before = fs::metadata(&first)?;
    fs::set_permissions(&first, fs::Permissions::from_mode(0o644))?;
    fs::write(&first, b"BYTES")?;
    let file = fs::File::options().write(true).open(&first)?;
    file.set_times(fs::FileTimes::new().set_modified(before.modified()?))?;
    assert_eq!(fs::metadata(&first)?.modified()?, before.modified()?);
    assert_eq!(store.changes(&placed), [PathBuf::new()]);
    if let Ok(Some(bytes)) = store.read_file(artifact, None) {
        assert_eq!(bytes, b"bytes", "what is served is what was made");
    }
    Ok(())
}

#[test]
fn changes_among_many_files_and_links_are_found() -> Tested {
    let (folder, store) = store()?;
    let output = folder.path().join("output");
    fs::create_dir(&output)?;
    for idx in 0..600 {
        fs::write(output.join(format!("{idx:03}")), format!("{idx}"))?;
    }
    symlink("001", output.join("link"))?;
    let artifact = put_path(&store, "many", output)?.artifacts["out"].clone();
    let input = folder.path().join("input");
    let placed = store.place(&artifact, None, &input)?;
    assert!(store.changes(&placed).is_empty());
    fs::set_permissions(&input, fs::Permissions::from_mode(0o755))?;
    fs::remove_file(input.join("link"))?;
    symlink("002", input.join("link"))?;
    fs::remove_file(input.join("300"))?;
    // Another file in its place: the blob has nothing to do with it.
    fs::remove_file(input.join("400"))?;
    fs::write(input.join("400"), "else")?;
    fs::write(input.join("new"), "new")?;
    let changed = ["300", "400", "link", "new"].map(PathBuf::from);
    assert_eq!(store.changes(&placed), changed);
    assert_eq!(store.missing_blob(&artifact), None);
    Ok(())
}

#[test]
fn a_paranoid_store_finds_what_changed_under_its_name() -> Tested {
    let (folder, store) = store()?;
    let root = folder.path().join("cache");
    let output = folder.path().join("output");
    fs::create_dir(&output)?;
    for name in ["a", "b", "c"] {
        fs::write(output.join(name), name)?;
    }
    let record = put_path(&store, "tree", output)?;
    let damaged = Digest::of(b"b");
    assert_eq!(store.verify_blob(damaged, Some(1))?, BlobState::Sound);
    assert_eq!(store.verify_blob(damaged, Some(2))?, BlobState::Damaged);
    assert_eq!(store.verify_blob(Digest::of(b"none"), None)?, BlobState::Missing);
    fs::set_permissions(store.blob_path(damaged), fs::Permissions::from_mode(0o644))?;
    fs::write(store.blob_path(damaged), b"B")?;
    assert_eq!(store.verify_blob(damaged, Some(1))?, BlobState::Damaged);
    assert!(
        matches!(store.lookup(record.recipe_key), Lookup::Hit(_)),
        "nobody has read it"
    );
    let store = Store::open(&root)?;
    store.be_paranoid();
    assert!(matches!(store.lookup(record.recipe_key), Lookup::Incomplete { missing, .. } if missing == damaged));
    assert_eq!(store.verify_blob(damaged, None)?, BlobState::Missing);
    assert_eq!(fs::read_dir(root.join("quarantine"))?.count(), 1);
    Ok(())
}
