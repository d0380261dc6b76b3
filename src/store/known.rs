//! What a decision needs of a record: which inputs it was made from, and which artifacts it has.
//!
//! It is a few hundred bytes where the record with its preimages has thousands, so that a run over a large sweep
//! doesn't read every record. It comes from a record or from the snapshot of all of them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::artifact::Artifact;
use super::clock::Timestamp;
use super::history::Summary;
use super::record::Record;
use super::signature::PublicKey;
use crate::digest::{ContentKey, Digest, RecipeKey};

/// Names the bytes of all inputs of a node, in their order: half a digest, which is plenty beside a recipe key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputsDigest(pub [u8; 16]);

impl InputsDigest {
    /// Returns the digest of some inputs, each named by the digest of its content.
    pub fn of(digests: impl IntoIterator<Item = Digest>) -> InputsDigest {
        let mut hasher = blake3::Hasher::new();
        for digest in digests {
            hasher.update(&digest.0);
        }
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        InputsDigest(half)
    }

    /// Returns the digest of the inputs in a content preimage, which has them in the order of names.
    fn of_preimage(inputs: &BTreeMap<String, OneOrMany>) -> InputsDigest {
        InputsDigest::of(inputs.values().flat_map(OneOrMany::digests))
    }
}

/// What is known of a finished node.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    pub recipe_key: RecipeKey,
    pub content_key: ContentKey,
    /// The inputs that it was made from.
    pub inputs: InputsDigest,
    /// The outputs, in the order of names.
    pub artifacts: Box<[(Box<str>, Artifact)]>,
    /// The time that the worker took.
    pub seconds: f32,
    /// Who signed the record: whom the project trusts, if there is one of those.
    pub signer: Option<PublicKey>,
}

impl Known {
    /// Returns the artifact of an output.
    pub fn artifact(&self, output: &str) -> Option<&Artifact> {
        self.artifacts
            .iter()
            .find(|(name, _)| **name == *output)
            .map(|(_, artifact)| artifact)
    }

    /// Returns what is known by a record that somebody signed, or nobody.
    pub fn of(record: &Record, signer: Option<PublicKey>) -> Known {
        let inputs: BTreeMap<String, OneOrMany> = record
            .content
            .get("inputs")
            .and_then(|inputs| BTreeMap::deserialize(inputs).ok())
            .unwrap_or_default();
        Known {
            recipe_key: record.recipe_key,
            content_key: record.content_key,
            inputs: InputsDigest::of_preimage(&inputs),
            artifacts: boxed(record.artifacts.clone()),
            seconds: record.seconds as f32,
            signer,
        }
    }
}

/// The parts of a record that are looked at here; the others are skipped, not built.
#[derive(Deserialize)]
pub(super) struct Excerpt {
    format: u32,
    recipe_key: RecipeKey,
    content_key: ContentKey,
    content: ContentExcerpt,
    artifacts: BTreeMap<String, Artifact>,
    seconds: f64,
}

#[derive(Deserialize)]
struct ContentExcerpt {
    inputs: BTreeMap<String, OneOrMany>,
}

/// An input in a content preimage.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(ItemExcerpt),
    Many(Vec<ItemExcerpt>),
}

#[derive(Deserialize)]
struct ItemExcerpt {
    digest: Digest,
}

impl OneOrMany {
    fn digests(&self) -> impl Iterator<Item = Digest> {
        let items = match self {
            OneOrMany::One(item) => std::slice::from_ref(item),
            OneOrMany::Many(items) => items,
        };
        items.iter().map(|item| item.digest)
    }
}

/// What history keeps of a record, in its file.
#[derive(Deserialize)]
pub(super) struct SummaryExcerpt {
    format: u32,
    recipe_key: RecipeKey,
    kind: String,
    pipeline: String,
    stage: String,
    node: String,
    started: Timestamp,
    seconds: f64,
}

impl SummaryExcerpt {
    pub fn into_summary(self) -> Option<Summary> {
        (self.format == Record::FORMAT).then_some(Summary {
            recipe_key: self.recipe_key,
            kind: self.kind,
            pipeline: self.pipeline,
            stage: self.stage,
            node: self.node,
            started: self.started.0,
            seconds: self.seconds,
        })
    }
}

impl Excerpt {
    pub fn into_known(self, signer: Option<PublicKey>) -> Option<Known> {
        (self.format == Record::FORMAT).then(|| Known {
            recipe_key: self.recipe_key,
            content_key: self.content_key,
            inputs: InputsDigest::of_preimage(&self.content.inputs),
            artifacts: boxed(self.artifacts),
            seconds: self.seconds as f32,
            signer,
        })
    }
}

fn boxed(artifacts: BTreeMap<String, Artifact>) -> Box<[(Box<str>, Artifact)]> {
    artifacts
        .into_iter()
        .map(|(name, artifact)| (name.into_boxed_str(), artifact))
        .collect()
}
