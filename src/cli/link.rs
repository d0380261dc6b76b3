//! The store that a command works with: where it lies, whose records count in it, and which remote stands behind it.

use std::path::Path;
use std::sync::Arc;

use super::{CliError, Global, locate, signing_key};
use crate::remote::{self, link::Link};
use crate::settings::{RemoteSettings, Require, Settings};
use crate::store::{PublicKey, Store, Trust};

/// Names the remote of a command, and of all commands of a shell.
const VARIABLE: &str = "VOLVELLE_REMOTE";

impl Global {
    /// Opens the store that belongs to a pipeline, or to the current folder, with its remote behind it.
    pub fn store(&self, file: Option<&Path>) -> Result<Store, CliError> {
        Ok(self.linked(file)?.0)
    }

    /// Opens the store that belongs to a pipeline, or to the current folder, alone.
    pub fn local_store(&self, file: Option<&Path>) -> Result<Store, CliError> {
        let settings = self.settings(file)?;
        let store = Store::open(&locate::cache_folder(self.cache.as_deref(), file)?)?;
        Ok(store.with_trust(trust(&settings)?, None))
    }

    /// Opens the store as [`Global::store`] does and returns its link to the remote as well, if it has one.
    pub fn linked(&self, file: Option<&Path>) -> Result<(Store, Option<Arc<Link>>), CliError> {
        let store = self.local_store(file)?;
        let Some(settings) = self.remote_settings(&self.settings(file)?) else {
            return Ok((store, None));
        };
        let trust = store.trust().clone();
        let behind = Store::open(store.root())?.with_trust(trust, None);
        let remote = remote::open(&settings, store.root())?;
        let link = Arc::new(Link::new(Arc::new(behind), remote, settings));
        // The first one is that of the command; what it has to tell is told at the end.
        let _ = self.link.set(Arc::clone(&link));
        let elsewhere = Arc::clone(&link);
        Ok((store.with_elsewhere(elsewhere), Some(link)))
    }

    /// Opens the store as [`Global::linked`] does, for a command whose records the user signs, if there is a key.
    pub fn signing(&self, file: Option<&Path>) -> Result<(Store, Option<Arc<Link>>), CliError> {
        let (store, link) = self.linked(file)?;
        let signer = signing_key::read()?;
        let public = signer.as_ref().map(|signer| signer.public());
        if !store.trust().accepts(public) {
            let who = match public {
                None => "there is no key to sign with (`volvelle key new` makes one)".to_owned(),
                Some(public) => format!("its `trust.keys` does not have {public}, which signs here"),
            };
            tracing::warn!(
                "volvelle.yaml requires signed records, and {who}: what this run makes will not count the next time"
            );
        }
        let trust = store.trust().clone();
        Ok((store.with_trust(trust, signer.map(Arc::new)), link))
    }

    /// Returns the remote that is meant: by the command line, the environment, or the project's settings.
    fn remote_settings(&self, settings: &Settings) -> Option<RemoteSettings> {
        if self.no_remote {
            return None;
        }
        let named = self.remote.clone().or_else(|| std::env::var(VARIABLE).ok());
        match named.as_deref() {
            None => settings.remote.clone(),
            Some("" | "none") => None,
            // Who names it wants it used.
            Some(url) => Some(RemoteSettings {
                url: url.to_owned(),
                pull: true,
                ..settings.remote.clone().unwrap_or_else(|| RemoteSettings::at(url))
            }),
        }
    }
}

/// Returns whose records count, by the settings of a project.
fn trust(settings: &Settings) -> Result<Trust, CliError> {
    let wrong = |name: &str, why: &str| {
        let file = settings
            .file
            .as_deref()
            .unwrap_or(Path::new(crate::settings::FILE_NAME));
        CliError::Usage(format!("{}: trust.keys.{name}: {why}", file.display()))
    };
    let mut keys = std::collections::BTreeMap::new();
    for (name, text) in &settings.trust.keys {
        let key: PublicKey = text.parse().map_err(|error| wrong(name, &format!("{error}")))?;
        keys.insert(key, name.clone());
    }
    match settings.trust.require {
        Require::Any => Ok(Trust::Anyone),
        Require::Signed if keys.is_empty() => Err(wrong(
            "NAME",
            "`require: signed` needs at least one key, as `volvelle key show` prints it",
        )),
        Require::Signed => Ok(Trust::Signers(keys)),
    }
}
