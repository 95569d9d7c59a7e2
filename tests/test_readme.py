"""The README's Python runs, and prints what the README says it prints."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def normal(text):
    return " ".join(text.replace("[ ", "[").split())


def test_the_examples_print_what_they_claim(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        names = {}  # each block stands on its own
        exec(block, names)
    claimed = re.findall(r"^print\(.*?\)\s+# (.*)$", "".join(blocks), re.MULTILINE)
    assert len(claimed) == 3
    assert normal(capsys.readouterr().out) == normal(" ".join(claimed))
    assert abs(names["loss"] - 2.303) < 0.05
