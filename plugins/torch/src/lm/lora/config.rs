//! `adapter_config.json`: which matrices an adapter stands beside, and with which rank and scaling.
//!
//! PEFT's `LoraConfig`. What changes the numbers and is not known here is refused by its name, never ignored.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::targets::{Layers, Pattern, Targets};
use crate::lm::config::Fields;
use crate::lm::{LmError, files};

/// The file's name in an adapter's folder.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// Bytes of a config that is worth reading.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// The settings of an adapter, named as in PEFT.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    pub r: usize,
    pub lora_alpha: f64,
    /// Whether the scaling is `lora_alpha / sqrt(r)` instead of `lora_alpha / r` (arXiv:2312.03732).
    pub use_rslora: bool,
    /// In [0, 1); matters in training only.
    pub lora_dropout: f64,
    pub target_modules: Targets,
    pub exclude_modules: Option<Targets>,
    pub layers: Layers,
    /// Ranks of modules that differ from `r`.
    pub rank_pattern: Vec<(Pattern, usize)>,
    /// Alphas of modules that differ from `lora_alpha`.
    pub alpha_pattern: Vec<(Pattern, f64)>,
    /// Only for people to read.
    pub base_model_name_or_path: Option<String>,
}

/// Settings that change nothing for a finished adapter: notes, and how it was initialized.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "megatron_core",
    "qalora_group_size",
    "eva_config",
    "loftq_config",
    "runtime_config",
    "ensure_weight_tying",
];

/// Settings that [`AdapterConfig`] reads.
const READ: &[&str] = &[
    "peft_type",
    "task_type",
    "init_lora_weights",
    "bias",
    "r",
    "lora_alpha",
    "use_rslora",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
];

/// Ways to begin that leave the base model as it is; the others change it, so that the adapter alone is not enough.
const PLAIN_STARTS: &[&str] = &["gaussian", "eva", "orthogonal"];

impl AdapterConfig {
    /// Reads the config of an adapter's folder.
    ///
    /// # Errors
    /// The file is missing or broken, or asks for something that is not supported.
    pub fn read(dir: &Path) -> Result<Self, LmError> {
        let path = dir.join(CONFIG_FILE);
        let object = files::read_json_object(&path, MAX_CONFIG_BYTES)?;
        Self::parse(&object).map_err(|message| files::invalid(&path, message))
    }

    fn parse(object: &Map<String, Value>) -> Result<Self, String> {
        refuse_what_is_not_supported(object)?;
        let fields = Fields::new(object, "");
        let r = fields.typed("r", "a positive integer", rank)?.unwrap_or(8);
        let config = Self {
            r,
            lora_alpha: fields.typed("lora_alpha", "a number", Value::as_f64)?.unwrap_or(8.0),
            use_rslora: fields.flag("use_rslora")?,
            lora_dropout: fields.typed("lora_dropout", "a number", Value::as_f64)?.unwrap_or(0.0),
            target_modules: targets(&fields, "target_modules")?
                .ok_or("target_modules is missing; expected a list of module names or a regular expression")?,
            exclude_modules: targets(&fields, "exclude_modules")?,
            layers: Layers {
                indices: indices(&fields, "layers_to_transform")?,
                patterns: strings(&fields, "layers_pattern")?.unwrap_or_default(),
            },
            rank_pattern: pattern(&fields, "rank_pattern", rank)?,
            alpha_pattern: pattern(&fields, "alpha_pattern", Value::as_f64)?,
            base_model_name_or_path: fields
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .map(str::to_owned),
        };
        config.check()?;
        Ok(config)
    }

    /// Says what is wrong with the numbers, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.r == 0 {
            return Err("r is 0, expected a positive rank".to_owned());
        }
        if !self.lora_alpha.is_finite() {
            return Err(format!("lora_alpha is {}, expected a finite number", self.lora_alpha));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(format!(
                "lora_dropout is {}, expected at least 0 and below 1",
                self.lora_dropout
            ));
        }
        Ok(())
    }

    /// Whether a module, named as `model.layers.0.mlp.up_proj`, gets an adapter.
    pub fn is_target(&self, module: &str) -> bool {
        let is_excluded = |targets: &Targets| targets.matches(module);
        if self.exclude_modules.as_ref().is_some_and(is_excluded) || !self.target_modules.matches(module) {
            return false;
        }
        // As in PEFT, layers_to_transform narrows down a list and leaves a regular expression alone.
        !self.target_modules.is_list() || self.layers.contain(module)
    }

    /// The rank of a module's adapter.
    pub fn rank(&self, module: &str) -> usize {
        let own = self.rank_pattern.iter().find(|(pattern, _)| pattern.matches(module));
        own.map_or(self.r, |(_, rank)| *rank)
    }

    /// What the product of a module's two matrices is multiplied by.
    pub fn scaling(&self, module: &str) -> f64 {
        let own = self.alpha_pattern.iter().find(|(pattern, _)| pattern.matches(module));
        let alpha = own.map_or(self.lora_alpha, |(_, alpha)| *alpha);
        let rank = self.rank(module) as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// Writes the file so that PEFT's `PeftModel.from_pretrained` takes it.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, dir: &Path) -> Result<(), LmError> {
        files::write_json(&dir.join(CONFIG_FILE), &self.to_json())
    }

    fn to_json(&self) -> Value {
        let ranks: Map<String, Value> = pattern_to_json(&self.rank_pattern, |&rank| rank.into());
        let alphas: Map<String, Value> = pattern_to_json(&self.alpha_pattern, |&alpha| number_to_json(alpha));
        json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base_model_name_or_path,
            "inference_mode": true,
            "init_lora_weights": true,
            "bias": "none",
            "fan_in_fan_out": false,
            "r": self.r,
            "lora_alpha": number_to_json(self.lora_alpha),
            "use_rslora": self.use_rslora,
            "use_dora": false,
            "lora_dropout": self.lora_dropout,
            "target_modules": self.target_modules.to_json(),
            "exclude_modules": self.exclude_modules.as_ref().map(Targets::to_json),
            "layers_to_transform": self.layers.indices,
            "layers_pattern": (!self.layers.patterns.is_empty()).then(|| json!(self.layers.patterns)),
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "modules_to_save": null,
        })
    }
}

fn pattern_to_json<T>(pattern: &[(Pattern, T)], value: impl Fn(&T) -> Value) -> Map<String, Value> {
    pattern
        .iter()
        .map(|(pattern, own)| (pattern.text().to_owned(), value(own)))
        .collect()
}

/// PEFT writes whole alphas as integers.
fn number_to_json(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        (number as i64).into()
    } else {
        number.into()
    }
}

fn refuse_what_is_not_supported(object: &Map<String, Value>) -> Result<(), String> {
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let peft_type = text("peft_type").unwrap_or_default();
    if peft_type != "LORA" {
        return Err(format!("peft_type is {peft_type:?}; only \"LORA\" is supported"));
    }
    if let Some(task) = text("task_type").filter(|&task| task != "CAUSAL_LM") {
        return Err(format!("task_type is {task:?}; only \"CAUSAL_LM\" is supported"));
    }
    if let Some(bias) = text("bias").filter(|&bias| bias != "none") {
        return Err(format!("bias is {bias:?}; only \"none\" is supported"));
    }
    if let Some(start) = text("init_lora_weights").filter(|start| !PLAIN_STARTS.contains(start)) {
        return Err(format!(
            "init_lora_weights is {start:?}, which changes the base model; convert the adapter with PEFT's \
             path_initial_model_for_weight_conversion first"
        ));
    }
    let unknown = object
        .iter()
        .find(|(name, value)| !READ.contains(&name.as_str()) && !HARMLESS.contains(&name.as_str()) && !is_off(value));
    match unknown {
        Some((name, value)) => Err(format!("{name} is {value}, which is not supported")),
        None => Ok(()),
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}

/// A list of strings, or one string.
fn strings(fields: &Fields<'_>, name: &str) -> Result<Option<Vec<String>>, String> {
    fields.typed(name, "a string or a list of strings", |value| match value {
        Value::String(text) => Some(vec![text.clone()]),
        other => string_list(other),
    })
}

fn indices(fields: &Fields<'_>, name: &str) -> Result<Option<Vec<u64>>, String> {
    fields.typed(name, "a layer's index or a list of them", |value| match value {
        Value::Array(list) => list.iter().map(Value::as_u64).collect(),
        other => other.as_u64().map(|idx| vec![idx]),
    })
}

fn targets(fields: &Fields<'_>, name: &str) -> Result<Option<Targets>, String> {
    match fields.get(name) {
        Some(Value::String(text)) => Targets::from_text(text)
            .map(Some)
            .map_err(|error| format!("{name}: {error}")),
        _ => Ok(fields
            .typed(name, "a list of strings or a string", string_list)?
            .map(Targets::List)),
    }
}

fn pattern<T>(
    fields: &Fields<'_>,
    name: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(Pattern, T)>, String> {
    let object = fields.typed(name, "an object of module patterns and numbers", Value::as_object)?;
    object
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            let pattern = Pattern::new(key).map_err(|error| format!("{name}: {error}"))?;
            let value = read(value).ok_or_else(|| format!("{name}: {key:?} is {value}, expected a number"))?;
            Ok((pattern, value))
        })
        .collect()
}

fn rank(value: &Value) -> Option<usize> {
    value.as_u64().filter(|&r| r > 0).map(|r| r as usize)
}

fn string_list(value: &Value) -> Option<Vec<String>> {
    let list = value.as_array()?;
    list.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}
