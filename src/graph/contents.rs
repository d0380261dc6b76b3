//! Digests of what lies outside the store and enters keys: the files that parameters name, and the code of plugins.
//!
//! Each is read once, however many nodes it enters.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::digest::{Digest, DigestCache, FileError, canonical, path_digest};
use crate::spec::kind::Plugin;
use crate::spec::plugin::{self, Code};
use crate::spec::{Class, Schema};

/// What was read so far.
pub(super) struct Contents<'a> {
    cache: Option<&'a dyn DigestCache>,
    files: HashMap<PathBuf, Digest>,
    code: HashMap<PathBuf, Result<Option<Arc<Code>>, String>>,
}

impl<'a> Contents<'a> {
    pub fn new(cache: Option<&'a dyn DigestCache>) -> Contents<'a> {
        Contents {
            cache,
            files: HashMap::new(),
            code: HashMap::new(),
        }
    }

    /// Returns a plugin's code, if it declares any.
    ///
    /// # Errors
    /// Why it has none, in words.
    pub fn code(&mut self, plugin: &Plugin) -> Result<Option<Arc<Code>>, String> {
        let read = || match plugin.code.is_empty() {
            true => Ok(None),
            false => plugin::code(plugin, self.cache)
                .map(|code| Some(Arc::new(code)))
                .map_err(|error| with_sources(&error)),
        };
        self.code.entry(plugin.dir.clone()).or_insert_with(read).clone()
    }

    /// Returns what a parameter contributes to the key in canonical form, if anything.
    ///
    /// # Errors
    /// Why it has no key, in words.
    pub fn identity(&mut self, schema: &Schema, value: &Value) -> Result<Option<Box<str>>, String> {
        if schema.class != Class::Identity {
            return Ok(None);
        }
        let identity = schema.identity(value, &mut |path| self.file(path));
        let identity = identity.map_err(|error| with_sources(&error))?;
        // A path at its default still names content, which may change.
        if schema.default.as_ref() == Some(value) && identity == *value {
            return Ok(None);
        }
        let text = canonical::to_string(&identity);
        text.map(|text| Some(text.into())).map_err(|error| error.to_string())
    }

    fn file(&mut self, path: &Path) -> Result<Digest, FileError> {
        if let Some(digest) = self.files.get(path) {
            return Ok(*digest);
        }
        let digest = path_digest(path, self.cache)?;
        self.files.insert(path.to_path_buf(), digest);
        Ok(digest)
    }
}

/// Returns an error with all that it was caused by, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
