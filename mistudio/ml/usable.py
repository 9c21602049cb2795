"""Which models can be used: left-to-right ones whose code and weights are of a known kind."""

from __future__ import annotations

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mistudio.core.errors import Unsupported

# Families whose attention sees both sides; transformers offers most of them as decoders as well.
_ENCODERS = {
    "albert": "ALBERT",
    "bert": "BERT",
    "big_bird": "BigBird",
    "camembert": "CamemBERT",
    "convbert": "ConvBERT",
    "data2vec-text": "Data2Vec",
    "deberta": "DeBERTa",
    "deberta-v2": "DeBERTa",
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "ernie": "ERNIE",
    "eurobert": "EuroBERT",
    "funnel": "Funnel Transformer",
    "longformer": "Longformer",
    "megatron-bert": "Megatron-BERT",
    "mobilebert": "MobileBERT",
    "modernbert": "ModernBERT",
    "mpnet": "MPNet",
    "nomic_bert": "Nomic BERT",
    "rembert": "RemBERT",
    "roberta": "RoBERTa",
    "roberta-prelayernorm": "RoBERTa",
    "roformer": "RoFormer",
    "xlm-roberta": "XLM-RoBERTa",
    "xlm-roberta-xl": "XLM-RoBERTa",
    "xmod": "X-MOD",
}

INCOMPATIBLE = ("encoder_only", "encoder_decoder", "no_decoder", "no_blocks")
"""codes of the errors that say: this can be looked at, but not used"""


def needs_code_error() -> Unsupported:
    """The refusal of a model that needs code from its own repository."""
    return Unsupported(
        "This model runs its repository's code; allow that only if you trust its author.",
        code="needs_code",
    )


def needs_code(config: dict[str, Any]) -> bool:
    """Whether only the code of its own repository can build a model."""
    return config[
        "model_type"
    ] not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "AutoModelForCausalLM" in (
        config.get("auto_map") or {}
    )


def prequantised_format(config: dict[str, Any]) -> str:
    """int8, nf4, fp4 for weights that bitsandbytes has stored, "" for plain ones."""
    stored = config.get("quantization_config")
    if not isinstance(stored, dict):
        return ""
    method = str(stored.get("quant_method") or "unknown")
    if method != "bitsandbytes":
        raise Unsupported(
            f"These weights are quantised by {method.upper()}, which is not read here; get the "
            "repository that they were made from, or a GGUF file.",
            code="quantised_files",
        )
    if stored.get("load_in_8bit") or stored.get("_load_in_8bit"):
        return "int8"
    return str(stored.get("bnb_4bit_quant_type") or "fp4")


def refuse_unusable(config: dict[str, Any], *, allow_code: bool = False) -> None:
    """Raise `Unsupported` for what is no left-to-right model; its code is one of `INCOMPATIBLE`.

    Code "needs_code" means that the repository's own code would have to run.
    """
    model_type = config["model_type"]
    if model_type in _ENCODERS and not config.get("is_decoder"):
        raise Unsupported(
            f"{_ENCODERS[model_type]} reads both ways; a left-to-right model is needed.",
            code="encoder_only",
        )
    if config.get("is_encoder_decoder"):
        raise Unsupported(
            f"{model_type.upper()} has an encoder and a decoder; a left-to-right model is needed.",
            code="encoder_decoder",
        )
    if needs_code(config):
        if not allow_code:
            raise needs_code_error()
    elif model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise Unsupported(
            f"Models of type {model_type!r} are not known as left-to-right language models.",
            code="no_decoder",
        )
