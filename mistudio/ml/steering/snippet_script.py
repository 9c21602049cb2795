"""The script that `snippet` fills in: every `NAME = ...` line becomes a value."""

SCRIPT = '''"""Steers a language model and prints its greedy text.

Needs torch, transformers and safetensors; --ids prints the token ids instead.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

MODEL = ...
REVISION = ...
DTYPE = ...
PROMPT = ...
IS_CHAT = ...
MAX_TOKENS = ...
# which tokens are steered, by absolute position: rule, first, last
POSITIONS = ...
SKIP_IDS = ...
END_IDS = ...
# per module: (feature, operator, value) in the order of the rows of its directions
HOOKS = ...

TENSORS = load_file(Path(__file__).with_name("steering.safetensors"))


class Steering:
    """Follows the forward passes and edits what the hooked modules give."""

    def __init__(self, prompt_length, device):
        self.prompt_length = prompt_length
        self.tensors = {name: value.to(device) for name, value in TENSORS.items()}
        self.consumed = 0
        self.allowed = None
        self.passes = 0
        self.firings = 0

    def see_ids(self, module, arguments, named):
        """Before the embedding: the ids of this pass say which of its tokens may be steered."""
        ids = arguments[0] if arguments else named["input"]
        position = torch.arange(self.consumed, self.consumed + ids.shape[1], device=ids.device)
        rule, first, last = POSITIONS
        chosen = {
            "all": position >= 0,
            "prompt": position < self.prompt_length,
            "generated": position >= self.prompt_length,
            "last": position == self.prompt_length - 1,
            "first": position < first,
            "range": (position >= first) & (position < last),
        }[rule]
        skip = torch.tensor(SKIP_IDS, dtype=ids.dtype, device=ids.device)
        self.allowed = (chosen & ~torch.isin(ids, skip)).reshape(-1)
        self.consumed += ids.shape[1]
        self.passes += 1

    def edit(self, number, told):
        """A forward hook that adds the sum of all changes, each read from the unedited x."""

        def hook(module, arguments, output):
            self.firings += 1
            x = output[0] if isinstance(output, (tuple, list)) else output
            flat = x.reshape(-1, x.shape[-1])
            acting = self.allowed.clone()
            if told["norm_limit"] is not None:
                acting &= flat.float().norm(dim=1) <= told["norm_limit"]
            if not acting.any():
                return output
            delta = self.delta(f"hook{number}", told, flat[acting].float())
            edited = flat.clone()
            edited[acting] = flat[acting] + delta.to(x.dtype)
            edited = edited.view_as(x)
            if isinstance(output, (tuple, list)):
                return type(output)([edited, *output[1:]])
            return edited

        return hook

    def delta(self, stem, told, x):
        total = torch.zeros_like(x)
        if f"{stem}.vector" in self.tensors:
            total += self.tensors[f"{stem}.vector"]
        own = self.activations(stem, told, x) if f"{stem}.W_enc" in self.tensors else None
        units = []
        for row, (_feature, operator, value) in enumerate(told["features"]):
            direction = self.tensors[f"{stem}.directions"][row]
            if operator == "add":
                total += value * direction
            elif operator == "clamp":
                total += (value - own[:, row, None]) * direction
            elif operator == "multiply":
                total += (value - 1) * own[:, row, None] * direction
            elif operator == "ablate":
                total -= own[:, row, None] * direction
            else:  # directional_ablate: what x has along the direction
                units.append(direction / direction.norm())
        if units:
            # together, so that directions that overlap are each gone and their order is no matter
            rows = torch.stack(units).double()
            parts = torch.linalg.solve(rows @ rows.T, rows @ x.double().T)
            total -= (rows.T @ parts).T.float()
        return total

    def activations(self, stem, told, x):
        """What the features make of x, in the SAE's own units."""
        if f"{stem}.b_dec" in self.tensors:
            x = x - self.tensors[f"{stem}.b_dec"]
        h = x @ self.tensors[f"{stem}.W_enc"] + self.tensors[f"{stem}.b_enc"]
        if told["top_k"] is not None:
            values, ids = torch.topk(h, told["top_k"], dim=-1, sorted=False)
            return torch.zeros_like(h).scatter_(-1, ids, values.relu_())[:, told["columns"]]
        if f"{stem}.threshold" in self.tensors:
            return torch.relu(h) * (h > self.tensors[f"{stem}.threshold"])
        return torch.relu(h)


def main():
    source = {"revision": REVISION} if REVISION else {}
    tokenizer = AutoTokenizer.from_pretrained(MODEL, **source)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=getattr(torch, DTYPE), **source)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    text, extra = PROMPT, {}
    if IS_CHAT:
        turns = [{"role": "user", "content": PROMPT}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        extra = {"add_special_tokens": False}  # the template holds them already
    ids = tokenizer(text, return_tensors="pt", **extra)["input_ids"].to(model.device)
    steering = Steering(ids.shape[1], model.device)
    model.get_input_embeddings().register_forward_pre_hook(steering.see_ids, with_kwargs=True)
    for number, told in enumerate(HOOKS):
        model.get_submodule(told["module"]).register_forward_hook(steering.edit(number, told))
    ends = END_IDS or [tokenizer.eos_token_id]
    # the model's own settings may hold penalties, which would change the greedy text
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=MAX_TOKENS, eos_token_id=ends, pad_token_id=ends[0]
    )
    with torch.inference_mode():
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
    if steering.firings != steering.passes * len(HOOKS):
        sys.exit(f"hooks fired {steering.firings} times in {steering.passes} passes")
    new = made[0, ids.shape[1]:].tolist()
    while new and new[-1] in ends:
        new.pop()
    if "--ids" in sys.argv:
        print(json.dumps(new))
    else:
        print(tokenizer.decode(new))


if __name__ == "__main__":
    main()
'''
