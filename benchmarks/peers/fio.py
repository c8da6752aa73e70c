"""Random reads of a file by fio on io_uring, as a second opinion on limit/reads.c:
`python -m benchmarks.peers.fio`."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks import reading


def main() -> None:
    options = reading.arguments(["io_uring"])
    command = [
        *("fio", "--name=reads", "--readonly", "--rw=randread", "--output-format=json"),
        *(f"--filename={options.file}", f"--ioengine={options.kind}"),
        *(f"--bs={reading.BYTES}", f"--iodepth={reading.DEPTH}"),
        *("--time_based", f"--runtime={int(options.seconds * 1000)}ms", "--invalidate=0"),
        f"--direct={int(options.cache == 'direct')}",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (job,) = json.loads(done.stdout)["jobs"]
    count = job["read"]["total_ios"]
    seconds = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
    print(f"runs on fio, {options.kind}", file=sys.stderr)
    figures = {"messages": count, "rate": job["read"]["iops"], "cpu_us": seconds / count * 1e6}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
