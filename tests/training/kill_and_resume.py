"""Kills a training at random moments, resumes it each time, and compares it with one that was left alone.

    python tests/training/kill_and_resume.py --kills 20

The weights, `metrics.csv`, `results.json` but for times, and every point in TensorBoard have to be the same.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (%(default)s)")
    arguments = parser.parse_args()
    from support.killed_training import differences, killed_and_resumed, trained_in_one_go

    with tempfile.TemporaryDirectory() as folder:
        whole, parts = Path(folder, "whole"), Path(folder, "parts")
        seconds = trained_in_one_go(whole, arguments.kills)
        print(f"an epoch of a training in one go took {seconds:.1f} s", flush=True)
        killed_and_resumed(parts, arguments.kills, seconds, arguments.seed, say=lambda text: print(text, flush=True))
        found = differences(whole, parts)
    print("\n".join(found) or "equal: weights, metrics.csv, results.json, TensorBoard")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
