"""The documents of what was measured: docs/results/scale.md, a picture, part of docs/scale.md.

All figures of both come from scale.json; what was not measured yet is said to be so.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from captioner.files import write_atomically
from scale import NAME, figures
from scale.arithmetic import (
    COUNTS,
    CPU,
    GET_DOLLARS,
    GETS_PER_SECOND,
    GPU,
    GPU_ENCODER,
    HOURS,
    SPOT,
    Estimate,
    gpu_rate,
)
from training.plots import BLUE, INK, ORANGE, STYLE, new_figure, write_picture

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
WANTED = 0.9  # of the library's rate
MEMORY_WANTED = 1.1  # times that of the fewest photographs


def write_documents(results: Path) -> None:
    """Write what scale.json says as documents beside it and above it."""
    found = figures(results)
    text = "\n".join([*_head(), *_rates(found), *_memory(found), *_cluster(found)])
    write_atomically(results / f"{NAME}.md", (text.rstrip() + "\n").encode())
    page = results.parent / f"{NAME}.md"
    if "rates" not in found:
        return
    _draw(found["rates"]["found"], results / f"{NAME}.png")
    if page.exists():
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        made = "\n".join(_arithmetic(found["rates"]["found"]))
        content = f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"
        write_atomically(page, content.encode())


def _head() -> Iterator[str]:
    yield "# Captioning data sets: measurements"
    yield ""
    yield "Written by the commands below; [what follows from it](../scale.md)."
    yield ""


def _about(facts: Mapping[str, Any]) -> Iterator[str]:
    machine = facts["machine"]
    yield f"    {facts['command']}"
    yield ""
    yield (
        f"{machine['model']}, {machine['cores']} cores, commit {machine['commit']}; other programs "
        f"used {facts['load_of_others']:.0%} of the processor before."
    )
    yield ""


def _rates(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Photographs a second"
    yield ""
    if "rates" not in found:
        yield "Not measured yet: `python scripts/bench_dataset.py`."
        yield ""
        return
    yield from _about(found["rates"])
    rates = found["rates"]["found"]
    yield (
        f"{rates['photographs']:,} photographs of {rates['bytes_each'] / 1e3:.0f} kB each, the "
        "model in the box, the median of the turns. First captions: seconds from the start of the "
        "program. Steady: after the start. As a whole: from the start to the exit. Wanted: "
        f"{WANTED:.0%} of the library's steady rate on the same cores."
    )
    yield ""
    yield (
        "| cores | by | first captions (s) | steady, photographs/s | of the library | as a whole | "
        "of the library | decoding | encoder | words |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for cores in _cores(rates):
        # Older figures have no more than the steady rates.
        rows, whole = rates[cores]["rates"], rates[cores].get("whole", {})
        starts = rates[cores].get("seconds_to_first", {})
        for name, rate in rows.items():
            share = rate / rows["library"]
            missed = "" if share >= WANTED else ", **missed**"
            parts = ["", "", ""]
            if work := rates[cores]["work_seconds"].get(name):
                total = sum(work.values())
                parts = [f"{work[one] / total:.0%}" for one in ("decode", "encode", "search")]
            told = "" if name == "library" else f"{share:.0%}{missed}"
            start = f"{starts[name]:.1f}" if starts else ""
            told_whole = ["", ""]
            if whole:
                told_whole[0] = f"{whole[name]:.1f}"
                if name != "library":
                    told_whole[1] = f"{whole[name] / whole['library']:.0%}"
            cells = [cores, name, start, f"{rate:.1f}", told, *told_whole, *parts]
            yield f"| {' | '.join(cells)} |"
    yield ""


def _memory(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Memory"
    yield ""
    if "memory" not in found:
        yield "Not measured yet: `python scripts/bench_dataset.py --memory 1000 100000`."
        yield ""
        return
    yield from _about(found["memory"])
    levels = found["memory"]["found"]
    least = min(one["most_mib"] for one in levels.values())
    yield "All processes of a job, a tiny model, links to the hundred smallest photographs."
    yield ""
    yield "| photographs | most MiB | seconds |"
    yield "|---|---|---|"
    for count, one in levels.items():
        grown = "" if one["most_mib"] <= MEMORY_WANTED * least else ", **grown**"
        yield f"| {int(count):,} | {one['most_mib']:.0f}{grown} | {one['seconds']:.0f} |"
    yield ""


def _cluster(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Two nodes, and what is killed"
    yield ""
    for part in ("batch", "traffic"):
        if part not in found:
            yield f"Not checked yet: `python scripts/cluster_check.py --parts {part}`."
            yield ""
            continue
        yield from _about(found[part])
        checks = found[part]["found"]
        yield (
            "Each node in a network namespace of its own."
            if checks["namespaces"]
            else "Both nodes at one address of this machine: there were no network namespaces."
        )
        yield ""
        yield "| | result | figures |"
        yield "|---|---|---|"
        for name, facts in checks["checks"].items():
            result = "passed" if facts["passed"] else "**failed**"
            told = ", ".join(
                f"{what.replace('_', ' ')} {value}"
                for what, value in facts.items()
                if what != "passed"
            )
            yield f"| {name} | {result} | {told} |"
        yield ""


def _cores(rates: Mapping[str, Any]) -> list[str]:
    return sorted((name for name in rates if name.isdecimal()), key=int)


def _per_core(rates: Mapping[str, Any]) -> tuple[float, float]:
    """Return photographs a second of a core where all are busy, and seconds to decode one."""
    most = _cores(rates)[-1]
    work, count = rates[most]["work_seconds"]["local"], rates["photographs"]
    return rates[most]["rates"]["local"] / int(most), work["decode"] / count


def _estimates(rates: Mapping[str, Any]) -> list[tuple[str, Estimate]]:
    core, decode = _per_core(rates)
    size = rates["bytes_each"]
    rate, holds_up = gpu_rate(decode)
    return [
        (CPU.name, Estimate(CPU, core * CPU.vcpus, size)),
        (SPOT.name, Estimate(SPOT, core * SPOT.vcpus, size)),
        (f"{GPU.name}, held up by {holds_up}", Estimate(GPU, rate, size)),
    ]


def _arithmetic(rates: Mapping[str, Any]) -> Iterator[str]:
    core, decode = _per_core(rates)
    yield (
        f"A core captions {core:.1f} photographs a second when all cores are busy, and decodes one "
        f"in {decode * 1e3:.1f} ms; a photograph has {rates['bytes_each'] / 1e3:.0f} kB "
        "([measured](results/scale.md)). So, if a vCPU is as quick as a core here:"
    )
    yield ""
    yield (
        f"| machine | vCPUs | photographs/s | million for | machines for 10 million in "
        f"{HOURS:.0f} h | for 1 billion in {HOURS:.0f} h | machine-hours for 1 billion | "
        "its network used |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name, one in _estimates(rates):
        yield (
            f"| {name} | {one.machine.vcpus} | {one.rate:,.0f} | ${one.dollars(10**6):,.2f} | "
            f"{one.machines(10**7):,} | {one.machines(10**9):,} | "
            f"{one.machine_hours(10**9):,.0f} | {one.network_share:.0%} |"
        )
    yield ""
    first = _estimates(rates)[0][1]
    readers = first.rate * first.machines(10**9)
    yield (
        f"A billion photographs in {HOURS:.0f} h are {readers:,.0f} a second and "
        f"{first.gigabits(10**9):,.1f} Gbit/s together. As single objects of S3 that is "
        f"${GET_DOLLARS * 1e9:,.0f} of requests, and {readers / GETS_PER_SECOND:.1f} times what "
        f"one prefix answers ({GETS_PER_SECOND:,} a second); in tars of 1,000 it is "
        f"${GET_DOLLARS * 1e6:,.2f} and {readers / 1000:,.0f} requests a second."
    )
    yield ""
    balanced = GPU_ENCODER * decode
    yield (
        f"A GPU whose encoder does {GPU_ENCODER:,.0f} photographs a second needs "
        f"{balanced:.0f} cores that decode for it."
    )
    yield ""
    yield "![Hours by machines, for ten million and a billion photographs](results/scale.png)"


def _draw(rates: Mapping[str, Any], path: Path) -> None:
    import matplotlib as mpl

    counts = [2**power for power in range(11)]
    with mpl.rc_context(STYLE):
        figure = new_figure(8, 4.2)
        axes = figure.subplots()
        cpu, _, gpu = _estimates(rates)
        for (_, one), colour in ((cpu, BLUE), (gpu, ORANGE)):
            for label, style in (("10 million", "--"), ("1 billion", "-")):
                hours = [one.machine_hours(COUNTS[label]) / count for count in counts]
                name = f"{label}, {one.machine.name}"
                axes.plot(counts, hours, style, color=colour, label=name)
        axes.axhline(HOURS, color=INK, linewidth=0.8)
        axes.annotate("a day", (counts[-1], HOURS), ha="right", va="bottom", color=INK)
        axes.set(xscale="log", yscale="log", xlabel="machines", ylabel="hours")
        axes.legend(loc="upper right")
    write_picture(path, figure)
