"""Chat completion requests of a wanted size, alike in their system prompt and unlike in what the user says."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

MODEL = "bench"
_SYSTEM = (
    "You are the assistant of a waterworks. Answer from the notes that the user gives, name the note you rely on, "
    "and say so when they do not hold the answer. Be short, and use metric units."
)
_WORDS = (
    *("the", "gate", "of", "a", "penstock", "opens", "when", "water", "is", "asked", "for", "and", "closes", "before"),
    *(
        "pressure",
        "falls;",
        "pipe",
        "valve",
        "head",
        "loss",
        "surge",
        "tank",
        "turbine",
        "flow",
        "weir",
        "intake",
        "level",
    ),
)
_PARAGRAPH_WORDS = 100


def chat(size: int, seed: int, stream: bool = False) -> str:
    """One request of about ``size`` bytes, the same for the same seed; never less than what is around the prompt takes.

    Plain English prose: a line break a paragraph and nothing else to escape. sglang-router takes half as long again for a line
    break every ten words, and twice as long for letters beyond ASCII; what is compared here is its best case.
    """
    document = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": ""},
        ],
        "temperature": 0.7,
        "max_tokens": 64,
    }
    if stream:
        document |= {"stream": True, "stream_options": {"include_usage": True}}
    wanted = size - len(json.dumps(document))
    random = Random(seed)
    words = [f"Question {seed}:"]
    length = len(words[0])
    while length < wanted:
        words.append(random.choice(_WORDS) + ("" if len(words) % _PARAGRAPH_WORDS else "\n"))
        length += len(json.dumps(words[-1])) - 1
    document["messages"][1]["content"] = " ".join(words)
    return json.dumps(document)


def write(path: Path, size: int, count: int, stream: bool = False) -> Path:
    """A file of ``count`` different requests, one a line."""
    path.write_text("".join(chat(size, seed, stream) + "\n" for seed in range(count)))
    return path
