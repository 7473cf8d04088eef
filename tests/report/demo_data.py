"""Invented runs with real pictures, for tests and for looking at the report.

    PYTHONPATH=src python tests/report/demo_data.py report.html

Each question has a hidden certainty; a run flips an answer when its disturbance exceeds it. So flips sit where the
original was unsure, as in a real model, and the numbers of the page hang together.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from steadyvlm.records import (
    UNPARSED,
    AnswerKind,
    Cost,
    Failure,
    Generation,
    KeptTokens,
    Prediction,
    TokenLogprob,
)
from steadyvlm.report.data import ArmReport, ReportData
from steadyvlm.report.html import write_html
from steadyvlm.report.terminal import print_terminal
from steadyvlm.seeding import stable_seed
from steadyvlm.stability import compare

COLOURS = {"red": (222, 64, 54), "green": (64, 168, 88), "blue": (62, 110, 220), "yellow": (232, 200, 60)}
SHAPES = ("circle", "square", "triangle")
SIDE, LAYERS = 12, 12


@dataclass(frozen=True)
class Arm:
    """How one invented run behaves; `noise` in nats is set against the certainty of an answer."""

    name: str
    recipe: str
    noise: float
    layer: int | None = None
    kept: int = SIDE * SIDE
    merged: int = 0
    weak: str = ""
    limit: int | None = None


ARMS = (
    Arm("control", "keep_all", 0.02),
    Arm("fastv-50", "fastv(layer=5, keep_ratio=0.5)", 0.16, 5, 72, weak="counting"),
    Arm("visionzip-40", "visionzip(dominant=32, contextual=8)", 0.3, 0, 40, 8, weak="word"),
    Arm("rtn-4bit", "rtn(bits=4, group=32)", 0.22, weak="digit"),
    Arm("llm-int8", "llm_int8(threshold=6.0)", 0.04, limit=200),
    Arm("random-50", "random(keep_ratio=0.5, layer=5)", 0.45, 5, 72),
    Arm("least-attended-50", "least_attended(keep_ratio=0.5, layer=5)", 3.2, 5, 72),
)

FAMILIES: dict[str, tuple[AnswerKind, float]] = {
    "colour": ("open_ten", 2.4),
    "shape": ("open", 1.7),
    "existence-adversarial": ("yes_no", 1.1),
    "existence-random": ("yes_no", 2.0),
    "counting": ("open", 0.8),
    "digit": ("open", 1.1),
    "word": ("open", 1.3),
    "choice": ("choice", 0.4),
    "relation": ("open", 0.5),
}


def scene(index: int) -> bytes:
    """A small cluttered picture as PNG bytes."""
    rng = np.random.default_rng(stable_seed("scene", index))
    y, x = np.mgrid[0:96, 0:96]
    base = rng.integers(20, 70, 3)[None, None] + (x * 0.3 + y * 0.15)[..., None] + rng.normal(0, 6, (96, 96, 3))
    image = Image.fromarray(np.clip(base, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for spot in range(int(rng.integers(3, 7))):
        left, top = int(rng.integers(2, 78)), int(rng.integers(2, 78))
        colour = list(COLOURS.values())[int(rng.integers(4))]
        box = (left, top, left + 16, top + 16)
        shape = SHAPES[(spot + index) % 3]
        if shape == "circle":
            draw.ellipse(box, fill=colour)
        elif shape == "square":
            draw.rectangle(box, fill=colour)
        else:
            draw.polygon([(left, top + 16), (left + 8, top), (left + 16, top + 16)], fill=colour)
    draw.text((int(rng.integers(4, 60)), int(rng.integers(4, 80))), ("lamp", "tree", "fish")[index % 3], fill="white")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def question(
    family: str, index: int, rng: np.random.Generator
) -> tuple[str, tuple[str, ...], tuple[str, ...], list[str]]:
    """(question, references, choices, possible answers)."""
    colour, shape = list(COLOURS)[int(rng.integers(4))], SHAPES[int(rng.integers(3))]
    if family == "colour":
        references = tuple([colour] * int(rng.integers(6, 11)) + ["orange"] * 10)[:10]
        return f"What colour is the {shape}?", references, (), list(COLOURS)
    if family == "shape":
        return f"Which shape is {colour}?", (shape,), (), list(SHAPES)
    if family.startswith("existence"):
        return f"Is there a {colour} {shape} in the image?", (str(rng.choice(["yes", "no"])),), (), ["yes", "no"]
    if family in ("counting", "digit"):
        ask = f"How many {shape}s are there?" if family == "counting" else "Which digit is written in the picture?"
        return ask, (str(rng.integers(0, 6)),), (), list("0123456")
    if family == "word":
        return "Which word is printed?", (("lamp", "tree", "fish")[index % 3],), (), ["lamp", "tree", "fish", "fist"]
    if family == "choice":
        choices = ("a red circle", "a blue square", "a green triangle", "nothing of these")
        return "What is left of the word?", (str(rng.choice(list("ABCD"))),), choices, list("ABCD")
    return (
        f"Where is the {colour} {shape} from the word?",
        (str(rng.choice(["left", "right", "above", "below"])),),
        (),
        ["left", "right", "above", "below"],
    )


def kept_tokens(arm: Arm, scene_index: int) -> tuple[KeptTokens, ...]:
    """Which tokens the invented method keeps: near a spot, or anywhere."""
    if arm.layer is None:
        return ()
    rng = np.random.default_rng(stable_seed(arm.name, scene_index))
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    spots = rng.integers(0, SIDE, (3, 2))
    near = np.min([(x - a) ** 2 + (y - b) ** 2 for a, b in spots], axis=0).ravel() + rng.random(SIDE * SIDE)
    order = rng.permutation(SIDE * SIDE) if "random" in arm.name else np.argsort(near)
    if arm.name.startswith("least"):
        order = order[::-1]
    if not arm.merged:
        return (KeptTokens(arm.layer, 0, tuple(sorted(int(i) for i in order[: arm.kept]))),)
    dominant = [-1, *sorted(int(i) for i in order[: arm.kept - arm.merged - 1])]
    merged = sorted(int(i) for i in order[arm.kept - arm.merged - 1 : arm.kept - 1])
    counts = (0,) * len(dominant) + (12,) * len(merged)
    return (KeptTokens(arm.layer, 0, tuple(dominant + merged), counts),)


def generation(text: str, margin: float, possible: Sequence[str], arm: Arm, scene_index: int) -> Generation:
    """An answer with its first-token candidates and cost."""
    share = 1 / (1 + math.exp(-margin))
    others = [word for word in possible if word != text][:3]
    top = [TokenLogprob(1, text, math.log(share))]
    top += [TokenLogprob(2 + i, word, math.log((1 - share) / 2 ** (i + 1))) for i, word in enumerate(others)]
    kept = kept_tokens(arm, scene_index)
    layers = tuple(arm.kept if arm.layer is not None and layer >= arm.layer else SIDE * SIDE for layer in range(LAYERS))
    return Generation(text, (5, 2), "eos", tuple(top), margin, kept, Cost(2.1, 190, 2, layers, 100_000))


def runs(count: int = 1080, seed: int = 0) -> dict[str, list[Prediction]]:
    """The original and every arm, by name."""
    found: dict[str, list[Prediction]] = {"original": [], **{arm.name: [] for arm in ARMS}}
    plain = Arm("original", "keep_all", 0.0)
    for index in range(count):
        rng = np.random.default_rng(stable_seed("question", seed, index))
        family = list(FAMILIES)[index % len(FAMILIES)]
        kind, skill = FAMILIES[family]
        scene_index = index // 6
        ask, references, choices, possible = question(family, scene_index, rng)
        certainty = skill + rng.normal(0, 1.1)
        right = certainty > 0
        gold = max(set(references), key=references.count)
        wrong = [word for word in possible if word != gold]
        answer = gold if right else str(rng.choice(wrong))
        base = Prediction(
            f"{family}-{index:05d}", "pocket", kind, ask, f"prompt-{index}", (f"image-{scene_index}",), references,
            choices, f"image-{scene_index}", family, answer, answer, score(answer, references, kind),
        )  # fmt: skip
        found["original"].append(
            replace(base, generation=generation(answer, abs(certainty), possible, plain, scene_index))
        )
        for arm in ARMS:
            if arm.limit is not None and index >= arm.limit:
                continue
            noise = rng.normal(0, arm.noise * (2.0 if arm.weak == family else 1.0))
            left = abs(certainty) - abs(noise)
            said, text = answer, answer
            if left < 0:
                said = text = (
                    str(rng.choice(wrong)) if right else gold if rng.random() < 0.75 else str(rng.choice(wrong))
                )
            elif rng.random() < arm.noise * 0.02:
                text = f"It is {said}."
            made = replace(base, text=text, answer=said, score=score(said, references, kind))
            if rng.random() < 0.002 * arm.noise:
                made = replace(made, text="", answer=UNPARSED, score=0.0, failure=Failure("RunError", "out of memory"))
            else:
                made = replace(made, generation=generation(text, max(0.01, abs(left)), possible, arm, scene_index))
            found[arm.name].append(made)
    return found


def score(answer: str, references: Sequence[str], kind: AnswerKind) -> float:
    """Ten annotators: a third for each that agrees; else all or nothing."""
    hits = list(references).count(answer)
    return min(1.0, hits / 3) if kind == "open_ten" else float(hits > 0)


def report(count: int = 1080, names: Sequence[str] | None = None, *, control: bool = True) -> ReportData:
    """A whole report; `names` chooses the accelerated arms."""
    found = runs(count)
    arms = [arm for arm in ARMS if (arm.name == "control" and control) or (names is None or arm.name in names)]
    arms = [arm for arm in arms if arm.name != "control" or control]
    reports = []
    for arm in arms:
        keys = {item.key for item in found[arm.name]}
        original = [item for item in found["original"] if item.key in keys]
        again = [item for item in found["control"] if item.key in keys]
        use = again if control and arm.name != "control" else None
        reports.append(
            ArmReport(arm.name, arm.recipe, compare(original, found[arm.name], control=use), found[arm.name])
        )
    common = {"device": "cpu", "dtype": "float32", "attention": "sdpa", "versions": {"torch": "2.13.0", "numpy": "2.4"}}
    provenance = {"original": {**common, "batch_size": 16, "order": "by_image"}}
    for arm in arms:
        batch = (
            {"batch_size": 5, "order": "shuffled"} if arm.name == "control" else {"batch_size": 16, "order": "by_image"}
        )
        provenance[arm.name] = {**common, **batch, "recipe": arm.recipe, "weights_sha256": "9f" * 32}
    return ReportData(
        title="pocket-demo",
        model="pocket",
        arms=reports,
        original=found["original"],
        notes=("llm-int8 answered 200 questions: 8-bit matrices are slow on a CPU.",),
        provenance=provenance,
        image=lambda item: scene(int(item.image_sha256[0].removeprefix("image-"))),
    )


if __name__ == "__main__":
    demo = report()
    print_terminal(demo)
    print(write_html(demo, sys.argv[1] if len(sys.argv) > 1 else "report.html"))
