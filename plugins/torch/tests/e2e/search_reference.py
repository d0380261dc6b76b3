"""Monte Carlo tree search over scripted random trees, written from the formulas of ASTRO (arXiv:2507.00417, section 2) and
nothing else, as a reference for the search of this plugin:

    search_reference.py [NUM_TREES]      one JSON line for each tree: the script, how to search it, and what comes out

A script gives the steps below each state with their log-probabilities, and for each state how many of its rollouts are right.
"""
import json
import math
import random
import sys

def script(rng):
    """A random tree with one right end. Rollouts of a state succeed in the share of the ends below it that are right."""
    depth, steps, right = rng.randint(2, 4), {}, {}
    def grow(path):
        if len(path) == depth or (path and rng.random() < 0.1):
            return [path]
        names = [f"{len(path)}{letter}" for letter in "abcd"[:rng.randint(1 if path else 2, 4)]]
        steps[" ".join(path)] = [[name, round(rng.uniform(-4, -0.5), 3), rng.randint(1, 4)] for name in names]
        return [end for name in names for end in grow(path + [name])]
    ends = grow([])
    goal = rng.choice(ends)
    for path in {tuple(end[:i]) for end in ends for i in range(1, len(end))}:
        below = [end for end in ends if tuple(end[:len(path)]) == path]
        right[" ".join(path)] = math.ceil(16 * sum(end == goal for end in below) / len(below))
    return {"steps": steps, "right": right, "goal": " ".join(goal)}

def search(tree, num_simulations, c_puct):
    """Returns the nodes, root first, and the node that each simulation ended at."""
    nodes = [{"path": "", "parent": None, "prior": 1.0, "N": 0, "Q": 0.0, "R": 0.0, "children": [], "terminal": False}]
    order = []
    for _ in range(num_simulations):
        if all(node["terminal"] or node["children"] for node in nodes):
            break                                                                     # nothing is left to expand
        at = 0
        while nodes[at]["children"]:                                                                    # selection
            root_of_n = math.sqrt(nodes[at]["N"])
            score = lambda i: nodes[i]["Q"] + c_puct * nodes[i]["prior"] * root_of_n / (1 + nodes[i]["N"])
            at = max(nodes[at]["children"], key=score)                   # the first of several with the highest score
        order.append(at)
        if not nodes[at]["terminal"]:                                                      # expansion and evaluation
            steps = tree["steps"][nodes[at]["path"]]
            weights = [math.exp(logprob / num_tokens) for _, logprob, num_tokens in steps]
            for (name, _, _), weight in zip(steps, weights):
                path = f"{nodes[at]['path']} {name}".strip()
                terminal = path not in tree["steps"]
                value = float(path == tree["goal"]) if terminal else tree["right"][path] / 16
                nodes[at]["children"].append(len(nodes))
                nodes.append({"path": path, "parent": at, "prior": weight / sum(weights), "N": 1, "Q": value, "R": value,
                              "children": [], "terminal": terminal})
        while at is not None:                                                                       # backpropagation
            node, own = nodes[at], int(at != 0)
            below = [nodes[i] for i in node["children"]]
            visits = sum(child["N"] for child in below) + own
            node["N"] += 1
            node["Q"] = sum((child["Q"] * child["N"] for child in below), own * node["R"]) / visits
            at = node["parent"]
    return nodes, order

def main(num_trees=100):
    for seed in range(int(num_trees)):
        rng = random.Random(seed)
        tree, num_simulations, c_puct = script(rng), 256, rng.choice([0.25, 0.5, 1.0])
        nodes, order = search(tree, num_simulations, c_puct)
        print(json.dumps({**tree, "num_simulations": num_simulations, "c_puct": c_puct, "order": order, "nodes": nodes}))

if __name__ == "__main__":
    main(*sys.argv[1:])
