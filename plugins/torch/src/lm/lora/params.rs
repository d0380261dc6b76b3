//! An adapter as a stage's parameters ask for it.

use std::path::Path;

use serde::Deserialize;
use tch::Kind;

use super::{AdapterConfig, Layers, Targets, begin};
use crate::lm::{CausalLm, Config, LmError};

/// The parameters of a new adapter, named as in TRL's `ModelConfig`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LoraParams {
    /// Whether there is an adapter at all; without one all weights are trained.
    pub use_peft: bool,
    /// Rank.
    pub lora_r: usize,
    pub lora_alpha: f64,
    /// Share of an adapter's inputs that are dropped in training, in [0, 1).
    pub lora_dropout: f64,
    /// Names of matrices; one alone may also be `all-linear` or a regular expression for the whole name, as in TRL.
    /// Absent: `q_proj` and `v_proj`, PEFT's choice for these architectures.
    pub lora_target_modules: Option<Vec<String>>,
    /// Whether the scaling is alpha / sqrt(r) instead of alpha / r (arXiv:2312.03732).
    pub use_rslora: bool,
}

impl LoraParams {
    /// Returns the config of the adapter, if there is to be one.
    ///
    /// # Errors
    /// `lora_target_modules` is empty, or not a regular expression; a number is out of its range.
    pub fn config(&self) -> Result<Option<AdapterConfig>, LmError> {
        if !self.use_peft {
            return Ok(None);
        }
        let config = AdapterConfig {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            use_rslora: self.use_rslora,
            lora_dropout: self.lora_dropout,
            target_modules: self.targets().map_err(LmError::Adapter)?,
            exclude_modules: None,
            layers: Layers::default(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            base_model_name_or_path: None,
        };
        config.check().map_err(LmError::Adapter)?;
        Ok(Some(config))
    }

    /// Returns the kind in which training loads the weights of a folder. What is trained is float32; weights beside an adapter
    /// stay as they are, so where `bf16` is computed in they need no float32 copy if the folder has them in bf16 already.
    ///
    /// # Errors
    /// The folder's config can't be read.
    pub fn base_kind(&self, model_dir: &Path, bf16: bool) -> Result<Kind, LmError> {
        let stays_bf16 = self.use_peft && bf16 && Config::read(model_dir)?.dtype == Kind::BFloat16;
        Ok(if stays_bf16 { Kind::BFloat16 } else { Kind::Float })
    }

    /// Puts a new adapter on a model; without `use_peft` there is none.
    ///
    /// # Errors
    /// As [`LoraParams::config`] and [`begin`].
    pub fn begin(&self, model: CausalLm, seed: u64) -> Result<(CausalLm, Option<AdapterConfig>), LmError> {
        match self.config()? {
            Some(config) => Ok((begin(&model, &config, seed)?, Some(config))),
            None => Ok((model, None)),
        }
    }

    fn targets(&self) -> Result<Targets, String> {
        match self.lora_target_modules.as_deref() {
            None => Ok(Targets::List(vec!["q_proj".to_owned(), "v_proj".to_owned()])),
            Some([]) => Err("lora_target_modules is empty; leave it out for q_proj and v_proj".to_owned()),
            // A name is tried first: as a regular expression `q_proj` would have to match a whole path.
            Some([one]) if one.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c)) => {
                Ok(Targets::List(vec![one.clone()]))
            }
            Some([one]) => Targets::from_text(one).map_err(|error| format!("lora_target_modules: {error}")),
            Some(list) => Ok(Targets::List(list.to_vec())),
        }
    }
}
