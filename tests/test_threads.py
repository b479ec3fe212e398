"""No program of this project spins: each sets the wait policy before it loads torch."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = sorted(
    str(path.relative_to(ROOT))
    for part in ("captioner", "serving", "training", "scripts")
    for path in (ROOT / part).rglob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
# Of those that load torch late, or through a package: what makes them do so.
CALLS = {
    "captioner": "from captioner.cli import main; main(['caption', PHOTO, '--checkpoint', '.'])",
    "serving": "import serving.server, torch",
    "training": "import training.train_coco",
}

# Runs programs one after another as far as their first import of torch, which is refused: all
# together they take less time than torch needs to load once.
WALKER = """
import json, os, runpy, sys

OURS = ("captioner", "serving", "training", "stress")

class TorchIsLoaded(BaseException):
    pass

class Guard:
    def find_spec(self, name, *_):
        if name == "torch":
            raise TorchIsLoaded

def policy_at_torch(start):
    known, path = set(sys.modules), list(sys.path)
    os.environ.pop("OMP_WAIT_POLICY", None)
    try:
        start()
    except TorchIsLoaded:
        return os.environ.get("OMP_WAIT_POLICY", "not set")
    except SystemExit:
        pass
    finally:
        for name in set(sys.modules) - known:
            if name.split(".")[0] in OURS or name.startswith("bench_"):
                del sys.modules[name]
        sys.path[:] = path
    return "no torch"

def program(file):
    sys.path.insert(0, os.path.dirname(file))  # as Python does with a script
    runpy.run_path(file, run_name="walked")

sys.meta_path.insert(0, Guard())
programs, calls, PHOTO = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
found = {file: policy_at_torch(lambda: program(file)) for file in programs}
found |= {name: policy_at_torch(lambda: exec(code)) for name, code in calls.items()}
print(json.dumps(found))
"""


def test_every_program_sets_the_policy_before_it_loads_torch(photographs: list[Path]) -> None:
    command = [sys.executable, "-c", WALKER, *map(json.dumps, (PROGRAMS, CALLS))]
    done = subprocess.run(
        [*command, str(photographs[0])], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout or "{}")
    assert found, done.stderr
    assert "not set" not in found.values(), found
    assert all(found[name] == "PASSIVE" for name in CALLS), found
    loading = [name for name, policy in found.items() if policy == "PASSIVE"]
    assert {"training/train_coco.py", "scripts/bench_training.py"} <= set(loading)
