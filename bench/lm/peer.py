#!/usr/bin/env python3
"""One case with transformers, or with TRL's GRPOTrainer; prints one JSON line as `volvelle-torch bench --json` does.

    peer.py --model DIR --case generate-8 [--engine trl]
"""
import argparse
import json
import os
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import torch  # noqa: E402
import transformers  # noqa: E402

import workload  # noqa: E402

PAD = 0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class StopEach(transformers.StoppingCriteria):
    """Ends each row at its own number of new tokens."""

    def __init__(self, prompt_length, new):
        self.ends = torch.tensor(new) + prompt_length

    def __call__(self, input_ids, scores, **_):
        return (input_ids.shape[1] >= self.ends).to(input_ids.device)


def load(options):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=DTYPES[options.dtype],
                                                              attn_implementation="sdpa")
    return model.to(options.device)


def left_padded(rows, device):
    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def generate(options, case):
    model = load(options).eval()
    rows, new = workload.prompts(case, model.config.vocab_size)
    settings = {"do_sample": False}
    if case["shared"]:
        # The usual call for several samples of one prompt.
        rows, settings = rows[:1], {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
                                    "num_return_sequences": case["batch_size"]}
    ids, mask = left_padded(rows, options.device)
    config = transformers.GenerationConfig(max_new_tokens=max(new), min_new_tokens=max(new), use_cache=True, pad_token_id=PAD,
                                           eos_token_id=None, **settings)
    if case["unequal"]:
        config.min_new_tokens = None
    model.generation_config = config
    criteria = transformers.StoppingCriteriaList([StopEach(ids.shape[1], new)] if case["unequal"] else [])

    def once():
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, stopping_criteria=criteria)
        return [row[:count] for row, count in zip(out[:, ids.shape[1]:].tolist(), new)]
    return once


def sft(options, case):
    model = load(options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    rows = [[workload.token(row, position, model.config.vocab_size) for position in range(case["prompt_length"])]
            for row in range(case["batch_size"])]
    ids = torch.tensor(rows, device=options.device)

    def once():
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()
    return once


def grpo(options, case):
    """A plain loop, with nothing of a trainer around it: sampling, advantages of random rewards, one update on policy in
    micro-batches of a group."""
    model, group = load(options), case["num_generations"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)
    num_prompts, new = case["batch_size"] // group, case["max_new_tokens"]
    prompts = [[workload.token(row, position, model.config.vocab_size) for position in range(case["prompt_length"])]
               for row in range(num_prompts)]
    ids = torch.tensor(prompts, device=options.device).repeat_interleave(group, 0)
    config = transformers.GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=new,
                                           min_new_tokens=new, use_cache=True, pad_token_id=PAD, eos_token_id=None)
    model.generation_config = config

    def logprobs(rows):
        logits = model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False, logits_to_keep=new + 1).logits
        chosen = logits[:, :-1].float().gather(-1, rows[:, -new:, None]).squeeze(-1)
        return chosen - logits[:, :-1].float().logsumexp(-1)

    def once():
        model.eval()
        with torch.no_grad():
            rows = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        rewards = torch.rand(num_prompts, group, device=ids.device)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
        model.train()
        for start in range(0, len(rows), group):
            policy = logprobs(rows[start:start + group])
            ratio, advantage = (policy - policy.detach()).exp(), advantages[start:start + group, None]
            loss = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage).sum() / (len(rows) * new)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return once


class Stopwatch(transformers.TrainerCallback):
    """The times of a trainer's steps, sampling included."""

    def __init__(self):
        self.samples = []

    def on_step_begin(self, *_, **__):
        self.begun = time.perf_counter(), time.process_time()

    def on_step_end(self, *_, **__):
        self.samples.append((time.perf_counter() - self.begun[0], time.process_time() - self.begun[1]))


def trl_steps(options, case):
    """Returns wall and CPU seconds of each step of TRL's GRPOTrainer, the warm-up's included."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import random
    import datasets
    import trl
    model, group = load(options), case["num_generations"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    texts = [tokenizer.decode([workload.token(row, position, model.config.vocab_size)
                               for position in range(case["prompt_length"])])
             for row in range(case["batch_size"] // group)]
    steps = options.warmup + options.repeats
    config = trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=options.device == "cpu", bf16=False, max_steps=steps,
        per_device_train_batch_size=group, gradient_accumulation_steps=case["batch_size"] // group, num_generations=group,
        max_completion_length=case["max_new_tokens"], generation_kwargs={"min_new_tokens": case["max_new_tokens"]},
        beta=0.0, loss_type="dapo", learning_rate=1e-6, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
        temperature=1.0, gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True,
        logging_steps=steps + 1)
    watch = Stopwatch()
    trainer = trl.GRPOTrainer(model=model, reward_funcs=lambda completions, **_: [random.random() for _ in completions],
                              args=config, train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in texts]),
                              processing_class=tokenizer, callbacks=[watch])
    with open(os.devnull, "w") as nowhere:
        out, sys.stdout = sys.stdout, nowhere
        trainer.train()
        sys.stdout = out
    return watch.samples, None


def measure(options, case):
    """Returns wall and CPU seconds of each repeat, and what the last one returned."""
    if options.engine == "trl":
        samples, result = trl_steps(options, case)
        return samples[options.warmup:], result
    once = {"generate": generate, "sft": sft, "grpo": grpo}[case["task"]](options, case)
    for _ in range(options.warmup):
        once()
    samples, result = [], None
    for _ in range(options.repeats):
        if options.device == "cuda":
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        result = once()
        if options.device == "cuda":
            torch.cuda.synchronize()
        samples.append((time.perf_counter() - wall, time.process_time() - cpu))
    return samples, result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--case", required=True, choices=sorted(workload.CASES))
    parser.add_argument("--engine", default="transformers", choices=["transformers", "trl"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=sorted(DTYPES))
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(options.num_threads)
    case = workload.case(options.case)
    samples, result = measure(options, case)
    report = {"seconds": [wall for wall, _ in samples], "cpu_seconds": [cpu for _, cpu in samples],
              "num_tokens": workload.num_tokens(case)}
    if case["task"] == "generate" and not case["shared"]:
        report["output_ids"] = result
    if case["task"] == "sft":
        report["loss"] = result
    print(json.dumps(report))


if __name__ == "__main__":
    main()
