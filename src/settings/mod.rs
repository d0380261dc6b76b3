//! The settings of a project: `volvelle.yaml` in its folder, and what the environment says instead.
//!
//! It knows what can be set and what a mistake in it is; what a remote or a policy does with a value is not known here.
//! Nothing secret has a place in it, because the file is meant to be committed.

mod units;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use units::{BadUnit, parse_age, parse_size};

/// The name of the file, in the folder of the project.
pub const FILE_NAME: &str = "volvelle.yaml";

/// What a project sets; everything has a default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The file that this was read from; none where there is no such file.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    pub cache: CacheSettings,
    pub remote: Option<RemoteSettings>,
    pub trust: TrustSettings,
}

/// How large the cache may get, and what stays in it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSettings {
    /// In bytes; kept after each run.
    #[serde(deserialize_with = "units::size")]
    pub max_size: Option<u64>,
    /// What the last runs of each pipeline used stays.
    pub keep_runs: Option<u32>,
    /// What was used within this time stays.
    #[serde(deserialize_with = "units::age")]
    pub older_than: Option<Duration>,
}

/// Where results are shared.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteSettings {
    /// `s3://BUCKET/PREFIX`, `gs://`, `az://`, `file:///FOLDER`, or `http(s)://HOST` of a `volvelle serve`.
    pub url: String,
    /// Whether runs look for results there.
    #[serde(default = "yes")]
    pub pull: bool,
    /// Whether runs add their results.
    #[serde(default = "yes")]
    pub push: bool,
    /// Whether a node that another machine runs just now is waited for.
    #[serde(default = "yes")]
    pub claims: bool,
    /// The address of the S3 server, where it is not Amazon's.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Whether the bucket is part of the path instead of the host name; the default with an `endpoint`.
    pub path_style: Option<bool>,
    /// How long one request may take before the remote counts as down.
    #[serde(default, deserialize_with = "units::age")]
    pub timeout: Option<Duration>,
    /// How many transfers go on at once.
    pub parallel: Option<u32>,
}

impl RemoteSettings {
    /// Returns the settings of a remote of which only the address is known.
    pub fn at(url: &str) -> RemoteSettings {
        RemoteSettings {
            url: url.to_owned(),
            pull: true,
            push: true,
            claims: true,
            endpoint: None,
            region: None,
            path_style: None,
            timeout: None,
            parallel: None,
        }
    }
}

fn yes() -> bool {
    true
}

/// Whose records count.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrustSettings {
    pub require: Require,
    /// The public keys of the people and machines whose records count, by name.
    pub keys: BTreeMap<String, String>,
}

/// What a record has to have, to be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Require {
    /// Nothing: whoever can write into the cache or the remote is trusted.
    #[default]
    Any,
    /// A signature by one of the keys.
    Signed,
}

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Yaml { path: PathBuf, source: serde_yaml::Error },
}

impl Settings {
    /// Reads the settings of the project around a folder; the defaults where there are none.
    ///
    /// # Errors
    /// The file can't be read, or says something that is no setting; the message has file, line and column.
    pub fn around(folder: &Path) -> Result<Settings, SettingsError> {
        match folder
            .ancestors()
            .map(|folder| folder.join(FILE_NAME))
            .find(|file| is_settings(file))
        {
            Some(file) => Settings::read(&file),
            None => Ok(Settings::default()),
        }
    }

    fn read(path: &Path) -> Result<Settings, SettingsError> {
        let text = fs::read_to_string(path).map_err(|source| SettingsError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        // A file of comments only is a null, which is no mapping.
        let settings: Option<Settings> = serde_yaml::from_str(&text).map_err(|source| SettingsError::Yaml {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Settings {
            file: Some(path.to_path_buf()),
            ..settings.unwrap_or_default()
        })
    }
}

/// Tells whether a file is one of settings. A pipeline may have that name too; it says `volvelle: 1` or has stages.
pub fn is_settings(file: &Path) -> bool {
    // The root of the file system is no project: see `cli/locate.rs`.
    let is_at_root = file.parent().is_none_or(|folder| folder.parent().is_none());
    let Ok(text) = fs::read_to_string(file) else {
        // What is there and can't be read must be told, not passed over.
        return !is_at_root && file.is_file();
    };
    let is_pipeline = text
        .lines()
        .any(|line| line.starts_with("volvelle:") || line.starts_with("stages:"));
    !is_at_root && !is_pipeline
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let inside = folder.path().join("pipelines");
        fs::create_dir(&inside).map_err(|error| error.to_string())?;
        fs::write(folder.path().join(FILE_NAME), text).map_err(|error| error.to_string())?;
        Settings::around(&inside).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_can_be_set_and_nothing_has_to_be() {
        let settings = read(
            "cache: { max_size: 1.5 TiB, keep_runs: 3, older_than: 30d }\n\
             remote: { url: 's3://b/p', endpoint: 'http://127.0.0.1:9', push: false }\n\
             trust: { require: signed, keys: { ada: abc } }\n",
        )
        .expect("good settings");
        assert_eq!(settings.cache.max_size, Some(3 << 39));
        assert_eq!(settings.cache.older_than, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(settings.trust.require, Require::Signed);
        let remote = settings.remote.expect("a remote");
        assert!(remote.pull && !remote.push);
        assert_eq!(
            read("# nothing yet\n").expect("no settings").cache,
            CacheSettings::default()
        );
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let error = read("cache:\n  max_sise: 3\n").expect_err("no such setting");
        assert!(error.contains("max_sise") && error.contains("line 2"), "{error}");
        let error = read("cache:\n  max_size: plenty\n").expect_err("no size");
        assert!(error.contains("plenty") && error.contains("500GB"), "{error}");
    }

    #[test]
    fn a_pipeline_of_that_name_is_none() {
        assert_eq!(read("volvelle: 1\nstages: {}\n").expect("no settings").file, None);
    }
}
