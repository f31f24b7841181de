"""Peak memory of `chemxor features` over files of growing length, as CSV.

    python3 bench/memory.py CHEMXOR [--quick]
"""
import csv
import itertools
import os
import pathlib
import sys
import tempfile
import time

sizes = [10_000, 100_000] if "--quick" in sys.argv else [10_000, 100_000, 1_000_000]
with open("data/esol.csv", newline="") as file:
    smiles = [row["smiles"] for row in csv.DictReader(file)]
print("rows,peak_mib,seconds")
with tempfile.TemporaryDirectory() as name:
    table, output = pathlib.Path(name) / "in.smi", pathlib.Path(name) / "out.csv"
    for rows in sizes:
        with table.open("w") as file:
            for number, text in enumerate(itertools.islice(itertools.cycle(smiles), rows)):
                file.write(f"{text} m{number}\n")
        start = time.perf_counter()
        child = os.posix_spawn(
            sys.argv[1],
            ["chemxor", "features", "--quiet", "--featuriser", "ecfp4-counts",
             "--input", str(table), "--output", str(output)],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )
        _, status, usage = os.wait4(child, 0)
        assert status == 0, status
        with output.open("rb") as file:
            assert sum(1 for _ in file) == rows + 1, "a row is missing"
        print(f"{rows},{usage.ru_maxrss / 1024:.1f},{time.perf_counter() - start:.1f}", flush=True)
        output.unlink()
