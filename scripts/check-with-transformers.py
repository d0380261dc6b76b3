#!/usr/bin/env python3
"""Opens a model folder with transformers and compares it with what volvelle-torch makes of the same folder.

    scripts/check-with-transformers.py MODEL_DIR "prompt" ["prompt" ...]
    scripts/check-with-transformers.py MODEL_DIR --input PROMPTS.jsonl --generated OUT.jsonl [--scored SCORES.jsonl]

The first form prints the greedy text and the log-probability of each of its tokens. The second compares:

    volvelle-torch generate --model DIR --input PROMPTS.jsonl --max-new-tokens 32 --greedy > OUT.jsonl
    volvelle-torch score --model DIR --input IDS.jsonl > SCORES.jsonl                with --ids IDS.jsonl here

Lines of PROMPTS.jsonl are {"prompt": "..."} or {"input_ids": [...]}; of OUT.jsonl {"output_ids", "text"}; of SCORES.jsonl
{"logprobs"}. Exit code 1 on a difference: other token ids or text, or a log-probability that is off by more than
--tolerance. Where two tokens are so close that rounding may choose (their logits differ by less than --margin), a
different continuation from there on is reported and counts as a tie, not as a difference.

A check by hand, not part of `make test`, because it needs gigabytes of packages. CPU, float32, eager attention:

    pip install torch==2.11.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0
"""
import argparse
import json
import os
import pathlib
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
try:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as e:
    sys.exit(f"{e}. First: {sys.executable} -m pip install torch==2.11.0 transformers==5.23.0")


def read_lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def logprobs_of(model, ids):
    """Log p of each token but the first, given those before it, with the best two logits at each place."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, :-1].float()
    chosen = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    best = logits.topk(2).values
    return chosen.tolist(), (best[:, 0] - best[:, 1]).tolist()


def greedy(model, ids, max_new_tokens, ignore_eos):
    """One token at a time with a KV cache; a listed end token is kept and ends the row, as in volvelle-torch."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
    out, margins, cache, step = [], [], None, torch.tensor([ids])
    with torch.inference_mode():
        while len(out) < max_new_tokens:
            result = model(step, past_key_values=cache, use_cache=True)
            cache, row = result.past_key_values, result.logits[0, -1].float()
            top = row.topk(2)
            out.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
            if out[-1] in ends and not ignore_eos:
                break
            step = torch.tensor([[out[-1]]])
    return out, margins


def compare_ids(name, expected, got, margins, margin):
    """Returns whether it counts as a difference, having said what it is."""
    if expected == got:
        return False
    at = next((i for i, (a, b) in enumerate(zip(expected, got)) if a != b), min(len(expected), len(got)))
    if at < len(margins) and at < len(got) and margins[at] < margin:
        print(f"{name}: tie at token {at}: the best two logits differ by {margins[at]:.2g}")
        return False
    print(f"{name}: DIFFERENT at token {at}: transformers {expected[at:at + 8]}, volvelle-torch {got[at:at + 8]}")
    return True


def main():
    ap = argparse.ArgumentParser(description="compare a model folder's outputs with transformers")
    ap.add_argument("model", type=pathlib.Path)
    ap.add_argument("prompts", nargs="*")
    ap.add_argument("--input", help="the prompts as JSON lines")
    ap.add_argument("--generated", help="what volvelle-torch generate printed for --input")
    ap.add_argument("--ids", help="token ids as JSON lines, as given to volvelle-torch score")
    ap.add_argument("--scored", help="what volvelle-torch score printed for --ids")
    ap.add_argument("--max-new-tokens", type=int, default=32)
    ap.add_argument("--ignore-eos", action="store_true")
    ap.add_argument("--tolerance", type=float, default=1e-3, help="of a log-probability (default 1e-3)")
    ap.add_argument("--margin", type=float, default=1e-3, help="of two logits that may change places (default 1e-3)")
    args = ap.parse_args()
    if bool(args.ids) != bool(args.scored):
        ap.error("--ids and --scored go together")

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    prompts = [{"prompt": p} for p in args.prompts] + (read_lines(args.input) if args.input else [])
    generated = read_lines(args.generated) if args.generated else None
    if generated is not None and len(generated) != len(prompts):
        sys.exit(f"{len(prompts)} prompts, but {len(generated)} lines in {args.generated}")

    differences = 0
    for i, prompt in enumerate(prompts):
        ids = prompt["input_ids"] if "input_ids" in prompt else tokenizer(prompt["prompt"])["input_ids"]
        expected, margins = greedy(model, ids, args.max_new_tokens, args.ignore_eos)
        if generated is None:
            logprobs, _ = logprobs_of(model, ids + expected)
            print(json.dumps({"output_ids": expected, "text": tokenizer.decode(expected, skip_special_tokens=True),
                              "logprobs": [round(p, 5) for p in logprobs[len(ids) - 1:]]}, ensure_ascii=False))
            continue
        got = generated[i]
        differs = compare_ids(f"prompt {i}", expected, got["output_ids"], margins, args.margin)
        if not differs and expected == got["output_ids"]:
            text = tokenizer.decode(expected, skip_special_tokens=True)
            if text != got["text"]:
                print(f"prompt {i}: DIFFERENT text: transformers {text!r}, volvelle-torch {got['text']!r}")
                differs = True
        differences += differs

    num_scored, worst = 0, 0.0
    if args.ids:
        rows, scored = read_lines(args.ids), read_lines(args.scored)
        if len(rows) != len(scored):
            sys.exit(f"{len(rows)} lines in {args.ids}, but {len(scored)} in {args.scored}")
        for i, (row, score) in enumerate(zip(rows, scored)):
            expected, _ = logprobs_of(model, row["input_ids"])
            if len(expected) != len(score["logprobs"]):
                print(f"row {i}: DIFFERENT: {len(expected)} log-probabilities expected, {len(score['logprobs'])} given")
                differences += 1
                continue
            off = max((abs(a - b) for a, b in zip(expected, score["logprobs"])), default=0.0)
            worst, num_scored = max(worst, off), num_scored + 1
            if off > args.tolerance:
                print(f"row {i}: DIFFERENT: a log-probability is off by {off:.2g}")
                differences += 1

    if generated is not None:
        print(f"{len(prompts)} continuations compared, {differences} differences in all")
    if args.ids:
        print(f"{num_scored} rows of log-probabilities compared, largest difference {worst:.2g}")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
