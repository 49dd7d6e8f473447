"""`python -m octavo.tests.fuzz --count 10000`: random graphs through every pass and the compiler, against the reference."""

from __future__ import annotations

import argparse
import sys
import time

from .differential import LEVELS, STAGES
from .run import ANY, QUANTIZED, findings

STAGES_HELP = f"what to check: {','.join(STAGES)} (default), and native code for {','.join(LEVELS)} (default of --quantized)"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m octavo.tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many graphs (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed; a failure is repeated by its seed and --count 1")
    parser.add_argument("--nodes", type=int, default=12, help="operations in a graph (default 12)")
    parser.add_argument("--quantized", action="store_true", help="networks of 8-bit values instead of graphs of all ops")
    parser.add_argument("--stages", help=STAGES_HELP)
    parser.add_argument("--no-shrink", action="store_true", help="report failing graphs as they are")
    parser.add_argument("--max-failures", type=int, default=10, help="stop after so many (default 10)")
    options = parser.parse_args()
    kind = QUANTIZED if options.quantized else ANY
    stages = tuple(options.stages.split(",")) if options.stages else kind.stages
    if unknown := set(stages) - {*STAGES, *LEVELS}:
        parser.error(f"no stage {min(unknown)!r}; the stages are {', '.join((*STAGES, *LEVELS))}")

    start = time.monotonic()
    found = 0
    seeds = range(options.seed, options.seed + options.count)
    for k, finding in enumerate(findings(seeds, nodes=options.nodes, stages=stages, shrinking=not options.no_shrink, kind=kind), 1):
        if finding is not None:
            found += 1
            _progress("")
            print(finding, flush=True)
            if found == options.max_failures:
                print(f"stopped after {found} failures in {k} graphs")
                return 1
        rate = k / (time.monotonic() - start)
        line = f"{k}/{options.count} graphs, {found} failures, {rate:.1f}/s, {(options.count - k) / rate:.0f} s left"
        _progress(line)
        if k % 500 == 0 and not sys.stderr.isatty():
            print(line, file=sys.stderr, flush=True)
    _progress("")
    print(f"{options.count} graphs, {found} failures, {time.monotonic() - start:.0f} s")
    return 1 if found else 0


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
