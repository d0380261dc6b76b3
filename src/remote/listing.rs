//! Which blobs a folder, or what lies at a path inside one, consists of.

use std::collections::HashSet;

use crate::digest::Digest;
use crate::store::{Inside, Manifest, StoreError};

/// Returns the digests and lengths of the blobs, each once; of a part also what links out of it lead to.
///
/// # Errors
/// The bytes are no manifest, or nothing lies at the path.
pub(in crate::remote) fn blobs(
    digest: Digest,
    manifest: &[u8],
    subpath: Option<&str>,
) -> Result<Vec<(Digest, u64)>, StoreError> {
    of_manifest(
        Manifest::read(manifest).map_err(|_| StoreError::BadManifest { digest })?,
        subpath,
    )
}

/// As [`blobs`], of a manifest that was read.
///
/// # Errors
/// Nothing lies at the path.
pub(in crate::remote) fn of_manifest(
    manifest: Manifest,
    subpath: Option<&str>,
) -> Result<Vec<(Digest, u64)>, StoreError> {
    let files = match subpath.map(|subpath| (subpath, manifest.at(subpath))) {
        None => manifest.files,
        Some((_, Some(Inside::Folder(part)))) => part.files,
        Some((_, Some(Inside::File(file)))) => vec![file],
        Some((subpath, None)) => {
            return Err(StoreError::NoSubpath {
                subpath: subpath.to_owned(),
                has: manifest.files.into_iter().take(12).map(|file| file.path).collect(),
            });
        }
    };
    let mut seen = HashSet::new();
    let blobs = files.into_iter().map(|file| (file.digest, file.size));
    Ok(blobs.filter(|blob| seen.insert(blob.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_picks_a_file_or_a_folder_and_what_links_lead_to() {
        let digest = |name: &str| Digest::of(name.as_bytes());
        let names = ["a.txt", "a/b", "a/c", "ab"];
        let files: Vec<_> = names
            .iter()
            .map(|name| serde_json::json!({"digest": digest(name), "executable": false, "path": name, "size": 1}))
            .collect();
        let links = serde_json::json!([{"path": "l/out", "target": "../a/b"}]);
        let manifest = serde_json::json!({"files": files, "format": 2, "links": links}).to_string();
        let at = |subpath| {
            let found = blobs(digest("m"), manifest.as_bytes(), subpath)?;
            Ok::<_, StoreError>(found.into_iter().map(|(digest, _)| digest).collect::<Vec<_>>())
        };
        assert_eq!(at(Some("a")).expect("a folder"), [digest("a/b"), digest("a/c")]);
        assert_eq!(at(Some("/a/c/")).expect("a file"), [digest("a/c")]);
        assert_eq!(at(Some("l")).expect("a folder"), [digest("a/b")]);
        assert_eq!(at(None).expect("all").len(), 4);
        assert!(matches!(at(Some("b")), Err(StoreError::NoSubpath { .. })));
        assert!(blobs(digest("m"), b"no manifest", None).is_err());
    }
}
