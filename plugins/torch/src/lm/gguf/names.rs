//! Names of tensors in GGUF files, and the order of their rows.
//!
//! Source: llama.cpp, `gguf-py/gguf/tensor_mapping.py` and `convert_hf_to_gguf.py`.

use tch::{TchError, Tensor};

/// Parts of a layer, by their names in Hugging Face's files.
const PARTS: [(&str, &str); 11] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
];

/// Returns the name in a GGUF file of a parameter of a causal language model.
pub(super) fn gguf_name(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => "token_embd.weight".to_owned(),
        "model.norm.weight" => "output_norm.weight".to_owned(),
        "lm_head.weight" => "output.weight".to_owned(),
        _ => in_layer(name).unwrap_or_else(|| unreachable!("{name} is no parameter of these models")),
    }
}

fn in_layer(name: &str) -> Option<String> {
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, suffix) = rest.rsplit_once('.')?;
    let (_, short) = PARTS.iter().find(|(long, _)| *long == part)?;
    Some(format!("blk.{layer}.{short}.{suffix}"))
}

/// Puts the rows of a query or key projection into Hugging Face's order: llama.cpp interleaves the halves of each head,
/// because its rotary embedding turns neighbours; here the halves lie one behind the other.
pub(super) fn deinterleave(weight: &Tensor, num_heads: i64) -> Result<Tensor, TchError> {
    let shape = weight.size();
    let half = shape[0] / num_heads / 2;
    weight
        .f_reshape([num_heads, half, 2, -1])?
        .f_transpose(1, 2)?
        .f_reshape(&shape)
}
