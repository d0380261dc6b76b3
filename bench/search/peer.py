#!/usr/bin/env python3
"""Monte Carlo tree search with the `generate` of transformers, as one writes it: one problem after the other, one simulation
after the other, two calls each. Prints one JSON line. See ../README.md.

    peer.py --model DIR --problems FILE --params JSON [--num-threads 2]

Selection, priors, values and budgets are those of `astro.search` (method: ASTRO, arXiv:2507.00417, section 2). A call samples
the k candidates of a leaf, another all rollouts of all new states in one left-padded batch.
"""
import argparse
import json
import math
import os
import re
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import torch  # noqa: E402
import transformers  # noqa: E402

SEPARATOR = "\n\n"


class StopAtSeparator(transformers.StoppingCriteria):
    """As `stop_strings`, which does not take every tokenizer."""

    def __init__(self, tokenizer, prompt_length):
        self.tokenizer, self.prompt_length = tokenizer, prompt_length

    def __call__(self, input_ids, scores, **_):
        texts = self.tokenizer.batch_decode(input_ids[:, self.prompt_length:])
        return torch.tensor([SEPARATOR in text for text in texts], device=input_ids.device)


class Policy:
    def __init__(self, folder, params):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.params, self.num_tokens = params, 0

    def sample(self, texts, count, max_new_tokens, is_step):
        """Returns for each text its sampled continuations: text, log-probability, tokens, and whether the turn was ended."""
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False)
        stop = transformers.StoppingCriteriaList([StopAtSeparator(self.tokenizer, batch["input_ids"].shape[1])])
        settings = {"stopping_criteria": stop, "output_scores": True} if is_step else {}
        with torch.no_grad():
            out = self.model.generate(**batch, do_sample=True, temperature=self.params["temperature"], top_p=self.params["top_p"],
                                      top_k=0, max_new_tokens=max_new_tokens, num_return_sequences=count, use_cache=True,
                                      pad_token_id=self.tokenizer.pad_token_id, return_dict_in_generate=True, **settings)
            scores = self.model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True) if is_step else None
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        found = []
        for row, ids in enumerate(out.sequences[:, batch["input_ids"].shape[1]:].tolist()):
            length = next((at + 1 for at, token in enumerate(ids) if token in ends), len(ids))
            # A row that was stopped is filled up to the longest one.
            while length > 1 and ids[length - 1] == self.tokenizer.pad_token_id and ids[length - 1] not in ends:
                length -= 1
            self.num_tokens += length
            logprob = scores[row, :length].sum().item() if is_step else 0.0
            text = self.tokenizer.decode(ids[:length], skip_special_tokens=True)
            found.append((text, logprob, length, ids[length - 1] in ends))
        return [found[start:start + count] for start in range(0, len(found), count)]


def boxed(text):
    answers = re.findall(r"\\boxed\{([^{}]*)\}", text)
    return answers[-1].strip() if answers else None


class Tree:
    def __init__(self, problem, policy, params):
        self.problem, self.policy, self.params = problem, policy, params
        message = [{"role": "user", "content": problem["problem"]}]
        self.prompt = policy.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        self.nodes = [self.node(None, "", 1.0)]
        self.nodes[0]["N"] = 0

    def node(self, parent, text, prior):
        return {"parent": parent, "text": text, "prior": prior, "N": 1, "Q": 0.0, "R": 0.0, "children": [], "terminal": False}

    def steps(self, at):
        steps = []
        while at:
            steps.append(self.nodes[at]["text"])
            at = self.nodes[at]["parent"]
        return steps[::-1]

    def state(self, at):
        return self.prompt + "".join(step + SEPARATOR for step in self.steps(at))

    def is_right(self, text):
        return boxed(text) == self.problem["answer"]

    def select(self):
        at = 0
        while self.nodes[at]["children"]:
            factor = self.params["c_puct"] * math.sqrt(self.nodes[at]["N"])
            at = max(self.nodes[at]["children"],
                     key=lambda i: self.nodes[i]["Q"] + factor * self.nodes[i]["prior"] / (1 + self.nodes[i]["N"]))
        return at

    def expand(self, leaf):
        candidates = self.policy.sample([self.state(leaf)], self.params["num_candidates"], self.params["max_step_length"], True)[0]
        weights = [math.exp(logprob / length) for _, logprob, length, _ in candidates]
        merged = {}
        for (text, _, _, ended), weight in zip(candidates, weights):
            text = text.split(SEPARATOR)[0].strip()
            if text:
                merged.setdefault(" ".join(text.split()), [text, 0.0, ended])[1] += weight
        total = sum(weight for _, weight, _ in merged.values())
        depth = len(self.steps(leaf)) + 1
        for text, weight, ended in merged.values():
            child = self.node(leaf, text, weight / total)
            child["terminal"] = ended or depth >= self.params["max_depth"] or boxed(text) is not None
            if child["terminal"]:
                child["Q"] = child["R"] = float(self.is_right(text))
            self.nodes[leaf]["children"].append(len(self.nodes))
            self.nodes.append(child)

    def evaluate(self, children):
        open_ones = [child for child in children if not self.nodes[child]["terminal"]]
        if not open_ones:
            return
        rollouts = self.policy.sample([self.state(child) for child in open_ones], self.params["num_rollouts"],
                                      self.params["max_completion_length"], False)
        for child, texts in zip(open_ones, rollouts):
            value = sum(self.is_right(text) for text, *_ in texts) / len(texts)
            self.nodes[child]["Q"] = self.nodes[child]["R"] = value

    def back_up(self, at):
        while at is not None:
            node, own = self.nodes[at], int(at != 0)
            below = [self.nodes[child] for child in node["children"]]
            visits = own + sum(child["N"] for child in below)
            node["N"] += 1
            node["Q"] = (own * node["R"] + sum(child["Q"] * child["N"] for child in below)) / max(visits, 1)
            at = node["parent"]

    def simulate(self):
        leaf = self.select()
        if not self.nodes[leaf]["terminal"]:
            self.expand(leaf)
            self.evaluate(self.nodes[leaf]["children"])
        self.back_up(leaf)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--problems", required=True)
    parser.add_argument("--params", required=True, help="those of astro.search, as JSON")
    parser.add_argument("--num-threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    params = json.loads(options.params)
    torch.manual_seed(params["seed"])
    policy = Policy(options.model, params)
    with open(options.problems, encoding="utf-8") as lines:
        problems = [json.loads(line) for line in lines]
    # Not measured: what the first call prepares once.
    policy.sample([Tree(problems[0], policy, params).prompt], 1, 2, True)
    policy.num_tokens = 0
    began = time.perf_counter()
    num_nodes = 0
    for problem in problems:
        tree = Tree(problem, policy, params)
        for _ in range(params["num_simulations"]):
            tree.simulate()
        num_nodes += len(tree.nodes)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "simulations": len(problems) * params["num_simulations"], "nodes": num_nodes,
                      "tokens": policy.num_tokens}))


if __name__ == "__main__":
    main()
