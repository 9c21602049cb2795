"""The checks of `mistudio selftest` that need no window: what each late library does first."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mistudio.core.errors import Damaged

TEXT = "And the king said unto the queen"


def _expect(holds: bool, sentence: str) -> None:
    """Raises `Damaged` with the sentence unless `holds`."""
    if not holds:
        raise Damaged(sentence)


def database() -> str:
    """The schema is made in a new file, and its full-text index finds a word."""
    from mistudio.store.database import Store

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "check.db", Path(folder) / "backups")
        try:
            db = store.db()
            version = db.execute("SELECT sqlite_version()").fetchone()[0]
            db.execute("SELECT * FROM features_fts WHERE features_fts MATCH 'x'").fetchall()
            db.execute("CREATE VIRTUAL TABLE temp.words USING fts5(text)")
            db.execute("INSERT INTO temp.words VALUES (?)", [TEXT])
            found = db.execute("SELECT count(*) FROM words WHERE words MATCH 'queen'").fetchone()
            _expect(found[0] == 1, "The full-text index does not find a word that it holds.")
        finally:
            store.close()
    return f"SQLite {version} with full-text search"


def torch_forward() -> str:
    """A layer's output and its gradient, against the same sums by hand."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 4)
    x_BD = torch.randn(3, 8)
    y_BF = layer(x_BD)
    by_hand_BF = (x_BD[:, None, :] * layer.weight[None]).sum(-1) + layer.bias
    _expect(torch.allclose(y_BF, by_hand_BF, atol=1e-5), "torch multiplies matrices wrongly.")
    y_BF.sum().backward()
    gradient = layer.weight.grad
    assert gradient is not None
    _expect(
        torch.allclose(gradient, x_BD.sum(0).expand(4, 8), atol=1e-5),
        "torch derives a matrix product wrongly.",
    )
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    return f"torch {torch.__version__} on {gpu}, {torch.get_num_threads()} threads"


def tokenizer() -> str:
    """The bundled tokenizer splits a text, says where each token lies and puts it together."""
    import tokenizers

    from mistudio.core.paths import resources
    from mistudio.ml.loading import load_tokenizer

    made = load_tokenizer(resources() / "sample" / "model")
    coded = made(TEXT, return_offsets_mapping=True, add_special_tokens=False)
    _expect(made.decode(coded["input_ids"]) == TEXT, "The tokenizer does not give a text back.")
    _expect(coded["offset_mapping"][-1][1] == len(TEXT), "The tokenizer loses the places.")
    return f"tokenizers {tokenizers.__version__}, {len(coded['input_ids'])} tokens"


def model() -> str:
    """The bundled model reads a text up to a block and continues it."""
    import torch
    import transformers

    from mistudio.core.paths import resources
    from mistudio.ml.activations.capture import Capture
    from mistudio.ml.device import choose_device
    from mistudio.ml.loading import load_model

    loaded = load_model(resources() / "sample" / "model", choose_device())
    ids_BS = torch.tensor([loaded.tokenizer(TEXT)["input_ids"]], device=loaded.device)
    x_BSD = Capture(loaded, 1, "resid_post")(ids_BS)
    _expect(
        x_BSD.shape == (*ids_BS.shape, loaded.hidden_dim) and bool(x_BSD.isfinite().all()),
        "The sample model's activations are not what its configuration says.",
    )
    with torch.no_grad():
        written = loaded.model.generate(
            ids_BS,
            attention_mask=torch.ones_like(ids_BS),
            max_new_tokens=4,
            do_sample=False,
            pad_token_id=loaded.tokenizer.eos_token_id,
        )
    more = loaded.tokenizer.decode(written[0, ids_BS.shape[1] :]).strip()
    return f"transformers {transformers.__version__}, “… {more}”"


def training() -> str:
    """Some steps of an SAE on made-up vectors lower its loss."""
    import torch

    from mistudio.ml.sae.registry import new_trainable
    from mistudio.ml.training.optimizer import ClippedAdam

    torch.manual_seed(0)
    x_BD = torch.randn(256, 16)
    variance = float(x_BD.var(0).sum())
    sae = new_trainable("topk", 16, 64, 4, seed=0)
    optimizer = ClippedAdam(sae.parameters, 1.0 / variance)
    losses = []
    for _ in range(30):
        losses.append(float(sae.gradients(x_BD, variance, None).reconstruction))
        optimizer.step(1e-2)
        sae.normalise_decoder()
    _expect(losses[-1] < 0.9 * losses[0], "Training an SAE does not lower its loss.")
    return f"loss {losses[0]:.3f} → {losses[-1]:.3f} in {len(losses)} steps"


def quantisation() -> str:
    """INT8 and NF4 products are right on the CPU; what a GPU can do is told, not judged."""
    import bitsandbytes
    import torch

    from mistudio.ml.device import choose_device
    from mistudio.ml.quantization import probe_failure

    for form in ("int8", "nf4", "fp4"):
        failure = probe_failure(form, torch.device("cpu"))
        _expect(not failure, f"{form.upper()} does not work on the CPU: {failure}")
    told = "INT8, NF4 and FP4 on the CPU"
    device = choose_device()
    if device.type == "cuda":
        works = [f.upper() for f in ("int8", "nf4", "fp4") if not probe_failure(f, device)]
        told += f"; on the GPU {', '.join(works) or 'none, 16 bit is used there'}"
    return f"bitsandbytes {bitsandbytes.__version__}, {told}"


def tensor_files() -> str:
    """Tensors survive a safetensors file, with their precision."""
    import safetensors
    import safetensors.torch
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.safetensors"
        before = {"x": torch.arange(4, dtype=torch.bfloat16)}
        safetensors.torch.save_file(before, path)
        after = safetensors.torch.load_file(path)
    _expect(
        after["x"].dtype == torch.bfloat16 and torch.equal(after["x"], before["x"]),
        "A safetensors file does not give back what was written.",
    )
    return f"safetensors {safetensors.__version__}"


def tables() -> str:
    """A parquet file is written, read by rows, and loaded as a dataset."""
    import datasets
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.dataset
    import pyarrow.parquet

    datasets.disable_progress_bars()
    rows = pa.table({"text": [TEXT, "", "ÄÖ 漢字 🙂"], "number": [1, 2, 3]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.parquet"
        pyarrow.parquet.write_table(rows, path)
        kept = pyarrow.dataset.dataset(path).to_table(filter=pyarrow.compute.field("number") > 2)
        _expect(kept["text"].to_pylist() == ["ÄÖ 漢字 🙂"], "Arrow does not filter a table.")
        made = datasets.load_dataset(
            "parquet", data_files=str(path), split="train", cache_dir=str(Path(folder) / "cache")
        )
        _expect(made[0]["text"] == TEXT and len(made) == 3, "A dataset loses rows.")
        streamed = datasets.load_dataset(
            "parquet", data_files=str(path), split="train", streaming=True
        )
        _expect(next(iter(streamed))["text"] == TEXT, "A dataset is not streamed.")
        del made
    return f"datasets {datasets.__version__}, pyarrow {pa.__version__}"


def sentence_embedding() -> str:
    """An encoder of this machine, or a random one made here, turns texts into unit vectors."""
    import numpy as np
    import sentence_transformers

    from mistudio.hub.setup import cache_folder
    from mistudio.ml.embedding import Encoder, find_encoder

    cache = cache_folder()
    cached = sorted(cache.glob("models--sentence-transformers--*")) if cache.is_dir() else []
    with tempfile.TemporaryDirectory() as folder:
        found = find_encoder(cached)
        encoder = Encoder(found or _tiny_encoder(Path(folder)))
        vectors = encoder.embed([TEXT, "another text", TEXT])
    _expect(
        vectors.shape[0] == 3
        and bool(np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3))
        and bool(np.allclose(vectors[0], vectors[2], atol=1e-5))
        and not np.allclose(vectors[0], vectors[1], atol=1e-3),
        "The sentence encoder does not tell texts apart.",
    )
    which = encoder.name if found else "a small random encoder, none is installed"
    return f"sentence-transformers {sentence_transformers.__version__}, {which}"


def _tiny_encoder(folder: Path) -> Path:
    """A random BERT of one layer with mean pooling, in the sentence-transformers layout."""
    import sentence_transformers
    import torch
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({*TEXT.lower().split()})]
    words += ["another", "text"]
    pieces = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder / "bert")
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
    ).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    made = sentence_transformers.SentenceTransformer(
        modules=[transformer, Pooling(16)], device="cpu"
    )
    made.save(str(folder / "encoder"), create_model_card=False)
    return folder / "encoder"


def gguf_file() -> str:
    """A small 8-bit GGUF file is written, unpacked, and its model reads a text."""
    import gguf
    import torch

    from mistudio.ml.loading import load_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.gguf"
        _write_gguf(path)
        loaded = load_model(path, torch.device("cpu"), "fp32")
        ids_BS = torch.tensor([loaded.tokenizer("ab ba")["input_ids"]])
        with torch.no_grad():
            logits_BSV = loaded.model(ids_BS).logits
    _expect(bool(logits_BSV.isfinite().all()), "A model from a GGUF file computes no numbers.")
    _expect(loaded.num_layers == 1, "A GGUF file's blocks are not found.")
    version = getattr(gguf, "__version__", "")
    return f"gguf {version}, {len(ids_BS[0])} tokens read".replace("  ", " ").replace(" ,", ",")


def _write_gguf(path: Path) -> None:
    """A random Llama of one block, width 32, with a byte-level tokenizer of the letters."""
    import gguf
    import numpy as np

    d, heads, hidden = 32, 2, 64
    letters = [chr(number) for number in range(33, 127)]
    tokens = ["<s>", "</s>", "Ġ", *letters, "ab"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("check")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(d)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(d // heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(tokens) - 2)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    random = np.random.default_rng(0)
    packing = gguf.GGMLQuantizationType.Q8_0
    for name, shape in {
        "token_embd": (len(tokens), d),
        "output": (len(tokens), d),
        "blk.0.attn_q": (d, d),
        "blk.0.attn_k": (d, d),
        "blk.0.attn_v": (d, d),
        "blk.0.attn_output": (d, d),
        "blk.0.ffn_gate": (hidden, d),
        "blk.0.ffn_up": (hidden, d),
        "blk.0.ffn_down": (d, hidden),
    }.items():
        values = random.normal(size=shape, scale=0.1).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, packing), raw_dtype=packing)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(d, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def hub_client() -> str:
    """The client of the Hub is there and gives a sentence where nobody answers."""
    import huggingface_hub

    from mistudio.core.errors import StudioError
    from mistudio.hub import client, setup

    before = setup.current()
    setup.use(setup.HubSetup("http://127.0.0.1:9"))  # the port that discards; nobody listens
    try:
        client.repo_facts("model", "nobody/nothing")
    except StudioError as error:
        told = error.sentence
    else:
        told = ""
    finally:
        setup.use(before)
    _expect(bool(told), "The Hub's client answers although there is no Hub.")
    return f"huggingface-hub {huggingface_hub.__version__}"
