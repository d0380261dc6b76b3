//! Pins: what `gc` must keep, whatever its policy is.
//!
//! A pin is a small file, `pins/NAME.json`, that names recipe keys. So it outlives every edit of a pipeline, and what it
//! names was made by this very recipe. It does not know what a node is; the words of who made it are kept with it.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Store;
use super::clock::Timestamp;
use super::error::{IoContext, StoreError};
use crate::digest::RecipeKey;

/// A name of a pin is a file name and stays short enough to be one.
const MAX_NAME: usize = 120;

/// Something that `gc` must keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The version of this format.
    pub format: u32,
    /// The name of its file.
    pub name: String,
    /// What it was made for, in the words of the command line: `p.yaml sft[seed=1]`, a run, a digest.
    pub target: String,
    pub note: Option<String>,
    pub created: Timestamp,
    pub keys: Vec<RecipeKey>,
}

impl Pin {
    /// The version of the format of pins.
    pub const FORMAT: u32 = 1;
}

/// A text that can't be the name of a pin.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` can't be the name of a pin: it has to begin with a letter or a digit and may have letters, digits, `.`, `_` and `-`, {MAX_NAME} at most"
)]
pub struct BadPinName(pub String);

impl BadPinName {
    /// Checks a name.
    ///
    /// # Errors
    /// It can't be the name of a pin.
    pub fn check(name: &str) -> Result<(), BadPinName> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if starts_well && name.len() <= MAX_NAME && name.bytes().all(is_plain) {
            Ok(())
        } else {
            Err(BadPinName(name.to_owned()))
        }
    }
}

impl Store {
    fn pin_path(&self, name: &str) -> PathBuf {
        self.root().join("pins").join(format!("{name}.json"))
    }

    /// Writes a pin, in the place of one with its name; what it names is safe from `gc` when it returns.
    pub fn put_pin(&self, pin: &Pin) -> Result<(), StoreError> {
        let _guard = self.use_guard()?;
        let bytes = serde_json::to_vec_pretty(pin).expect("a pin is plain data");
        self.write_file(&self.pin_path(&pin.name), &bytes)
    }

    /// Removes a pin; false if there is none of this name.
    pub fn remove_pin(&self, name: &str) -> Result<bool, StoreError> {
        if BadPinName::check(name).is_err() {
            return Ok(false);
        }
        let path = self.pin_path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            other => other.at("remove", &path).map(|()| true),
        }
    }

    /// Returns all pins in the order of their names.
    ///
    /// # Errors
    /// One of them can't be read: what it names is not known, and nobody may act as if it were nothing.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let folder = self.root().join("pins");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.at("list", &folder)?,
        };
        let mut pins = Vec::new();
        for entry in entries {
            let path = entry.at("list", &folder)?.path();
            if path.extension().is_none_or(|end| end != "json") {
                continue;
            }
            let bytes = match fs::read(&path) {
                // Somebody removed it in between.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.at("read", &path)?,
            };
            let pin: Option<Pin> = serde_json::from_slice(&bytes).ok();
            pins.push(
                pin.filter(|pin| pin.format == Pin::FORMAT)
                    .ok_or(StoreError::BadPin { path })?,
            );
        }
        pins.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn pins_are_listed_and_removed_and_a_damaged_one_is_told() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let store = Store::open(folder.path())?;
        assert!(store.pins()?.is_empty());
        let pin = Pin {
            format: Pin::FORMAT,
            name: "paper-table-2".to_owned(),
            target: "p.yaml table".to_owned(),
            note: Some("as submitted".to_owned()),
            created: Timestamp(1),
            keys: vec![RecipeKey(Digest([7; 32]))],
        };
        store.put_pin(&pin)?;
        assert_eq!(store.pins()?, [pin]);
        assert!(store.remove_pin("paper-table-2")?);
        assert!(!store.remove_pin("paper-table-2")?);
        assert!(!store.remove_pin("../format")?);
        fs::write(store.root().join("pins/torn.json"), "{")?;
        assert!(matches!(store.pins(), Err(StoreError::BadPin { .. })));
        Ok(())
    }

    #[test]
    fn names_stay_in_their_folder() {
        for name in ["", ".", "..", "-x", "a/b", "a b", "ü"] {
            assert!(BadPinName::check(name).is_err(), "{name}");
        }
        assert!(BadPinName::check("v1.0_final-2").is_ok());
    }
}
