"""How many questions a model answers rightly, by llama.cpp: the most probable of some answers after `A:`.

    python count_answers.py MODEL.gguf [--lora ADAPTER.gguf] FILE.jsonl...

A line of a file has a `text` with `\\nA:` before the answer, and the right one as `label`. Needs llama-cpp-python and numpy.
"""
import argparse
import json

import llama_cpp
import numpy as np

ANSWERS = ["Yes", "No", "Uncertain"]


def log_probability(llm, tokens, first):
    """Of the tokens from `first` on."""
    llm.reset()
    llm.eval(tokens)
    logits = np.array(llm.scores[first - 1 : len(tokens) - 1], dtype=np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return sum(log_p[i, token] for i, token in enumerate(tokens[first:]))


def answer(llm, text):
    question = text.split("\nA:")[0] + "\nA:"
    asked = llm.tokenize(question.encode(), add_bos=True, special=False)

    def score(word):
        tokens = llm.tokenize(f"{question} {word}".encode(), add_bos=True, special=False)
        pairs = zip(asked, tokens)
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(asked), len(tokens)))
        return log_probability(llm, tokens, shared)

    return max(ANSWERS, key=score)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--lora")
    parser.add_argument("files", nargs="+")
    args = parser.parse_args()
    llm = llama_cpp.Llama(args.model, n_ctx=512, logits_all=True, lora_path=args.lora, verbose=False)
    for name in args.files:
        with open(name) as lines:
            samples = [json.loads(line) for line in lines]
        right = sum(answer(llm, s["text"]) == s["label"] for s in samples)
        print(f"{name}: {right} of {len(samples)}")


main()
