//! The Llama transformer: pre-norm decoder blocks with rotary grouped-query attention and a SwiGLU MLP.
//!
//! Agrees with transformers' `LlamaForCausalLM` (`modeling_llama.py`). Shapes use `B` rows, `T` tokens, `S` tokens
//! seen by attention, `H` hidden size, `Q` and `K` query and key/value heads, `D` head size, `V` vocabulary.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::LmError;
use super::config::{Config, RopeScaling};
use super::kv_cache::KvCache;

/// A Llama-family model with its weights on one device.
#[derive(Debug)]
pub struct Llama {
    pub config: Config,
    embed_tokens: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    /// Absent where the embeddings are tied.
    lm_head: Option<Tensor>,
    rope: Rope,
}

#[derive(Debug)]
struct Layer {
    input_layernorm: Tensor,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: Tensor,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// Tables of the rotary embedding, `[max_position_embeddings, D]` each, both halves of `D` equal.
#[derive(Debug)]
struct Rope {
    cos: Tensor,
    sin: Tensor,
}

/// Where the tokens of a forward pass stand, and what they may attend to.
#[derive(Default)]
pub struct Context<'a> {
    /// `[B, T]`; without it, each row's tokens stand behind those in the cache: `len .. len + T`.
    pub positions: Option<&'a Tensor>,
    /// Boolean `[B, 1, T, S]`, true where attention may look; without it, attention is causal.
    pub mask: Option<&'a Tensor>,
    pub cache: Option<&'a mut KvCache>,
}

impl Llama {
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
        let shapes: HashMap<String, Vec<i64>> = expected_shapes(&config).into_iter().collect();
        let take = |name: &str| -> Result<Tensor, LmError> {
            let tensor = tensors
                .get(name)
                .ok_or_else(|| LmError::Torch(format!("the weights lack the tensor {name}")))?;
            let (got, wanted) = (tensor.size(), &shapes[name]);
            if got != *wanted {
                return Err(LmError::Torch(format!(
                    "tensor {name} has shape {got:?}, config.json asks for {wanted:?}"
                )));
            }
            Ok(tensor.to_device(device).to_kind(kind))
        };
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for idx in 0..config.num_hidden_layers {
            let tensor = |name: &str| take(&format!("model.layers.{idx}.{name}.weight"));
            let linear = |name: &str| -> Result<Linear, LmError> {
                let bias = format!("model.layers.{idx}.{name}.bias");
                let bias = shapes.contains_key(&bias).then(|| take(&bias)).transpose()?;
                Ok(Linear {
                    weight: tensor(name)?,
                    bias,
                })
            };
            layers.push(Layer {
                input_layernorm: tensor("input_layernorm")?,
                q_proj: linear("self_attn.q_proj")?,
                k_proj: linear("self_attn.k_proj")?,
                v_proj: linear("self_attn.v_proj")?,
                o_proj: linear("self_attn.o_proj")?,
                post_attention_layernorm: tensor("post_attention_layernorm")?,
                gate_proj: linear("mlp.gate_proj")?,
                up_proj: linear("mlp.up_proj")?,
                down_proj: linear("mlp.down_proj")?,
            });
        }
        Ok(Self {
            embed_tokens: take("model.embed_tokens.weight")?,
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
            push("input_layernorm.weight", &layer.input_layernorm);
            let linears = [
                ("self_attn.q_proj", &layer.q_proj),
                ("self_attn.k_proj", &layer.k_proj),
                ("self_attn.v_proj", &layer.v_proj),
                ("self_attn.o_proj", &layer.o_proj),
                ("mlp.gate_proj", &layer.gate_proj),
                ("mlp.up_proj", &layer.up_proj),
                ("mlp.down_proj", &layer.down_proj),
            ];
            for (name, linear) in linears {
                push(&format!("{name}.weight"), &linear.weight);
                if let Some(bias) = &linear.bias {
                    push(&format!("{name}.bias"), bias);
                }
            }
            push("post_attention_layernorm.weight", &layer.post_attention_layernorm);
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
        let tensors = self.named_parameters().into_iter().collect();
        Self::from_tensors(self.config.clone(), &tensors, self.device(), self.kind())
            .expect("a model's own parameters have the shapes of its config")
    }

    /// Returns a model over the same weights whose gradients are its own, and turned on.
    #[must_use]
    pub fn trainable_alias(&self) -> Self {
        let alias = |(name, tensor): (String, Tensor)| (name, tensor.detach().set_requires_grad(true));
        let tensors = self.named_parameters().into_iter().map(alias).collect();
        Self::from_tensors(self.config.clone(), &tensors, self.device(), self.kind())
            .expect("a model's own parameters have the shapes of its config")
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

    /// Returns the hidden states after the last norm, `[B, T, H]`, for `input_ids` `[B, T]`.
    pub fn hidden_states(&self, input_ids: &Tensor, mut context: Context<'_>) -> Tensor {
        let num_tokens = input_ids.size()[1];
        let (cos, sin) = self.rope_at(num_tokens, &context);
        let mut x = Tensor::embedding(&self.embed_tokens, input_ids, -1, false, false);
        for (idx, layer) in self.layers.iter().enumerate() {
            let normed = self.rms_norm(&x, &layer.input_layernorm);
            // Not `+=`, which would change in place what the backward pass needs.
            let attended = &x + self.attention(layer, idx, &normed, &cos, &sin, &mut context);
            let normed = self.rms_norm(&attended, &layer.post_attention_layernorm);
            let gated = layer.gate_proj.forward(&normed).silu() * layer.up_proj.forward(&normed);
            x = attended + layer.down_proj.forward(&gated);
        }
        if let Some(cache) = context.cache {
            cache.advance(num_tokens);
        }
        self.rms_norm(&x, &self.norm)
    }

    /// Returns logits `[.., V]` for hidden states `[.., H]`.
    pub fn logits(&self, hidden_states: &Tensor) -> Tensor {
        hidden_states.linear(self.lm_head.as_ref().unwrap_or(&self.embed_tokens), None::<Tensor>)
    }

    fn attention(
        &self,
        layer: &Layer,
        layer_idx: usize,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        context: &mut Context<'_>,
    ) -> Tensor {
        let c = &self.config;
        let (rows, tokens) = (x.size()[0], x.size()[1]);
        let heads = |t: Tensor, count: i64| t.view([rows, tokens, count, c.head_dim]).transpose(1, 2);
        let q = rotate(&heads(layer.q_proj.forward(x), c.num_attention_heads), cos, sin); // [B, Q, T, D]
        let mut k = rotate(&heads(layer.k_proj.forward(x), c.num_key_value_heads), cos, sin); // [B, K, T, D]
        let mut v = heads(layer.v_proj.forward(x), c.num_key_value_heads);
        if let Some(cache) = context.cache.as_mut() {
            (k, v) = cache.append(layer_idx, &k, &v); // [B, K, S, D]
        }
        let is_causal = context.mask.is_none() && tokens > 1;
        let grouped = c.num_attention_heads != c.num_key_value_heads;
        let out = Tensor::scaled_dot_product_attention(&q, &k, &v, context.mask, 0.0, is_causal, None, grouped);
        layer.o_proj.forward(&out.transpose(1, 2).reshape([rows, tokens, -1]))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        x.rms_norm([self.config.hidden_size], Some(weight), self.config.rms_norm_eps)
    }

    /// Returns cos and sin, `[T, D]` or, for positions of their own, `[B, 1, T, D]`.
    fn rope_at(&self, num_tokens: i64, context: &Context<'_>) -> (Tensor, Tensor) {
        let Rope { cos, sin } = &self.rope;
        match context.positions {
            Some(positions) => {
                let at = |table: &Tensor| {
                    let shape = [positions.size()[0], 1, num_tokens, self.config.head_dim];
                    table.index_select(0, &positions.reshape([-1])).view(shape)
                };
                (at(cos), at(sin))
            }
            None => {
                let start = context.cache.as_ref().map_or(0, |cache| cache.len());
                (cos.narrow(0, start, num_tokens), sin.narrow(0, start, num_tokens))
            }
        }
    }
}

impl Rope {
    fn new(config: &Config, device: Device, kind: Kind) -> Self {
        let options = (Kind::Float, device);
        let positions = Tensor::arange(config.max_position_embeddings, options);
        let angles = positions.outer(&Tensor::from_slice(&inverse_frequencies(config)).to_device(device));
        let angles = Tensor::cat(&[&angles, &angles], -1);
        Self {
            cos: angles.cos().to_kind(kind),
            sin: angles.sin().to_kind(kind),
        }
    }
}

/// Returns the `D / 2` rotary frequencies in radians per position.
pub fn inverse_frequencies(config: &Config) -> Vec<f32> {
    (0..config.head_dim / 2)
        .map(|idx| {
            let frequency = 1.0 / config.rope_theta.powf(2.0 * idx as f64 / config.head_dim as f64);
            scale_frequency(frequency, config.rope_scaling) as f32
        })
        .collect()
}

fn scale_frequency(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
        } => {
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            if wavelength < original / high_freq_factor {
                frequency
            } else if wavelength > original / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// Applies the rotary embedding to `x` `[B, heads, T, D]`, halves rotated against each other as transformers does.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let halves = x.chunk(2, -1);
    let turned = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
    x * cos + turned * sin
}

/// The name and shape of each tensor that a config asks for.
fn expected_shapes(c: &Config) -> Vec<(String, Vec<i64>)> {
    let (hidden, mlp) = (c.hidden_size, c.intermediate_size);
    let (q_size, kv_size) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![c.vocab_size, hidden])];
    for idx in 0..c.num_hidden_layers {
        let linears = [
            ("self_attn.q_proj", q_size, hidden, c.attention_bias),
            ("self_attn.k_proj", kv_size, hidden, c.attention_bias),
            ("self_attn.v_proj", kv_size, hidden, c.attention_bias),
            ("self_attn.o_proj", hidden, q_size, c.attention_bias),
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
    }
    shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !c.tie_word_embeddings {
        shapes.push(("lm_head.weight".to_owned(), vec![c.vocab_size, hidden]));
    }
    shapes
}
