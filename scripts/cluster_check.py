"""Kill what can be killed of a Ray cluster, and count: is every row and every answer there once?

    python scripts/cluster_check.py --data data/flickr8k/images

Two Ray nodes run on this machine, as root in network namespaces of their own. Jobs of
`captioner caption-dataset` run on both: one undisturbed, one whose second node is killed with all
of its processes, one whose driver is killed and resumed. Then the service answers requests while
replicas are killed. What was found is printed and written to docs/results/scale.md. Exit status 1
says that something was lost or came twice.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.batch import check_batch
from cluster.nodes import Cluster
from scale import RESULTS, ROOT, keep, load_of_others
from scale.report import write_documents

from captioner.data.image_formats import is_image_file
from captioner.errors import DataError
from captioner.extras import require
from captioner.flags import options_parser
from captioner.options import AT_LEAST_ONE, Options, option
from captioner.program import run_program

PARTS = ("batch", "traffic")


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    data: Path = option(
        ROOT.parent / "shared" / "data" / "flickr8k" / "images", "folder of photographs"
    )
    photographs: int = option(320, "of each batch job", within=AT_LEAST_ONE)
    parts: tuple[str, ...] = option(PARTS, "what is checked", choices=PARTS)
    out: Path = option(RESULTS, "folder of scale.json and scale.md", metavar="FOLDER")


def main(argv: Sequence[str] | None = None) -> int:
    parser = options_parser(CheckOptions, prog="cluster_check.py", description=__doc__)
    options = CheckOptions.from_json(vars(parser.parse_args(argv)))
    require("ray", "cluster_check.py", "ray", "pyarrow")
    files = sorted(filter(is_image_file, options.data.iterdir())) if options.data.is_dir() else []
    if not files:
        raise DataError(f"{options.data} holds no photograph; name a folder with --data")
    command = f"python scripts/{Path(__file__).name} {' '.join(argv or sys.argv[1:])}".strip()
    load = load_of_others()
    has_passed = True
    # Short, for the paths of Ray's sockets.
    with tempfile.TemporaryDirectory(prefix="cc", dir="/tmp") as folder:
        for part in options.parts:  # each on a cluster of its own
            place = Path(folder) / part
            place.mkdir()
            with Cluster(place) as cluster:
                checks = _check(part, cluster, place, files, options.photographs)
            found = {"namespaces": cluster.has_namespaces, "checks": checks}
            keep(options.out, part, command, found, load)
            for name, facts in checks.items():
                has_passed &= facts["passed"]
                print(f"{name}: {'passed' if facts['passed'] else 'FAILED'}")
                for what, value in facts.items():
                    print(f"  {what.replace('_', ' ')}: {value}")
    write_documents(options.out)
    return 0 if has_passed else 1


def _check(
    part: str, cluster: Cluster, folder: Path, files: list[Path], photographs: int
) -> dict[str, dict[str, Any]]:
    if part == "batch":
        return check_batch(cluster, folder, files, photographs)
    from cluster.traffic import check_traffic  # type: ignore[import-not-found, unused-ignore]

    return {"replicas killed": check_traffic(cluster, folder)}


if __name__ == "__main__":
    sys.exit(run_program("cluster_check", main))
