//! The decoder of the Llama family: pre-norm blocks with rotary grouped-query attention and a SwiGLU MLP.
//!
//! One transformer serves Llama, Mistral, Qwen2 and Qwen3, which differ in biases, in norms of queries and keys, and in
//! sliding windows; agrees with transformers' `modeling_{llama,mistral,qwen2,qwen3}.py`. Tokens are computed as flat
//! lists without padding; see [`attention`]. Shapes use `N` tokens, `H` hidden size, `Q` and `K` query and key/value
//! heads, `D` head size, `V` vocabulary.

mod adapters;
pub mod attention;
pub mod linear;
pub mod rope;
pub mod shared_prefix;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use self::attention::Attend;
use self::linear::Linear;
use self::rope::{Rope, rotate};
use super::LmError;
use super::config::Config;

/// A language model with its weights on one device.
#[derive(Debug)]
pub struct CausalLm {
    pub config: Config,
    pub(in crate::lm) embed_tokens: Tensor,
    pub(in crate::lm) layers: Vec<Layer>,
    pub(in crate::lm) norm: Tensor,
    /// Absent where the embeddings are tied.
    pub(in crate::lm) lm_head: Option<Tensor>,
    rope: Rope,
}

/// One decoder block.
#[derive(Debug)]
pub(in crate::lm) struct Layer {
    pub input_layernorm: Tensor,
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    /// `[D]`, Qwen3 only.
    pub q_norm: Option<Tensor>,
    /// `[D]`, Qwen3 only.
    pub k_norm: Option<Tensor>,
    pub post_attention_layernorm: Tensor,
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

impl Layer {
    /// The matrices with their names in Hugging Face's files.
    pub fn linears(&self) -> [(&'static str, &Linear); 7] {
        [
            ("self_attn.q_proj", &self.q_proj),
            ("self_attn.k_proj", &self.k_proj),
            ("self_attn.v_proj", &self.v_proj),
            ("self_attn.o_proj", &self.o_proj),
            ("mlp.gate_proj", &self.gate_proj),
            ("mlp.up_proj", &self.up_proj),
            ("mlp.down_proj", &self.down_proj),
        ]
    }

    /// The norms with their names in Hugging Face's files.
    pub fn norms(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        let optional = [("self_attn.q_norm", &self.q_norm), ("self_attn.k_norm", &self.k_norm)];
        [
            ("input_layernorm", &self.input_layernorm),
            ("post_attention_layernorm", &self.post_attention_layernorm),
        ]
        .into_iter()
        .chain(
            optional
                .into_iter()
                .filter_map(|(name, norm)| Some((name, norm.as_ref()?))),
        )
    }

    fn map(&self, replace: &impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            input_layernorm: replace(&self.input_layernorm),
            q_proj: self.q_proj.map(replace),
            k_proj: self.k_proj.map(replace),
            v_proj: self.v_proj.map(replace),
            o_proj: self.o_proj.map(replace),
            q_norm: self.q_norm.as_ref().map(replace),
            k_norm: self.k_norm.as_ref().map(replace),
            post_attention_layernorm: replace(&self.post_attention_layernorm),
            gate_proj: self.gate_proj.map(replace),
            up_proj: self.up_proj.map(replace),
            down_proj: self.down_proj.map(replace),
        }
    }
}

impl CausalLm {
    /// Builds a model from tensors with Hugging Face's names, moved to `device` and `kind`.
    ///
    /// # Errors
    /// A tensor is missing, or of another shape than the config says.
    pub fn from_tensors(
        config: Config,
        tensors: &HashMap<String, Tensor>,
        device: Device,
        kind: Kind,
    ) -> Result<Self, LmError> {
        Self::build(config, device, kind, |name, wanted| {
            let tensor = tensors
                .get(name)
                .ok_or_else(|| LmError::Torch(format!("the weights lack the tensor {name}")))?;
            let got = tensor.size();
            if got == wanted {
                Ok(tensor.to_device(device).to_kind(kind))
            } else {
                let message = format!("tensor {name} has shape {got:?}, config.json asks for {wanted:?}");
                Err(LmError::Torch(message))
            }
        })
    }

    /// Builds a model from the tensors that `source` gives for a name and a shape, on `device` and in `kind` already.
    ///
    /// # Errors
    /// Those of `source`.
    pub(in crate::lm) fn build(
        config: Config,
        device: Device,
        kind: Kind,
        mut source: impl FnMut(&str, &[i64]) -> Result<Tensor, LmError>,
    ) -> Result<Self, LmError> {
        let shapes: HashMap<String, Vec<i64>> = expected_shapes(&config).into_iter().collect();
        let mut take = |name: &str| source(name, &shapes[name]);
        // The embeddings first: the largest tensor, whose conversion must not come on top of all others.
        let embed_tokens = take("model.embed_tokens.weight")?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for idx in 0..config.num_hidden_layers {
            let mut tensor = |name: &str| take(&format!("model.layers.{idx}.{name}"));
            let mut linear = |name: &str| -> Result<Linear, LmError> {
                let bias = format!("{name}.bias");
                let has_bias = shapes.contains_key(&format!("model.layers.{idx}.{bias}"));
                Ok(Linear {
                    weight: tensor(&format!("{name}.weight"))?,
                    bias: has_bias.then(|| tensor(&bias)).transpose()?,
                    adapter: None,
                })
            };
            let (q_proj, k_proj) = (linear("self_attn.q_proj")?, linear("self_attn.k_proj")?);
            let (v_proj, o_proj) = (linear("self_attn.v_proj")?, linear("self_attn.o_proj")?);
            let (gate_proj, up_proj) = (linear("mlp.gate_proj")?, linear("mlp.up_proj")?);
            let down_proj = linear("mlp.down_proj")?;
            let mut norm = |name: &str| tensor(&format!("{name}.weight"));
            let mut optional = |name: &str| config.qk_norm.then(|| norm(name)).transpose();
            layers.push(Layer {
                q_norm: optional("self_attn.q_norm")?,
                k_norm: optional("self_attn.k_norm")?,
                input_layernorm: norm("input_layernorm")?,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                q_proj,
                k_proj,
                v_proj,
                o_proj,
                gate_proj,
                up_proj,
                down_proj,
            });
        }
        Ok(Self {
            embed_tokens,
            layers,
            norm: take("model.norm.weight")?,
            lm_head: (!config.tie_word_embeddings)
                .then(|| take("lm_head.weight"))
                .transpose()?,
            rope: Rope::new(&config, device, kind),
            config,
        })
    }

    /// Returns a model whose matrices are drawn from a normal distribution (`initializer_range`) and whose norms are 1.
    pub fn random(config: Config, seed: u64, device: Device) -> Result<Self, LmError> {
        let deviation = config
            .raw
            .get("initializer_range")
            .and_then(serde_json::Value::as_f64)
            .unwrap_or(0.02);
        // libtorch has one generator for all threads: whoever seeds it must be the only one to draw.
        static GENERATOR: Mutex<()> = Mutex::new(());
        let generator = GENERATOR.lock().unwrap_or_else(PoisonError::into_inner);
        tch::manual_seed(seed as i64);
        let tensors = expected_shapes(&config)
            .into_iter()
            .map(|(name, shape)| {
                let options = (Kind::Float, Device::Cpu);
                let tensor = match shape.len() {
                    1 if name.ends_with("bias") => Tensor::zeros(&shape, options),
                    1 => Tensor::ones(&shape, options),
                    _ => Tensor::randn(&shape, options) * deviation,
                };
                (name, tensor)
            })
            .collect();
        drop(generator);
        Self::from_tensors(config, &tensors, device, Kind::Float)
    }

    /// Returns every parameter with Hugging Face's name, in the order of the layers; the tensors share storage.
    pub fn named_parameters(&self) -> Vec<(String, Tensor)> {
        let mut list = vec![(
            "model.embed_tokens.weight".to_owned(),
            self.embed_tokens.shallow_clone(),
        )];
        for (idx, layer) in self.layers.iter().enumerate() {
            let mut push = |name: &str, tensor: &Tensor| {
                list.push((format!("model.layers.{idx}.{name}"), tensor.shallow_clone()));
            };
            for (name, linear) in layer.linears() {
                push(&format!("{name}.weight"), &linear.weight);
                if let Some(bias) = &linear.bias {
                    push(&format!("{name}.bias"), bias);
                }
            }
            for (name, norm) in layer.norms() {
                push(&format!("{name}.weight"), norm);
            }
        }
        list.push(("model.norm.weight".to_owned(), self.norm.shallow_clone()));
        list.extend(
            self.lm_head
                .iter()
                .map(|head| ("lm_head.weight".to_owned(), head.shallow_clone())),
        );
        list
    }

    /// Returns a model over the same weights, for another thread: tensors can be sent, not shared.
    #[must_use]
    pub fn share(&self) -> Self {
        self.map(&Tensor::shallow_clone)
    }

    /// Returns a model over the same weights whose gradients are its own, and turned on for what is trained.
    #[must_use]
    pub fn trainable_alias(&self) -> Self {
        let alias = self.map(&Tensor::detach);
        for (_, tensor) in alias.trainable_parameters() {
            let _ = tensor.set_requires_grad(true);
        }
        alias
    }

    /// Returns the parameters that training changes, by name: those of the adapters where there are any, else all.
    pub fn trainable_parameters(&self) -> Vec<(String, Tensor)> {
        let adapters = self.adapter_parameters();
        if adapters.is_empty() {
            self.named_parameters()
        } else {
            adapters
        }
    }

    /// Returns the matrices of the adapters, named as in PEFT's files without their `base_model.model.` in front.
    pub fn adapter_parameters(&self) -> Vec<(String, Tensor)> {
        let mut list = Vec::new();
        for (idx, layer) in self.layers.iter().enumerate() {
            for (name, linear) in layer.linears() {
                if let Some(adapter) = &linear.adapter {
                    let name = format!("model.layers.{idx}.{name}");
                    list.push((format!("{name}.lora_A.weight"), adapter.a.shallow_clone()));
                    list.push((format!("{name}.lora_B.weight"), adapter.b.shallow_clone()));
                }
            }
        }
        list
    }

    /// Returns a model with every weight replaced; the tables of the rotary embedding are shared.
    fn map(&self, replace: &impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            config: self.config.clone(),
            embed_tokens: replace(&self.embed_tokens),
            layers: self.layers.iter().map(|layer| layer.map(replace)).collect(),
            norm: replace(&self.norm),
            lm_head: self.lm_head.as_ref().map(replace),
            rope: self.rope.share(),
        }
    }

    /// Returns a copy whose weights, and tables of the rotary embedding, are of another kind.
    #[must_use]
    pub fn to_kind(&self, kind: Kind) -> Self {
        Self {
            rope: Rope::new(&self.config, self.device(), kind),
            ..self.map(&|tensor| tensor.detach().to_kind(kind))
        }
    }

    pub fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    pub fn kind(&self) -> Kind {
        self.embed_tokens.kind()
    }

    pub fn num_parameters(&self) -> i64 {
        self.named_parameters()
            .iter()
            .map(|(_, tensor)| tensor.numel() as i64)
            .sum()
    }

    /// Returns the hidden states after the last norm, `[N, H]`, of tokens `input_ids` `[N]` at `positions` `[N]`.
    pub fn hidden_states(&self, input_ids: &Tensor, positions: &Tensor, attend: &mut dyn Attend) -> Tensor {
        let rotation = self.rope.at(positions);
        let mut x = self.embed(input_ids);
        for layer_idx in 0..self.layers.len() {
            x = self.layer(layer_idx, &x, &rotation, attend);
        }
        self.final_norm(&x)
    }

    /// Returns the embeddings `[N, H]` of `input_ids` `[N]`: the input of the first layer.
    pub fn embed(&self, input_ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.embed_tokens, input_ids, -1, false, false)
    }

    /// Returns the cosines and sines that [`CausalLm::layer`] needs for tokens at `positions` `[N]`.
    pub fn rotation(&self, positions: &Tensor) -> (Tensor, Tensor) {
        self.rope.at(positions)
    }

    /// Returns the output `[N, H]` of one layer for its input `[N, H]`.
    pub fn layer(&self, layer_idx: usize, x: &Tensor, rotation: &(Tensor, Tensor), attend: &mut dyn Attend) -> Tensor {
        let layer = &self.layers[layer_idx];
        let normed = self.rms_norm(x, &layer.input_layernorm);
        // Not `+=`, which would change in place what the backward pass needs.
        let attended = x + self.attention(layer_idx, &normed, rotation, attend);
        let normed = self.rms_norm(&attended, &layer.post_attention_layernorm);
        let (gate, up) = (layer.gate_proj.forward(&normed), layer.up_proj.forward(&normed));
        attended + layer.down_proj.forward_gated(&gate, &up)
    }

    /// Returns the hidden states `[N, H]` that [`CausalLm::logits`] takes, from the output of the last layer.
    pub fn final_norm(&self, x: &Tensor) -> Tensor {
        self.rms_norm(x, &self.norm)
    }

    /// Returns logits `[.., V]` for hidden states `[.., H]`.
    pub fn logits(&self, hidden_states: &Tensor) -> Tensor {
        hidden_states.linear(self.output_weight(), None::<Tensor>)
    }

    /// The matrix `[V, H]` of the logits.
    pub fn output_weight(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    fn attention(
        &self,
        layer_idx: usize,
        x: &Tensor,
        (cos, sin): &(Tensor, Tensor),
        attend: &mut dyn Attend,
    ) -> Tensor {
        let (c, layer) = (&self.config, &self.layers[layer_idx]);
        let heads = |t: Tensor, count: i64| t.view([-1, count, c.head_dim]);
        let normed = |t: Tensor, norm: &Option<Tensor>| match norm {
            Some(weight) => self.rms_norm(&t, weight),
            None => t,
        };
        let q = normed(heads(layer.q_proj.forward(x), c.num_attention_heads), &layer.q_norm); // [N, Q, D]
        let k = normed(heads(layer.k_proj.forward(x), c.num_key_value_heads), &layer.k_norm); // [N, K, D]
        let v = heads(layer.v_proj.forward(x), c.num_key_value_heads);
        let (q, k) = (rotate(&q, cos, sin), rotate(&k, cos, sin));
        let out = attend.attend(layer_idx, q, k, v, c.sliding_windows[layer_idx]);
        layer.o_proj.forward(&out.flatten(1, 2))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        x.rms_norm(weight.size(), Some(weight), self.config.rms_norm_eps)
    }
}

/// The name and shape of each tensor that a config asks for.
pub(in crate::lm) fn expected_shapes(c: &Config) -> Vec<(String, Vec<i64>)> {
    let (hidden, mlp) = (c.hidden_size, c.intermediate_size);
    let (q_size, kv_size) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![c.vocab_size, hidden])];
    for idx in 0..c.num_hidden_layers {
        let linears = [
            ("self_attn.q_proj", q_size, hidden, c.qkv_bias),
            ("self_attn.k_proj", kv_size, hidden, c.qkv_bias),
            ("self_attn.v_proj", kv_size, hidden, c.qkv_bias),
            ("self_attn.o_proj", hidden, q_size, c.o_bias),
            ("mlp.gate_proj", mlp, hidden, c.mlp_bias),
            ("mlp.up_proj", mlp, hidden, c.mlp_bias),
            ("mlp.down_proj", hidden, mlp, c.mlp_bias),
        ];
        for (name, out, input, bias) in linears {
            shapes.push((format!("model.layers.{idx}.{name}.weight"), vec![out, input]));
            if bias {
                shapes.push((format!("model.layers.{idx}.{name}.bias"), vec![out]));
            }
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            shapes.push((format!("model.layers.{idx}.{name}.weight"), vec![hidden]));
        }
        if c.qk_norm {
            for name in ["self_attn.q_norm", "self_attn.k_norm"] {
                shapes.push((format!("model.layers.{idx}.{name}.weight"), vec![c.head_dim]));
            }
        }
    }
    shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !c.tie_word_embeddings {
        shapes.push(("lm_head.weight".to_owned(), vec![c.vocab_size, hidden]));
    }
    shapes
}
