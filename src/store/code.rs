//! Which files a plugin's code consisted of when something was made with it, so that a change can be told by file.
//!
//! Keys hold the digest of the code as a whole; the digests of its files lie beside the records, once for each code. A
//! file that is missing here makes an explanation shorter, nothing else.

use std::fs;

use serde_json::Value;

use super::Store;
use crate::digest::Digest;

impl Store {
    /// Keeps the digests of the files of some code, unless they are there.
    pub fn put_code(&self, code: Digest, files: &Value) {
        let path = self.code_path(code);
        if path.exists() {
            return;
        }
        if let Err(error) = self.write_file(&path, format!("{files:#}\n").as_bytes()) {
            tracing::warn!(%error, "the files of a plugin's code could not be kept");
        }
    }

    /// Returns the digests of the files of some code, by name, if they were kept.
    pub fn code_files(&self, code: Digest) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(self.code_path(code)).ok()?).ok()
    }

    fn code_path(&self, code: Digest) -> std::path::PathBuf {
        self.root().join("code").join(format!("{code}.json"))
    }
}
