//! Which blobs content consists of.

use serde::Deserialize;

use crate::digest::Digest;

/// A manifest, as far as a transfer cares: what else it says is for the store to check.
#[derive(Deserialize)]
struct Manifest {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    path: String,
    digest: Option<Digest>,
    size: Option<u64>,
}

/// Returns the digests and lengths of the blobs of a folder, or of what lies at a path inside, each once; none for what is
/// no manifest. Nothing at the path is no blobs.
pub(super) fn blobs(manifest: &[u8], subpath: Option<&str>) -> Option<Vec<(Digest, u64)>> {
    let manifest: Manifest = serde_json::from_slice(manifest).ok()?;
    let subpath = subpath.map(|subpath| subpath.trim_matches('/')).unwrap_or_default();
    let is_wanted = |path: &str| match path.strip_prefix(subpath) {
        Some(rest) => subpath.is_empty() || rest.is_empty() || rest.starts_with('/'),
        None => false,
    };
    let mut seen = std::collections::HashSet::new();
    let files = manifest.files.into_iter().filter(|file| is_wanted(&file.path));
    let blobs = files.filter_map(|file| Some((file.digest?, file.size?)));
    Some(blobs.filter(|blob| seen.insert(blob.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_picks_a_file_or_a_folder_and_nothing_that_begins_alike() {
        let digest = |name: &str| Digest::of(name.as_bytes());
        let names = ["a/b", "a/c", "ab", "a.txt"];
        let files: Vec<_> = names
            .iter()
            .map(|name| serde_json::json!({"path": name, "digest": digest(name), "size": 1, "executable": false}))
            .collect();
        let manifest = serde_json::json!({"format": 1, "files": files}).to_string();
        let at = |subpath| {
            let found = blobs(manifest.as_bytes(), subpath).expect("a manifest");
            found.into_iter().map(|(digest, _)| digest).collect::<Vec<_>>()
        };
        assert_eq!(at(Some("a")), [digest("a/b"), digest("a/c")]);
        assert_eq!(at(Some("/a/c/")), [digest("a/c")]);
        assert_eq!(at(None).len(), 4);
        assert!(at(Some("b")).is_empty());
        assert_eq!(blobs(b"no manifest", None), None);
    }
}
