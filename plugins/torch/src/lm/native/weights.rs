//! The weights of a model as addresses.
//!
//! Nothing is copied: what an optimizer writes into them is seen by the next step.

use tch::{Device, Kind, Tensor};

use crate::lm::CausalLm;
use crate::lm::model::{self, linear};

/// Weights of a decoder, borrowed from a [`CausalLm`] that must outlive them.
#[derive(Debug)]
pub struct Weights {
    pub embed_tokens: Array,
    pub layers: Vec<Layer>,
    pub norm: Array,
    pub output: Array,
}

/// A contiguous tensor of f32.
#[derive(Debug, Clone, Copy)]
pub struct Array {
    pub start: *const f32,
    /// The first dimension.
    pub num_rows: usize,
    /// The second one; 1 for vectors.
    pub width: usize,
}

// SAFETY: only read, through unsafe code; training writes it between steps, not during one.
unsafe impl Send for Array {}
// SAFETY: as above.
unsafe impl Sync for Array {}

impl Array {
    /// The address of a row.
    pub fn row(self, idx: usize) -> *const f32 {
        assert!(idx < self.num_rows, "row {idx} of {}", self.num_rows);
        // SAFETY: within the tensor, as checked.
        unsafe { self.start.add(idx * self.width) }
    }
}

#[derive(Debug)]
pub struct Layer {
    pub input_layernorm: Array,
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    pub q_norm: Option<Array>,
    pub k_norm: Option<Array>,
    pub post_attention_layernorm: Array,
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Array,
    pub bias: Option<Array>,
    pub adapter: Option<Adapter>,
}

#[derive(Debug, Clone, Copy)]
pub struct Adapter {
    /// `[r, in]`
    pub a: Array,
    /// `[out, r]`
    pub b: Array,
    pub scaling: f32,
}

impl Weights {
    /// Borrows the weights of a model; nothing unless all of them are contiguous f32 on the CPU.
    pub fn borrow(model: &CausalLm) -> Option<Self> {
        let embed_tokens = array(&model.embed_tokens)?;
        let output = match &model.lm_head {
            Some(head) => array(head)?,
            None => embed_tokens,
        };
        let norm = array(&model.norm)?;
        let layers = model.layers.iter().map(borrow_layer).collect::<Option<_>>()?;
        Some(Self {
            embed_tokens,
            layers,
            norm,
            output,
        })
    }

    /// The greatest rank of an adapter; 0 where there is none.
    pub fn max_rank(&self) -> usize {
        let linears = self.layers.iter().flat_map(Layer::linears);
        let ranks = linears.filter_map(|linear| Some(linear.adapter?.a.num_rows));
        ranks.max().unwrap_or(0)
    }

    /// The matrices: most of the memory that a step reads.
    pub fn arrays(&self) -> impl Iterator<Item = Array> {
        let linears = self.layers.iter().flat_map(Layer::linears);
        [self.embed_tokens, self.output]
            .into_iter()
            .chain(linears.map(|linear| linear.weight))
    }
}

impl Layer {
    fn linears(&self) -> [Linear; 7] {
        [
            self.q_proj,
            self.k_proj,
            self.v_proj,
            self.o_proj,
            self.gate_proj,
            self.up_proj,
            self.down_proj,
        ]
    }
}

fn borrow_layer(layer: &model::Layer) -> Option<Layer> {
    Some(Layer {
        input_layernorm: array(&layer.input_layernorm)?,
        q_proj: linear(&layer.q_proj)?,
        k_proj: linear(&layer.k_proj)?,
        v_proj: linear(&layer.v_proj)?,
        o_proj: linear(&layer.o_proj)?,
        q_norm: optional(layer.q_norm.as_ref())?,
        k_norm: optional(layer.k_norm.as_ref())?,
        post_attention_layernorm: array(&layer.post_attention_layernorm)?,
        gate_proj: linear(&layer.gate_proj)?,
        up_proj: linear(&layer.up_proj)?,
        down_proj: linear(&layer.down_proj)?,
    })
}

fn linear(from: &linear::Linear) -> Option<Linear> {
    let adapter = match &from.adapter {
        Some(adapter) => Some(Adapter {
            a: array(&adapter.a)?,
            b: array(&adapter.b)?,
            scaling: adapter.scaling as f32,
        }),
        None => None,
    };
    Some(Linear {
        weight: array(&from.weight)?,
        bias: optional(from.bias.as_ref())?,
        adapter,
    })
}

/// Nothing where a tensor is there and can't be borrowed.
fn optional(tensor: Option<&Tensor>) -> Option<Option<Array>> {
    match tensor {
        Some(tensor) => array(tensor).map(Some),
        None => Some(None),
    }
}

fn array(tensor: &Tensor) -> Option<Array> {
    let native = tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous();
    if !native {
        return None;
    }
    let shape = tensor.size();
    Some(Array {
        start: tensor.data_ptr() as *const f32,
        num_rows: shape[0] as usize,
        width: shape.get(1).map_or(1, |&width| width as usize),
    })
}
