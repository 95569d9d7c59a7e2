"""The README's Python runs, and prints what the README says it prints."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def normal(text):
    return " ".join(text.replace("[ ", "[").split())


def test_the_examples_print_what_they_claim(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    losses = 0
    for block in blocks:
        names = {}  # each block stands on its own
        exec(block, names)
        if "loss" in names:
            assert abs(names["loss"] - 2.303) < 0.05
            losses += 1
    claimed = re.findall(r"^print\(.*?\)\s+# (.*)$", "".join(blocks), re.MULTILINE)
    assert len(claimed) == 3
    assert normal(capsys.readouterr().out) == normal(" ".join(claimed))
    assert losses == 2  # the layers and the engine
