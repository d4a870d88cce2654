# SPDX-License-Identifier: Apache-2.0
"""Train the small Llama checkpoint of ``models/jargon`` on the Jargon File.

The Jargon File 4.4.7 is in the public domain; Debian ships its text as the package ``jargon-text``.

    python models/train.py                     # finds the text of the Debian package
    python models/train.py --text jargon.txt   # or is told where it is (.txt, .gz or the .deb itself)

Everything that goes into the checkpoint comes from this file and the text: cleaning, leaving out of crude
entries, splitting, the byte-level BPE tokenizer, the network, the optimizer, the export in the Hugging Face
layout. PyTorch, ``tokenizers``, ``safetensors`` and (for the picture of the loss) ``matplotlib`` are needed;
none of the project's other tools imports this script.
"""

import argparse
import csv
import gzip
import io
import json
import lzma
import math
import random
import re
import tarfile
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# --- text ------------------------------------------------------------------------------------------------

DEBIAN_TEXT = Path("/usr/share/doc/jargon-text/jargon.txt.gz")

# Coarse language, sex, drugs and the like: an entry of the lexicon (or, outside of it, a paragraph) with one
# of these words is left out. A trailing "*" also matches every word that begins so. Only words that occur in
# the text are listed.
CRUDE_TERMS = """
    anal ass asshole* balls bastard* bitch* bondage bullshit* butthead* bytesexual* clusterfuck* cocaine
    condom* crap* dick dickless drug* erotic* excrement* fag fart* fuck* gonad* heroin hitler hooker
    intercourse lsd marijuana masturbat* microsuck* moron* naked nazi* nipple* nude nutscrape obscen*
    obsex orgy pee penis* piss* porn* psychosexual* pubic puke* rape raped raping retardation scatolog*
    schmuck* scrotum sex sexism sexual* sexy shit* slopsucker* snotty suck sucker suckin sucking sucks
    suicide teledildonics terrorist* testicle* tit tits turd* urinat* vomit* wank* zipperhead*
""".split()

ASCII_FOR = {
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2014": "--", "\u2013": "-",
    "\u2212": "-", "\u00b4": "'", "\u00b7": "-", "\u2022": "*", "\u2192": "->", "\u2190": "<-", "\u00d7": "x",
    "\u2122": "(TM)", "\u00a9": "(C)", "\u00ae": "(R)", "\u00d8": "O", "\u00e6": "ae", "\u00df": "ss",
    "\u00b1": "+-", "\u00b5": "u",
}  # fmt: skip


def crude_pattern() -> re.Pattern[str]:
    """The word list as one regular expression, to be searched in lower-case text."""
    words = sorted({re.escape(t[:-1]) + "[a-z]*" if t.endswith("*") else re.escape(t) for t in CRUDE_TERMS})
    return re.compile(r"(?<![a-z])(?:" + "|".join(words) + r")(?![a-z])")


def read_text(path: Path) -> str:
    """Read the text from a plain file, a gzip file or the Debian package itself."""
    raw = path.read_bytes()
    if raw[:8] == b"!<arch>\n":
        offset = 8
        while offset < len(raw):
            name, size = raw[offset : offset + 16].decode().strip(), int(raw[offset + 48 : offset + 58])
            body = raw[offset + 60 : offset + 60 + size]
            if name.startswith("data.tar"):
                data = lzma.decompress(body) if name.rstrip("/").endswith("xz") else body
                with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                    member = archive.extractfile("." + DEBIAN_TEXT.as_posix())
                    raw = member.read() if member else b""
                break
            offset += 60 + size + size % 2
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    return raw.decode("utf-8").replace("\u00a0", " ")


def to_ascii(text: str) -> str:
    """Replace typographic characters by ASCII ones; whatever has no counterpart is dropped."""
    text = "".join(ASCII_FOR.get(c, c) for c in text)
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


@dataclass(frozen=True)
class Unit:
    """One piece of the text that is kept or left out as a whole.

    Parameters
    ----------
    text : str
        Paragraphs, one per line, without hard line breaks.
    start : bool
        True where an entry of the lexicon or a section begins; False for a further paragraph of a section.
    """

    text: str
    start: bool


def paragraphs(raw: str) -> Iterator[tuple[bool, str]]:
    """Yield (indented, text) per paragraph; drawings, tables and contents lists do not appear."""
    for block in re.split(r"\n *\n", raw):
        lines = [line.rstrip() for line in block.strip("\n").split("\n") if line.strip()]
        if not lines or re.search("[\u2500-\u257f]", block):
            continue
        indented = lines[0].startswith(" ")
        text = re.sub(r"\s+", " ", to_ascii(" ".join(lines))).strip()
        letters = sum(c.isalpha() or c == " " for c in text)
        prose = all(re.match(r" {3,8}\S", line) for line in lines)
        if not indented and len(lines) > 1:
            continue
        if indented and not prose and letters < 0.8 * len(text):
            continue
        if text and letters >= 0.5 * len(text):
            yield indented, text


def units(raw: str) -> list[Unit]:
    """Split the whole text into entries of the lexicon and paragraphs of the other chapters."""
    begin = raw.index("\nChapter 1. Hacker Slang")
    revision = raw.index("\nChapter 3. Revision History"), raw.index("\nChapter 4. Jargon Construction")
    glossary, appendix = raw.index("\nGlossary\n\n   0"), raw.index("\nAppendix A. Hacker Folklore")
    first_entry = raw.index("\n   :(TM):")
    found: list[Unit] = []

    def sections(part: str) -> None:
        after_heading = None
        for indented, text in paragraphs(part):
            if not indented:
                after_heading = text
            elif len(text) >= 60 or text[-1] in ".:?!\"'":
                head = "" if after_heading is None else after_heading + "\n"
                found.append(Unit(head + text, after_heading is not None))
                after_heading = None

    sections(raw[begin : revision[0]])
    sections(raw[revision[1] : glossary])
    for entry in re.split(r"\n(?=   :\S)", raw[first_entry:appendix]):
        # The list of the next letter's headwords follows the last entry of a letter: cut it off.
        entry = re.split(r"\n {1,3}[A-Z]\n\n", entry)[0]
        kept = [text for _, text in paragraphs(entry)]
        if kept and kept[0].startswith(":"):
            found.append(Unit("\n".join(kept), True))
    sections(raw[appendix:])
    return found


def documents(raw: str) -> tuple[list[str], int]:
    """Clean the text; returns documents (entries, sections) in the order of the text, and how many units
    were left out as crude."""
    crude, dropped, docs, left_out = crude_pattern(), 0, [], False
    for unit in units(raw):
        if unit.start:
            left_out = False
        if left_out or crude.search(unit.text.lower()):
            dropped += 1
            left_out = left_out or unit.start  # A section that begins crudely goes as a whole.
        elif unit.start:
            docs.append(unit.text)
        else:
            docs[-1] += "\n" + unit.text
    return docs, dropped


@dataclass(frozen=True)
class Split:
    """Documents by use. `heldout` is the last tenth of the text; `valid` is taken out of the rest."""

    train: list[str]
    valid: list[str]
    heldout: list[str]


def split(docs: list[str], valid_share: float, seed: int) -> Split:
    """Cut off the last tenth by characters at a document's beginning, then pick the validation slice."""
    total, seen, cut = sum(map(len, docs)), 0, len(docs)
    for index, doc in enumerate(docs):
        if seen >= 0.9 * total:
            cut = index
            break
        seen += len(doc)
    chosen = set(random.Random(seed).sample(range(cut), int(cut * valid_share)))
    return Split(
        [d for i, d in enumerate(docs[:cut]) if i not in chosen],
        [d for i, d in enumerate(docs[:cut]) if i in chosen],
        docs[cut:],
    )


# --- tokenizer -------------------------------------------------------------------------------------------

SAMPLE_PROMPTS = (":hack value: n.", "The hacker", ":bit rot:", "A program that")
UNK, BOS, EOS = "<unk>", "<s>", "</s>"
JOIN = "\n\n"  # between documents in running text


def train_tokenizer(docs: list[str], vocab: int):
    """Byte-level BPE with <unk>, <s>, </s> as tokens 0, 1, 2; `encode` puts <s> in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[UNK, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([d + JOIN for d in docs], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return tokenizer


# --- network ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Dimensions of the checkpoint, as in its config.json."""

    vocab: int = 1024
    dim: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 256
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-5

    def config(self) -> dict[str, object]:
        """The Hugging Face ``config.json``."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.dim,
            "initializer_range": 0.02,
            "intermediate_size": self.ffn,
            "max_position_embeddings": self.context,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": self.eps,
            "rope_scaling": None,
            "rope_theta": self.theta,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
            "use_cache": True,
            "vocab_size": self.vocab,
        }


def build(shape: Shape, dropout: float):
    """The Llama decoder as a torch module whose state dict has the Hugging Face names."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    half = shape.head_dim // 2
    angle = torch.outer(
        torch.arange(shape.context).float(), shape.theta ** (-torch.arange(half).float() / half)
    )
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        length = x.shape[-2]
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * cos[:length] + turned * sin[:length]

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
            self.q_proj, self.k_proj = (nn.Linear(shape.dim, n, bias=False) for n in (q, kv))
            self.v_proj, self.o_proj = (
                nn.Linear(shape.dim, kv, bias=False),
                nn.Linear(q, shape.dim, bias=False),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, _ = x.shape
            q, k, v = (
                p(x).view(b, t, -1, shape.head_dim).transpose(1, 2)
                for p in (self.q_proj, self.k_proj, self.v_proj)
            )
            group = shape.heads // shape.kv_heads
            k, v = rotate(k).repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            y = F.scaled_dot_product_attention(rotate(q), k, v, is_causal=True)
            return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))

    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj = (nn.Linear(shape.dim, shape.ffn, bias=False) for _ in range(2))
            self.down_proj = nn.Linear(shape.ffn, shape.dim, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input_layernorm = nn.RMSNorm(shape.dim, eps=shape.eps)
            self.self_attn = Attention()
            self.post_attention_layernorm = nn.RMSNorm(shape.dim, eps=shape.eps)
            self.mlp = Mlp()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + F.dropout(self.self_attn(self.input_layernorm(x)), dropout, self.training)
            return x + F.dropout(self.mlp(self.post_attention_layernorm(x)), dropout, self.training)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(shape.vocab, shape.dim)
            self.layers = nn.ModuleList(Layer() for _ in range(shape.layers))
            self.norm = nn.RMSNorm(shape.dim, eps=shape.eps)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = F.dropout(self.embed_tokens(ids), dropout, self.training)
            for layer in self.layers:
                x = layer(x)
            return F.linear(self.norm(x), self.embed_tokens.weight)

    class Llama(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Decoder()
            for name, weight in self.named_parameters():
                if weight.dim() == 2:
                    deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                    std = 0.02 if "embed" in name else weight.shape[1] ** -0.5
                    nn.init.normal_(weight, 0.0, std / math.sqrt(2 * shape.layers) if deep else std)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.model(ids)

    return Llama()


# --- training --------------------------------------------------------------------------------------------


def stream(ids: list[list[int]], join: list[int], rng: random.Random) -> list[int]:
    """One epoch's tokens: documents in random order. Six in ten end with </s>, and the next begins with
    <s>; the others are followed by an empty line, as they are in running text."""
    order, out = list(range(len(ids))), []
    rng.shuffle(order)
    for index in order:
        out += ids[index]
        out += [2, 1] if rng.random() < 0.6 else join
    return out


def batches(ids: list[list[int]], join: list[int], shape: Shape, batch: int, rng: random.Random):
    """Endless (input, target) batches of whole windows; each window's input begins with <s>."""
    import torch

    rest: list[list[int]] = []
    size = shape.context
    while True:
        tokens = stream(ids, join, rng)
        shift = rng.randrange(size)
        windows = [tokens[i : i + size] for i in range(shift, len(tokens) - size + 1, size)]
        rng.shuffle(windows)
        rest += windows
        while len(rest) >= batch:
            target = torch.tensor(rest[:batch])
            rest = rest[batch:]
            yield torch.cat([torch.ones(batch, 1, dtype=torch.long), target[:, :-1]], 1), target


def evaluate(model, tokens: list[int], context: int, overlap: bool = False) -> tuple[float, int]:
    """Sum of the negative log-likelihood (nats) of `tokens` and their number.

    Windows of `context` inputs, each beginning with <s>, without memory of the one before; with `overlap`
    the windows advance by half and only the later half counts (every token then has at least half a window
    before it).
    """
    import torch
    import torch.nn.functional as F

    model.eval()
    total, step = 0.0, context // 2 if overlap else context
    with torch.no_grad():
        done = 0
        start = 0
        while done < len(tokens):
            part = torch.tensor([tokens[start : start + context]])
            ids = torch.cat([torch.ones(1, 1, dtype=torch.long), part[:, :-1]], 1)
            nll = F.cross_entropy(model(ids).float().flatten(0, 1), part.flatten(), reduction="none")
            total += float(nll[done - start :].sum())
            done = start + part.shape[1]
            start += step
    return total, len(tokens)


def greedy(model, tokenizer, prompt: str, count: int) -> str:
    """Greedy continuation of `prompt` by at most `count` tokens."""
    import torch

    model.eval()
    ids = tokenizer.encode(prompt).ids
    with torch.no_grad():
        for _ in range(count):
            token = int(model(torch.tensor([ids]))[0, -1].argmax())
            if token == 2:
                break
            ids.append(token)
    return tokenizer.decode(ids)


def picture(rows: list[dict[str, float]], path: Path) -> None:
    """Draw the loss curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.4), dpi=90)
    axes.plot([r["step"] for r in rows], [r["train"] for r in rows], label="training (with dropout)")
    axes.plot([r["step"] for r in rows], [r["valid"] for r in rows], label="validation (averaged weights)")
    axes.set_xlabel("step")
    axes.set_ylabel("nats per token")
    axes.set_ylim(top=min(5.0, max(r["valid"] for r in rows)))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def export(weights: dict, shape: Shape, tokenizer, out: Path) -> None:
    """Write config, generation config, tokenizer and float16 weights."""
    import torch
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
    (out / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 1, "eos_token_id": 2}, indent=2) + "\n"
    )
    (out / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "unk_token": UNK,
                "bos_token": BOS,
                "eos_token": EOS,
                "model_max_length": shape.context,
                "clean_up_tokenization_spaces": False,
            },
            indent=2,
        )
        + "\n"
    )
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    half = {name: w.detach().to(torch.float16).contiguous() for name, w in weights.items()}
    save_file(half, out / "model.safetensors", metadata={"format": "pt"})


def load(shape: Shape, path: Path):
    """A model in evaluation mode with the weights of a written checkpoint."""
    from safetensors.torch import load_file

    model = build(shape, 0.0)
    model.load_state_dict({name: w.float() for name, w in load_file(path).items()})
    return model.eval()


def train(args: argparse.Namespace) -> None:
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    docs, dropped = documents(read_text(args.text))
    parts = split(docs, 0.04, args.seed)
    tokenizer = train_tokenizer(parts.train, args.vocab)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    shape = Shape(args.vocab, args.dim, args.layers, args.heads, args.kv_heads, args.head_dim, args.ffn)
    train_ids, join = [encode(d) for d in parts.train], encode(JOIN)
    valid_ids, heldout_ids = encode(JOIN.join(parts.valid)), encode(JOIN.join(parts.heldout))
    excerpt, count = [], 0
    for doc in parts.heldout:
        if count >= args.excerpt_tokens:
            break
        excerpt.append(doc)
        count += len(encode(doc + JOIN))
    model = build(shape, args.dropout)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{len(docs)} documents, {dropped} crude units left out, {sum(map(len, docs))} characters", flush=True
    )
    print(
        f"train {len(parts.train)} documents, {sum(map(len, train_ids))} tokens; "
        f"valid {len(valid_ids)} tokens;"
    )
    print(f"held out {len(heldout_ids)} tokens, excerpt {count} tokens; {parameters} parameters", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "heldout.txt").write_text(JOIN.join(excerpt) + "\n")
    if args.steps == 0:
        return

    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    gains = [p for p in model.parameters() if p.dim() == 1]
    table = model.model.embed_tokens.weight
    optimizers = [
        torch.optim.AdamW(
            [{"params": [table], "weight_decay": args.decay}, {"params": gains, "weight_decay": 0.0}],
            lr=args.rate,
            betas=(0.9, 0.98),
        ),
        torch.optim.Muon(matrices, lr=args.rate, weight_decay=args.decay, adjust_lr_fn="match_rms_adamw"),
    ]
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    probe = build(shape, 0.0)
    best, best_step, rows, recent, began = math.inf, 0, [], [], time.time()
    source = batches(train_ids, join, shape, args.batch, rng)
    for step in range(1, args.steps + 1):
        warm = min(1.0, step / args.warmup)
        rate = args.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = rate
        model.train()
        ids, target = next(source)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            logits = model(ids)
        loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten())
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        keep = min(0.995, (step + 1) / (step + 10))
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        recent.append(loss.item())
        if step % args.every == 0 or step == args.steps:
            probe.load_state_dict(average)
            total, n = evaluate(probe, valid_ids, shape.context)
            rows.append({"step": step, "train": sum(recent) / len(recent), "valid": total / n})
            recent = []
            mark = ""
            if total / n < best:
                best, best_step, mark = total / n, step, " *"
                export(average, shape, tokenizer, args.out)
            with open(args.out / "loss.csv", "w", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["step", "train_nats_per_token", "valid_nats_per_token"])
                writer.writerows([r["step"], f"{r['train']:.4f}", f"{r['valid']:.4f}"] for r in rows)
            row = rows[-1]
            print(
                f"step {step} rate {rate:.2e} train {row['train']:.4f} valid {row['valid']:.4f}{mark}"
                f" {time.time() - began:.0f} s",
                flush=True,
            )
    picture(rows, args.out / "loss.png")
    options = {k: v for k, v in vars(args).items() if k not in ("text", "out")}
    facts = {
        "source": "The Jargon File, version 4.4.7, 29 Dec 2003",
        "options": options,
        "torch": torch.__version__,
        "documents": len(docs),
        "crude_left_out": dropped,
        "train_tokens": sum(map(len, train_ids)),
        "parameters": parameters,
        "best_step": best_step,
    }
    report(args, shape, tokenizer, parts, facts)


def measure(model, tokenizer, text: str, context: int) -> dict[str, float | int]:
    """Loss on a text: separate windows, and as `overlapping` with half of each window as memory."""
    ids, size = tokenizer.encode(text, add_special_tokens=False).ids, len(text.encode())
    total, overlapping = (evaluate(model, ids, context, overlap)[0] for overlap in (False, True))
    return {
        "bytes": size,
        "tokens": len(ids),
        "nats_per_token": round(total / len(ids), 5),
        "bits_per_byte": round(total / math.log(2) / size, 5),
        "overlapping_nats_per_token": round(overlapping / len(ids), 5),
        "overlapping_bits_per_byte": round(overlapping / math.log(2) / size, 5),
    }


def report(args: argparse.Namespace, shape: Shape, tokenizer, parts: Split, facts: dict[str, object]) -> None:
    """Measure the written checkpoint and write ``training.json``, from which the model card quotes."""
    model = load(shape, args.out / "model.safetensors")
    texts = {
        "validation": JOIN.join(parts.valid),
        "heldout_tenth": JOIN.join(parts.heldout),
        "excerpt": (args.out / "heldout.txt").read_text(),
    }
    facts |= {name: measure(model, tokenizer, text, shape.context) for name, text in texts.items()}
    facts["samples"] = [{"prompt": p, "text": greedy(model, tokenizer, p, 96)} for p in SAMPLE_PROMPTS]
    text = json.dumps(facts, indent=2)
    (args.out / "training.json").write_text(text + "\n")
    print(text)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, default=DEBIAN_TEXT, help="Jargon File 4.4.7: .txt, .gz or .deb")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "jargon")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--ffn", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.15)
    parser.add_argument("--decay", type=float, default=0.2)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4800, help="0 writes only the held-out excerpt")
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument(
        "--every", type=int, default=100, help="steps between two looks at the validation slice"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="products in bfloat16 while training (faster)",
    )
    parser.add_argument("--excerpt-tokens", type=int, default=12000)
    args = parser.parse_args()
    if not args.text.is_file():
        parser.error(f"no text at {args.text}: install Debian's package jargon-text, or give --text FILE")
    train(args)


if __name__ == "__main__":
    main()
