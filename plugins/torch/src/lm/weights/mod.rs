//! The weights of a model folder: one safetensors file, or shards and an index.
//!
//! Files are mapped and their headers checked when a folder is opened; a tensor is looked at when it is asked for. On the
//! CPU, and in the kind of the file, a tensor is the file's own memory.

mod blob;
mod header;
mod index;
mod mapped;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use self::mapped::Mapped;
pub(super) use self::write::{write_model, write_tensors};
use super::LmError;
use super::files::{self, invalid};

/// The file of a model that is not sharded.
const SINGLE: &str = "model.safetensors";

/// The list of the shards of one that is.
const INDEX: &str = "model.safetensors.index.json";

/// Bytes of an index that is worth reading.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The opened weights of a model folder.
#[derive(Debug)]
pub(super) struct Weights {
    dir: PathBuf,
    files: Vec<Mapped>,
    /// The file that holds each tensor.
    places: HashMap<String, usize>,
}

impl Weights {
    /// Opens the weights of a model folder.
    ///
    /// # Errors
    /// There are none, a file is missing or broken, or the shards contradict their index or each other.
    pub fn open(dir: &Path) -> Result<Self, LmError> {
        let is_there = |name: &str| std::fs::symlink_metadata(dir.join(name)).is_ok();
        if is_there(SINGLE) {
            Self::of_files(dir, vec![Mapped::open(&dir.join(SINGLE))?])
        } else if is_there(INDEX) {
            Self::open_shards(dir)
        } else {
            Err(no_weights(dir))
        }
    }

    fn open_shards(dir: &Path) -> Result<Self, LmError> {
        let path = dir.join(INDEX);
        let index = files::read_json_object(&path, MAX_INDEX_BYTES)?;
        let shards = index::shard_names(&index).map_err(|message| invalid(&path, message))?;
        let names: BTreeSet<&String> = shards.values().collect();
        let open = |name: &String| {
            let shard = dir.join(name);
            match std::fs::metadata(&shard) {
                Ok(_) => Mapped::open(&shard),
                Err(error) => Err(invalid(
                    &path,
                    format!("names the shard {name}, which can't be read: {error}"),
                )),
            }
        };
        let weights = Self::of_files(dir, names.into_iter().map(open).collect::<Result<_, _>>()?)?;
        let astray = shards
            .iter()
            .filter(|(tensor, shard)| !weights.file_of(tensor).is_some_and(|file| file.path.ends_with(shard)))
            .min();
        match astray {
            Some((tensor, shard)) => Err(invalid(
                &dir.join(shard),
                format!("lacks the tensor {tensor}, which {INDEX} says it holds"),
            )),
            None => Ok(weights),
        }
    }

    fn of_files(dir: &Path, files: Vec<Mapped>) -> Result<Self, LmError> {
        let mut places = HashMap::new();
        for (idx, file) in files.iter().enumerate() {
            for name in file.entries.keys() {
                if let Some(before) = places.insert(name.clone(), idx) {
                    let other = files[before].path.display();
                    return Err(invalid(
                        &file.path,
                        format!("holds the tensor {name}, and so does {other}"),
                    ));
                }
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            files,
            places,
        })
    }

    /// The names of the files that hold the weights.
    pub fn file_names(&self) -> Vec<OsString> {
        let names = self.files.iter().filter_map(|file| file.path.file_name());
        names.map(OsStr::to_owned).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Whether two tensors that are there hold the same numbers.
    ///
    /// # Errors
    /// One of them is of a kind that is no floating-point number.
    pub fn are_equal(&self, one: &str, other: &str) -> Result<bool, LmError> {
        let tensor = |name: &str| self.file_of(name).expect("it is there").tensor(name);
        let (one, other) = (tensor(one)?, tensor(other)?);
        Ok(one.kind() == other.kind() && one.size() == other.size() && one.f_equal(&other)?)
    }

    fn file_of(&self, name: &str) -> Option<&Mapped> {
        self.places.get(name).map(|&idx| &self.files[idx])
    }

    /// Checks that each tensor of a model is there in its shape, and that none is there that the model would have to
    /// compute with but does not know.
    ///
    /// # Errors
    /// Names the tensor.
    pub fn check(&self, expected: &[(String, Vec<i64>)]) -> Result<(), LmError> {
        let missing: Vec<&str> = expected
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !self.places.contains_key(*name))
            .collect();
        if let Some(first) = missing.first() {
            let (count, all) = (missing.len(), expected.len());
            let hint = match *first {
                "lm_head.weight" => " (tie_word_embeddings is not true)",
                _ => "",
            };
            return Err(invalid(
                &self.dir,
                format!(
                    "the weights lack {first}{hint}: {count} of {all} tensors that config.json asks for are missing"
                ),
            ));
        }
        for (name, shape) in expected {
            let file = self.file_of(name).expect("what is missing was refused");
            let got = &file.entries[name].shape;
            if got != shape {
                return Err(invalid(
                    &file.path,
                    format!("tensor {name} has shape {got:?}, config.json asks for {shape:?}"),
                ));
            }
            file.kind(name)?;
        }
        self.refuse_unknown_parts(expected)
    }

    /// A layer with a bias or a norm that its config does not mention would compute something else without a word.
    fn refuse_unknown_parts(&self, expected: &[(String, Vec<i64>)]) -> Result<(), LmError> {
        let known: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let layers: BTreeSet<&str> = known.iter().filter_map(|name| layer_of(name)).collect();
        // Old files keep the rotary frequencies, which follow from the config.
        let is_unknown = |name: &str| {
            layer_of(name).is_some_and(|layer| layers.contains(layer))
                && !known.contains(name)
                && !name.ends_with("rotary_emb.inv_freq")
        };
        match self.places.keys().filter(|name| is_unknown(name)).min() {
            Some(name) => Err(invalid(
                &self.dir,
                format!("the weights have {name}, which a model of this config.json does not have"),
            )),
            None => Ok(()),
        }
    }

    /// Returns a tensor that [`Weights::check`] has passed, on `device` in `kind`.
    ///
    /// # Errors
    /// A weight is not a finite number, or the memory is full.
    pub fn load(&self, name: &str, device: Device, kind: Kind) -> Result<Tensor, LmError> {
        let file = self.file_of(name).expect("checked before");
        file.load(name, device, kind)
    }

    /// The kind of a tensor in its file.
    pub fn kind(&self, name: &str) -> Result<Kind, LmError> {
        self.file_of(name).expect("checked before").kind(name)
    }
}

/// The beginning of a layer's tensor, as far as the layer's number.
fn layer_of(name: &str) -> Option<&str> {
    const PREFIX: &str = "model.layers.";
    let digits = name.strip_prefix(PREFIX)?.find('.')?;
    Some(&name[..PREFIX.len() + digits])
}

/// Reads all tensors of a safetensors file into a map, over the file's own memory where they are aligned.
///
/// # Errors
/// The file can't be read, or holds something else than floating-point tensors.
pub(super) fn read_tensors(path: &Path, tensors: &mut HashMap<String, Tensor>) -> Result<(), LmError> {
    let file = Mapped::open(path)?;
    for name in file.entries.keys() {
        tensors.insert(name.clone(), file.tensor(name)?);
    }
    Ok(())
}

/// Says what a folder without weights in safetensors has instead.
fn no_weights(dir: &Path) -> LmError {
    let found = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .find_map(|entry| {
            let path = entry.path();
            match path.extension().and_then(OsStr::to_str)? {
            "bin" | "pth" | "pt" => Some(
                "its weights are pickled, which is not read because it may run code; convert them with transformers: \
                 AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
                    .to_owned(),
            ),
            "gguf" => Some(format!("it holds a GGUF file; name that itself: {}", path.display())),
            _ => None,
        }
        });
    let found = found.map_or_else(String::new, |found| format!("; {found}"));
    invalid(dir, format!("the folder has no {SINGLE} and no {INDEX}{found}"))
}
