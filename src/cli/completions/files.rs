//! Files and folders as candidates.

use std::fs;
use std::path::PathBuf;

use super::Candidate;

/// Returns the folders that `current` may become and, of the files, those with one of `endings`.
pub(super) fn candidates(current: &str, endings: &[&str]) -> Vec<Candidate> {
    let (folder, name) = match current.rfind('/') {
        Some(slash) => current.split_at(slash + 1),
        None => ("", current),
    };
    let listed = fs::read_dir(if folder.is_empty() {
        ".".into()
    } else {
        expanded(folder)
    });
    let mut found = Vec::new();
    for entry in listed.into_iter().flatten().flatten() {
        let Ok(entry_name) = entry.file_name().into_string() else {
            continue;
        };
        // Hidden ones are for who asks for them.
        if !entry_name.starts_with(name) || (entry_name.starts_with('.') && !name.starts_with('.')) {
            continue;
        }
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        let is_wanted = endings.iter().any(|ending| entry_name.ends_with(ending));
        if metadata.is_dir() {
            found.push(Candidate::part(format!("{folder}{entry_name}/"), ""));
        } else if metadata.is_file() && is_wanted {
            found.push(Candidate::whole(format!("{folder}{entry_name}"), ""));
        }
    }
    found.sort_by(|a, b| a.text.cmp(&b.text));
    found
}

/// Returns a path in which the shell has not replaced `~` yet.
pub(super) fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => path.into(),
    }
}
