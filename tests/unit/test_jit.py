"""Machine code that is kept on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INNER = "from beam_jobs.jit import compiled_inline\n@compiled_inline\ndef inner(x):\n    return x + {}\n"
OUTER = "from beam_jobs.jit import compiled\nfrom inner import inner\n@compiled\ndef outer(x):\n    return inner(x)\n"


def test_what_a_changed_module_became_part_of_is_compiled_anew(tmp_path: Path) -> None:
    (tmp_path / "outer.py").write_text(OUTER)
    for added in (1, 2):
        (tmp_path / "inner.py").write_text(INNER.format(added))
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from outer import outer; print(outer(10))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert int(done.stdout) == 10 + added
    assert list(tmp_path.rglob("*.nbi"))  # it was kept


def test_of_processes_that_start_together_one_compiles(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text(INNER.format(1))
    (tmp_path / "outer.py").write_text(OUTER)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from outer import outer\n"
        "print('ready', flush=True); sys.stdin.readline(); outer(10)\n"
        "print(sum(outer.stats.cache_misses.values()))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    assert sorted(process.communicate()[0] for process in started) == ["0\n", "0\n", "1\n"]
