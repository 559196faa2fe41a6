"""Changes the bundled specs in all ways, and sees to it that each is then a network or a `SpecError`.

    python tests/spec/mutate_specs.py --count 20000 --build 300
    python tests/spec/mutate_specs.py --only 4711

prints what became of them, by kind of change. A failure is printed with its spec and its number; `--only` repeats it.
"""

import argparse
import functools
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PART = 250  # numbers that a process takes at a time


def part(first: int, *, count: int, seed: int, builds: int):
    """What became of the specs from one number on."""
    import torch
    from support.mutation_run import run

    torch.set_num_threads(1)
    numbers = range(first, min(first + PART, count))
    with tempfile.TemporaryDirectory() as folder:
        share = round(builds * numbers.stop / count) - round(builds * first / count)
        return run(numbers, seed, Path(folder), share, len(numbers))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="how many specs (%(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="where to go on (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all chance (%(default)s)")
    parser.add_argument("--build", type=int, default=0, metavar="N", help="how many to build and call (%(default)s)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="(%(default)s)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one spec, whose text is printed")
    arguments = parser.parse_args()
    if arguments.only is not None:
        return only(arguments.only, arguments.seed)
    begin = time.perf_counter()
    work = functools.partial(part, count=arguments.count, seed=arguments.seed, builds=arguments.build)
    firsts = range(arguments.first, arguments.count, PART)
    from support.mutation_run import Tally

    tally = Tally()
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for done, result in enumerate(pool.imap_unordered(work, firsts), 1):
            tally.join(result)
            for failure in result.failures:
                print(f"{failure}\n{'-' * 80}", flush=True)
            print(f"\r{done} of {len(firsts)} parts, {len(tally.failures)} failures", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(tally.table())
    print(f"{time.perf_counter() - begin:.0f} s in {arguments.processes} processes")
    return 1 if tally.failures else 0


def only(number: int, seed: int) -> int:
    """Repeats one, and says what is wrong with it."""
    from support.mutation_run import explained

    with tempfile.TemporaryDirectory() as folder:
        text, failed = explained(seed, number, Path(folder))
    print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
