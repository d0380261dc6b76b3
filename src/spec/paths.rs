//! Paths that a pipeline names: where they lead, and what was probably meant by one that leads nowhere.

use std::path::{Component, Path, PathBuf};

use super::mistake::{Mistake, nearest, shown};

/// Returns a path without `.` and `..`, by its words alone.
pub(super) fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// Returns the absolute form of a path, without `.` and `..`.
pub(super) fn absolute(path: &Path) -> PathBuf {
    lexical(&std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()))
}

/// Returns how `path` is written from the folder `from`; both are absolute. Where they share nothing but the root, the
/// whole path says more.
pub(super) fn relative(path: &Path, from: &Path) -> String {
    let (path, from) = (lexical(path), lexical(from));
    let common = path
        .components()
        .zip(from.components())
        .take_while(|(a, b)| a == b)
        .count();
    if common < 2 {
        return path.display().to_string();
    }
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    let relative: PathBuf = up.chain(path.components().skip(common)).collect();
    relative.display().to_string()
}

/// Returns the mistake that there is nothing at `path`, which was written as `text`, with what was probably meant.
pub(super) fn missing(mistake: Mistake, path: &Path, text: &str) -> Mistake {
    if text.starts_with('~') {
        return mistake.help("`~` is not expanded; write the whole path");
    }
    match near(path) {
        Some(near) => mistake.help(near),
        None => mistake.help(format!(
            "looked for {}; paths are relative to the file that they are written in",
            here(path)
        )),
    }
}

/// Returns a question about the nearest name beside `path`, if there is one.
pub(super) fn near(path: &Path) -> Option<String> {
    let dir = match path.parent()? {
        here if here.as_os_str().is_empty() => Path::new("."),
        dir => dir,
    };
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let near = nearest(path.file_name()?.to_str()?, names.iter().map(String::as_str))?;
    Some(format!("did you mean `{near}`, in {}?", folder(dir)))
}

fn folder(dir: &Path) -> String {
    match here(dir) {
        here if here.is_empty() => "this folder".to_owned(),
        other => other,
    }
}

/// Returns how a path is written from the current folder, or whole if it's far away.
fn here(path: &Path) -> String {
    let Ok(current) = std::env::current_dir() else {
        return shown(path);
    };
    match relative(&absolute(path), &current) {
        far if far.starts_with("../../../") => shown(path),
        near => near,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_from_a_folder() {
        for (path, from, expected) in [
            ("/a/b/c.yaml", "/a/b", "c.yaml"),
            ("/a/b/../d/c.yaml", "/a/b/", "../d/c.yaml"),
            ("/a/./b/x/c.yaml", "/a/b", "x/c.yaml"),
            ("/c.yaml", "/a/b", "/c.yaml"),
        ] {
            assert_eq!(relative(Path::new(path), Path::new(from)), expected);
        }
    }
}
