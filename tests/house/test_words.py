"""The field's words: what has a name in the literature is called by it, in identifiers, docstrings, messages and text.

A finding names file, line, our word and the word to use. A line that must keep an old word, such as a hidden alias
of a flag, says so by the comment `# old name`.
"""

from __future__ import annotations

import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("dfine_lib", "data_tools", "dfine_tools", "notebooks")
TEXTS = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "notebooks/**/*.ipynb")
KEEPS = "# old name"

# In prose: docstrings, comments, messages, text. A pattern is a whole word or phrase; ordinary senses are spared.
PROSE = {
    r"told(?! apart)": "reported, logged, raised, given",
    r"mend(s|ed|ing)?": "fix, repair",
    r"(?<!page )(?<!segmentation )faults?": "problem, error",
    r"guess(es)?": "prediction; initial box",
    r"pictures?(?!/Frame)": "image; figure, of what is drawn",
    r"(model|layer|network|detector|decoder|query|queries)('s|s'|s)? answers?": "output; prediction",
    r"answers? of (the |a |each |every )?(model|layer|network|detector|decoder|quer)\w*": "output; prediction",
    r"(?<!leave )(?<!leaves )(?<!no )(?<!makes )(?<!make )(?<!enough )rooms?(?! (for|left|to|is left))":
        "package, module",
    r"decades? of lessons": "part",
    r"gated?|gates": "export validation, parity check; target gating layer",
    r"(sampling|starting|sampled) places?": "sampling location",
    r"how sure|surer|surest|most sure|sureness": "confidence; highest-scoring, most confident",
    r"(?<!convex )hulls?": "smallest enclosing box",
    r"(the|a|its|their|each) push(es)?|push on": "gradient with respect to …",
    r"oftener": "more often; oversampled",
    r"(went|goes|go|going) on (where|from|as if|with the run)|went on|(run|training) goes on": "resume",
    r"(?<!nothing )in a row(?! (of|says))": "stack, sequence, consecutive",
    r"by turns": "interleaved",
    r"(held|hold|holds|holding) (\w+ )?against": "compare with, check against",
    r"called done": "reported as finished",
    r"without a word|makes? no noise": "silently",
    r"(up )?to rounding": "up to floating-point error",
    r"set aside": "ignored",
    r"dear|dearer": "expensive",
    r"verdicts?": "match status, error type",
    r"(in|of) the book": "recipes.py",
    r"small change": "element-wise operations",
    r"(the )?(twelve|12) numbers": "the 12 COCO metrics",
    r"changes? owner": "be re-assigned",
    r"humps?": "peak; bimodal",
    r"middle half": "interquartile range",
    r"least score": "score threshold",
    r"most memory": "peak memory",
    r"(images|pictures|batches) a second": "images/s",
    r"seconds a step": "s/step",
    r"(?<!ground )(?<!ground-)truths?(?! (of|table|value))": "ground truth, ground-truth box",
    r"true box(es)?": "ground-truth box",
    r"COCO's form": "COCO format",
    r"weighed apart": "weighted separately",
    r"who may attend|may look at whom": "attention mask",
    r"nobody sees": "padding queries",
    r"(learn|train|start)\w* from nothing|(model|weights) from nothing": "trained from scratch, randomly initialised",
    r"shared out": "sharded, divided",
    r"deployed form": "deploy mode",
    r"raw weights": "non-EMA weights",
    r"averaged weights": "EMA weights",
    r"trembl(e|es|ing)": "fluctuate",
    r"rescue[ds]?": "large correction",
    r"by heart": "memorise, overfit",
    r"(is|are) craft": "engineering practice",
    r"box(es)? walks?": "a box being refined",
    r"from the surest": "by descending score",
}  # fmt: skip
# In identifiers: a part of a name between underscores or capitals.
NAMES = {
    r"told": "report, log, raise",
    r"mend(s|ed|ing)?": "fix, repair",
    r"faults?": "problem, error",
    r"guess(es|ed)?": "predictions, outputs, initial",
    r"pictures?": "image, figure",
    r"answers": "outputs, predictions",
    r"(ddf|distillation|matched|level|initial|attention)_shares?": "weights, fractions, normalizers",
    r"decades?": "part",
    r"gates?|gated": "validation, gating",
    r"(sampling|starting|image)_places": "locations",
    r"surest|surer": "top, best",
    r"hulls?": "enclosing",
    r"push": "gradient",
    r"oftener": "oversampled",
    r"verdicts?": "status, error_type",
    r"(?<!ground_)truths?": "ground_truth, targets",
    r"cutouts?": "window",
    r"^passes|num_passes": "micro_batches",
    r"rescues?": "correction",
    r"may_attend": "mask",
}
# Files that are not clean yet; a file that is clean leaves the list.
NOT_YET: tuple[str, ...] = ("docs/speed.md",)  # names of cases as they are recorded
_PROSE = [(re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE), word) for pattern, word in PROSE.items()]
_NAMES = [(re.compile(rf"(?<![^_])(?:{pattern})(?![^_])"), word) for pattern, word in NAMES.items()]
_NO_PROSE = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.NEWLINE, tokenize.NL}
AUTHORS = ("gate", "Gate")  # names of the published parameters, allowed in the model and in lessons
Finding = tuple[int, str, str]  # line, our word, the word to use


def in_prose(text: str, line: int = 1) -> Iterator[Finding]:
    for pattern, word in _PROSE:
        for match in pattern.finditer(text):
            yield line + text.count("\n", 0, match.start()), match[0].replace("\n", " "), word


def in_name(name: str, line: int) -> Iterator[Finding]:
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    for pattern, word in _NAMES:
        if pattern.search(snake):
            yield line, name, word


def in_code(code: str) -> Iterator[Finding]:
    """Findings in names, comments and strings, except in lines that keep an old name."""
    lines = code.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        at = token.start[0]
        if KEEPS in "".join(lines[at - 1 : at]):
            continue
        if token.type == tokenize.NAME:
            yield from in_name(token.string, at)
        elif token.type not in _NO_PROSE:
            yield from in_prose(re.sub(r"\s*\n\s*", lambda m: "\n" * m[0].count("\n"), token.string), at)


def in_notebook(notebook: dict) -> Iterator[Finding]:
    """Findings in the cells' sources; the line is that of the cell's own number."""
    for number, cell in enumerate(notebook["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found = in_prose(re.sub(r"\]\([^)]*\)|<[^>]*>", "", text))  # links' targets and tags are no prose
        else:
            found = in_code("\n".join(re.sub(r"^(\s*)[%!]", r"\1#", line) for line in text.splitlines()))
        yield from ((number, ours, word) for _, ours, word in found)


def findings(path: Path) -> list[Finding]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return sorted(found for found in in_code(text) if path.parent.name != "model" or found[1] not in AUTHORS)
    if path.suffix == ".ipynb":
        return sorted(found for found in in_notebook(json.loads(text)) if found[1] not in AUTHORS)
    # Links' targets, tags and code (commands, names of files and classes, which the modules' own lines answer for).
    spared = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]*>", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)
    return sorted(in_prose(spared))


def files() -> list[str]:
    code = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    text = [path for pattern in TEXTS for path in ROOT.glob(pattern)]
    found = {path.relative_to(ROOT).as_posix() for path in code + text}
    return sorted(name for name in found if ".ipynb_checkpoints" not in name and "/_build/" not in name)


@pytest.mark.parametrize("file", [name for name in files() if name not in NOT_YET])
def test_a_file_uses_the_words_of_the_field(file):
    found = [f"{file}:{line}: {ours!r} is a word of ours, write {word}" for line, ours, word in findings(ROOT / file)]
    assert found == []


def test_words_in_names_comments_and_strings_are_found_with_their_lines():
    code = 'def new_picture(hull):\n    """What the layer guesses."""\n    return hull  # the gate\n'
    assert [(line, ours) for line, ours, _ in sorted(in_code(code))] == [
        *((1, "hull"), (1, "new_picture"), (2, "guesses"), (3, "gate"), (3, "hull")),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "the share of the images in val, and room for more",
        "the target gating layer; a page fault; the gateway",
        "ground truth and ground-truth boxes; the truth of a tensor",
        "the answer to an exercise; nothing is guessed; told apart by colour",
        "pushed to a mirror; nothing in a row says which",
    ],
)
def test_ordinary_senses_are_no_finding(text):
    assert list(in_prose(text)) == []


def test_an_old_name_may_stay_where_it_is_said_to_be_one():
    assert list(in_code('ALIASES = {"--gate": "--validate"}  # old name\n')) == []
