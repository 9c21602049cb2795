"""The script that `snippet` fills in.

Every `NAME = ...` line becomes a value; lines between `#if NAME` and `#end` stay where they are
needed.
"""

from __future__ import annotations

import re
from collections.abc import Collection

# (own, value, high) -> change along the direction, as in `core.steering_operators`
FORMULAS = {
    "add": "value",
    "clamp": "value - own",
    "scale": "(value - 1) * own",
    "ablate": "-own",
    "floor": "(value - own) * (own < value)",
    "cap": "(value - own) * (own > value)",
    "set-if-on": "(value - own) * (own > 0)",
    "add-below": "value * (own < value)",
    "dir-ablate": "value - own",
    "dir-scale": "(value - 1) * own",
    "dir-clip": "(value - own) * (own < value) + (high - own) * (own > high)",
    "subspace": "value - own * (own > 0)",
    "swap": "-own",
}

SCRIPT = '''"""Steers a language model and prints the text that it writes greedily.

Needs torch, transformers and safetensors; --ids prints the token ids instead.
"""

#if inline
import base64
#end
import json
import sys
#if file
from pathlib import Path
#end

import torch
#if file
from safetensors.torch import load_file
#end
#if inline
from safetensors.torch import load
#end
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
#if quantised
from transformers import BitsAndBytesConfig
#end
#if stop
from transformers import StoppingCriteria
#end
#if counted
from transformers import LogitsProcessor
#end

MODEL = ...
# how its files are read, beside the precision of its weights
LOADING = ...
DTYPE = ...
#if quantised
QUANTISED = ...
#end
PROMPT = ...
IS_CHAT = ...
MAX_TOKENS = ...
#if repetition
REPETITION_PENALTY = ...
#end
#if counted
PRESENCE_PENALTY = ...
FREQUENCY_PENALTY = ...
#end
#if stop
STOP = ...
#end
END_IDS = ...
# tokens that are never steered
SKIP_IDS = ...
# per hooked module: its edits in the order of the rows of its directions, numbers in the units of
# the stream; a token whose norm is above the limit is left alone
HOOKS = ...

# how an edit changes what it reads of a token; value and high are its numbers
CHANGES = {
    CHANGES = ...
}

#if inline
TENSORS = load(
    base64.b64decode(
        TENSORS = ...
    )
)
#end
#if file
TENSORS_FILE = ...
TENSORS = load_file(Path(__file__).with_name(TENSORS_FILE))
#end


class Steering:
    """Follows the forward passes and edits what the hooked modules give."""

    def __init__(self, prompt_length, device):
        self.prompt_length = prompt_length
        self.tensors = {name: value.to(device) for name, value in TENSORS.items()}
        self.consumed = 0
        self.allowed = None
        self.own = {}
        self.passes = 0
        self.firings = 0

    def see_ids(self, module, arguments, named):
        """Before the embedding: the ids of this pass say which of its tokens may be steered."""
        ids = arguments[0] if arguments else named["input"]
        position = torch.arange(self.consumed, self.consumed + ids.shape[1], device=ids.device)
        chosen = ...
        skip = torch.tensor(SKIP_IDS, dtype=ids.dtype, device=ids.device)
        self.allowed = (chosen & ~torch.isin(ids, skip)).reshape(-1)
        #if cached
        self.consumed += ids.shape[1]
        #end
        self.passes += 1

    def edit(self, number, told):
        """A forward hook that edits what the module gives."""

        def hook(module, arguments, output):
            if isinstance(output, (tuple, list)):
                return type(output)([self.edited(number, told, output[0]), *output[1:]])
            return self.edited(number, told, output)

        return hook
    #if inputs

    def edit_input(self, number, told):
        """A hook that edits what the module reads."""

        def hook(module, arguments, named):
            x = arguments[0] if arguments else named.pop("hidden_states")
            return (self.edited(number, told, x), *arguments[1:]), named

        return hook
    #end

    def edited(self, number, told, x):
        """x plus the sum of all changes, each read from the unedited x."""
        self.firings += 1
        flat = x.reshape(-1, x.shape[-1])
        acting = self.allowed.clone()
        if told["norm_limit"] is not None:
            acting &= flat.float().norm(dim=1) <= told["norm_limit"]
        #if features
        # what features make of tokens that are left alone is not known
        self.own[number] = x.new_full((len(flat), told["features"]), -torch.inf).float()
        #end
        if not acting.any():
            return x
        delta = self.delta(number, told, flat[acting].float(), acting)
        edited = flat.clone()
        edited[acting] = flat[acting] + delta.to(x.dtype)
        return edited.view_as(x)

    def delta(self, number, told, x, acting):
        """The change of tokens x [T, D] in fp32."""
        #if features
        if told["features"]:
            self.own[number][acting] = self.activations(number, told, x)
        #end
        total = torch.zeros_like(x)
        if not told["edits"]:
            return total
        directions = self.tensors[f"{number}.directions"]
        for row, edit in enumerate(told["edits"]):
            if "coordinate" in edit:
                continue
            own = 0.0
            if "feature" in edit:
                own = self.own[number][acting, edit["feature"]]
            elif "product" in edit:
                own = (x * directions[row]).sum(1)
            total += self.amount(edit, own, x, acting)[:, None] * directions[row]
        #if coordinates
        rows = [row for row, edit in enumerate(told["edits"]) if "coordinate" in edit]
        if rows:
            # read together, so that directions that overlap do not disturb each other
            products = torch.stack([(x * directions[row]).sum(1) for row in rows])
            coordinates = self.tensors[f"{number}.inverse"] @ products
            for row, own in zip(rows, coordinates):
                amount = self.amount(told["edits"][row], own, x, acting)[:, None]
                total += amount * directions[row]
                if "target" in told["edits"][row]:
                    total -= amount * self.tensors[f"{number}.target.{row}"]
        #end
        #if keep
        if told["norm"] == "keep":  # every steered token gets its old length back
            moved = x + total
            length = x.norm(dim=1, keepdim=True) / moved.norm(dim=1, keepdim=True).clamp_min(1e-30)
            changed = total.norm(dim=1, keepdim=True) > 0
            total = torch.where(changed, moved * length - x, total)
        #end
        #if bound
        if told["norm"] == "cap":  # the change is at most so many times as long as x
            size, most = total.norm(dim=1), told["cap"] * x.norm(dim=1)
            shrink = torch.where(size > most, most / size.clamp_min(1e-30), 1.0)
            total = total * shrink[:, None]
        #end
        return total

    def amount(self, edit, own, x, acting):
        """How far each token goes along the direction [T]."""
        found = CHANGES[edit["operator"]](own, edit["value"], edit.get("high"))
        found = torch.as_tensor(found, device=x.device).expand(len(x))
        #if conditions
        if "only_where" in edit:  # a feature that was read at this hook or before is above a level
            hook, feature, above = edit["only_where"]
            found = torch.where(self.own[hook][acting, feature] > above, found, 0.0)
        #end
        return found
    #if features

    def activations(self, number, told, x):
        """What the features make of x [T, K], in the SAE's own units."""
        found = []
        for part, reader in enumerate(told["readers"]):
            read = {name: self.tensors.get(f"{number}.{part}.{name}") for name in READ}
            y = x.to(read["W_enc"].dtype)
            if read["b_dec"] is not None:
                y = y - read["b_dec"]
            h = y @ read["W_enc"] + read["b_enc"]
            if reader["top_k"] is not None:
                values, ids = torch.topk(h, reader["top_k"], dim=-1, sorted=False)
                h = torch.zeros_like(h).scatter_(-1, ids, values.relu_())[:, reader["columns"]]
            elif reader["groups"] is not None:
                groups = reader["groups"]
                values, at = h.unflatten(-1, (groups, -1)).max(-1)
                ids = at + torch.arange(groups, device=h.device) * (h.shape[1] // groups)
                h = torch.zeros_like(h).scatter_(-1, ids, values.relu_())[:, reader["columns"]]
            #if pursuit
            elif reader["pursuit"] is not None:
                h = pursued(y, read["W_enc"].T, *reader["pursuit"])[:, reader["columns"]]
            #if features
            elif read["threshold"] is not None:
                h = torch.relu(h) * (h > read["threshold"])
            found.append(torch.relu(h).float())
        return torch.cat(found, 1)
    #end
#if features


READ = ("W_enc", "b_enc", "b_dec", "threshold")
#end
#if pursuit


def pursued(left, rows, enough, steps, stops):
    """Latent after latent, each by what those before it leave over of a token [T, latents]."""
    found = torch.zeros(len(left), len(rows), dtype=left.dtype, device=left.device)
    going = torch.ones(len(left), 1, dtype=torch.bool, device=left.device)
    for _ in range(steps):
        best = torch.relu(left @ rows.T).max(1, keepdim=True).indices
        row = rows[best[:, 0]]
        value = torch.relu((left * row).sum(1, keepdim=True)) * going
        going = going & ~(stops & (found.gather(1, best) > 0))  # it was chosen before
        found.scatter_add_(1, best, value)
        left = left - value * row
        going = going & (value > 0) & (left.norm(dim=1, keepdim=True) >= enough)
        if not going.any():
            break
    return found
#end
#if counted


class Counted(LogitsProcessor):
    """Takes the penalties off the scores of tokens that were generated."""

    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores):
        found, times = input_ids[0, self.length :].unique(return_counts=True)
        scores = scores.clone()
        scores[0, found] -= PRESENCE_PENALTY + FREQUENCY_PENALTY * times
        return scores
#end
#if stop


class Stop(StoppingCriteria):
    """Ends the text where one of the strings appears."""

    def __init__(self, tokenizer, length):
        self.tokenizer, self.length = tokenizer, length

    def __call__(self, input_ids, scores, **kwargs):
        text = self.tokenizer.decode(input_ids[0, self.length :])
        ends = any(stop in text for stop in STOP)
        return torch.full((len(input_ids),), ends, device=input_ids.device)
#end


def main():
    tokenizer = AutoTokenizer.from_pretrained(MODEL, **LOADING)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    #if quantised
    more = {"quantization_config": BitsAndBytesConfig(**QUANTISED), "device_map": {"": device}}
    #end
    #if prequantised
    more = {"device_map": {"": device}}
    #end
    #if plain
    more = {}
    #end
    model = AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=getattr(torch, DTYPE), **LOADING, **more
    )
    #if plain
    model.to(device)
    #end
    model.eval()
    text, extra = PROMPT, {}
    if IS_CHAT:
        turns = [{"role": "user", "content": PROMPT}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        extra = {"add_special_tokens": False}  # the template holds them already
    ids = tokenizer(text, return_tensors="pt", **extra)["input_ids"].to(model.device)
    length = ids.shape[1]
    steering = Steering(length, model.device)
    model.get_input_embeddings().register_forward_pre_hook(steering.see_ids, with_kwargs=True)
    for number, told in enumerate(HOOKS):
        module = model.get_submodule(told["module"])
        #if inputs
        if told["input"]:
            module.register_forward_pre_hook(steering.edit_input(number, told), with_kwargs=True)
            continue
        #end
        module.register_forward_hook(steering.edit(number, told))
    # the model's own settings may hold penalties, which would change the text
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_TOKENS,
        eos_token_id=END_IDS or None,
        pad_token_id=END_IDS[0] if END_IDS else 0,
        #if repetition
        repetition_penalty=REPETITION_PENALTY,
        #end
        #if uncached
        use_cache=False,
        #end
    )
    with torch.inference_mode():
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            #if counted
            logits_processor=[Counted(length)],
            #end
            #if stop
            stopping_criteria=[Stop(tokenizer, length)],
            #end
        )
    if steering.firings != steering.passes * len(HOOKS):
        sys.exit(f"hooks fired {steering.firings} times in {steering.passes} passes")
    new = made[0, length:].tolist()
    while new and new[-1] in END_IDS:
        new.pop()
    if "--ids" in sys.argv:
        print(json.dumps(new))
        return
    text = tokenizer.decode(new)
    #if stop
    text = text[: min([text.find(stop) for stop in STOP if stop in text], default=None)]
    #end
    print(text)


if __name__ == "__main__":
    main()
'''

_BLOCK = re.compile(r"^ *#(?:if (\w+)|end)$")


def script_with(parts: Collection[str]) -> str:
    """The script with the lines of these parts; it has no markers of parts any more."""
    lines: list[str] = []
    keeps = True
    for line in SCRIPT.splitlines():
        marker = _BLOCK.match(line)
        if marker is None:
            lines += [line] if keeps else []
        else:
            keeps = marker[1] is None or marker[1] in parts
    return "\n".join(lines) + "\n"
