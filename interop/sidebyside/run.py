"""Side by side: one script against two servers, every answer compared.

    run.py [--seed N] [--seeds K] [--length N] [--left WORDS] [--replay FILE] [--no-shrink] [server-command...]

The left server is the reference (interop/apache), the right one the server command (the release build). A difference is
shrunk to its shortest script, printed, and written to a file that `--replay` plays again.
"""

import argparse
import json
import os
import random
import sys
import time
from collections import Counter

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import server  # noqa: E402
from compare import Context, Difference  # noqa: E402
from play import Player  # noqa: E402
from script import SLOTS, SUPER_DIGEST, Generator  # noqa: E402

SHRINK_SECONDS = 180
SHOWN_STEPS = 20


def flags_for(seed):
    """The servers' switches; each seed has its own mixture."""
    rng = random.Random(seed * 7919)
    flags = ["-Dzookeeper.DigestAuthenticationProvider.superDigest=" + SUPER_DIGEST,
             "-Dzookeeper.enforceQuota=true",
             # Containers and TTL nodes must not vanish while a script runs.
             "-Dznode.container.checkIntervalMs=3600000"]
    if rng.random() < 0.75:
        flags.append("-Dzookeeper.extendedTypesEnabled=true")
    config = {"minSessionTimeout": 100000, "maxSessionTimeout": 600000}
    if rng.random() < 0.5:
        config["reconfigEnabled"] = "true"
    return flags, config


class Bench:
    def __init__(self, seed, left, right):
        flags, config = flags_for(seed)
        self.servers = [server.Server(left, config, flags, "left"), server.Server(right, config, flags, "right")]

    def play(self, steps):
        """Plays the script on two empty servers; raises `Difference`; returns the comparison's context."""
        for s in self.servers:
            s.wipe()
        for s in self.servers:
            s.start()
        players = [Player(s, SLOTS) for s in self.servers]
        context = Context(players)
        try:
            for index, step in enumerate(steps):
                started_at = players[1].zxid
                reference = players[0].zxid

                def back_left(n):
                    return max(0, reference - n)

                def back_right(n):
                    return context.to_right(max(0, reference - n))

                left = players[0].step(step, back_left)
                right = players[1].step(step, back_right)
                context.step(index, step, left, right, started_at)
                for s in self.servers:
                    if not s.running():
                        raise Difference(index, step, f"{s.command[0]} died:\n{s.tail()}")
        finally:
            for player in players:
                player.forget()
        return context

    def remove(self):
        for s in self.servers:
            s.remove()


def differs(bench, steps):
    try:
        bench.play(steps)
        return None
    except Difference as difference:
        return difference


def shrink(bench, steps, difference):
    """Takes steps away, then requests out of batches and members out of multis, as long as a difference remains."""
    deadline = time.monotonic() + SHRINK_SECONDS
    steps = steps[:difference.step_index + 1]

    def attempt(candidate):
        nonlocal steps, difference
        found = differs(bench, candidate)
        if found is None:
            return False
        steps, difference = candidate[:found.step_index + 1], found
        return True

    chunk = max(1, len(steps) // 2)
    while time.monotonic() < deadline:
        index, progress = 0, False
        while index < len(steps) and time.monotonic() < deadline:
            if not attempt(steps[:index] + steps[index + chunk:]):
                index += chunk
            else:
                progress = True
        if chunk == 1 and not progress:
            break
        chunk = max(1, chunk // 2)
    index = 0
    while index < len(steps) and time.monotonic() < deadline:
        requests = steps[index].get("requests", [])
        member = 0
        while len(requests) > 1 and member < len(requests) and time.monotonic() < deadline:
            smaller = requests[:member] + requests[member + 1:]
            if attempt(steps[:index] + [dict(steps[index], requests=smaller)] + steps[index + 1:]):
                requests = steps[index]["requests"] if index < len(steps) else []
            else:
                member += 1
        for number, request in enumerate(requests):
            inner = 0
            while "ops" in request and len(request["ops"]) > 1 and inner < len(request["ops"]) and time.monotonic() < deadline:
                smaller = dict(request, ops=request["ops"][:inner] + request["ops"][inner + 1:])
                changed = requests[:number] + [smaller] + requests[number + 1:]
                if attempt(steps[:index] + [dict(steps[index], requests=changed)] + steps[index + 1:]):
                    request, requests = smaller, changed
                else:
                    inner += 1
        index += 1
    return steps, difference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--length", type=int, default=3000, help="requests in a script")
    parser.add_argument("--left", default=server.APACHE, help="the reference server's command, in one argument")
    parser.add_argument("--replay", help="play a script from a file (its first line holds the seed)")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--outcomes", action="store_true", help="say at the end how often each request had each outcome")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    left = server.command_from(options.left.split())
    right = server.command_from([word for word in options.command if word != "--"])

    runs = []
    if options.replay:
        with open(options.replay) as file:
            head, *lines = [json.loads(line) for line in file if line.strip()]
        runs.append((head["seed"], lines))
    else:
        runs = [(seed, None) for seed in range(options.seed, options.seed + options.seeds)]

    outcomes = Counter()
    for seed, steps in runs:
        steps = steps or json.loads(json.dumps(Generator(seed).script(options.length)))
        requests = sum(len(step.get("requests", [1])) for step in steps)
        bench = Bench(seed, left, right)
        started = time.monotonic()
        try:
            context = bench.play(steps)
            exceptions_used = ", ".join(f"{name} {count}" for name, count in sorted(context.used.items())) or "none"
            outcomes.update(context.outcomes)
            print(f"seed {seed}: {len(steps)} steps, {requests} requests alike in {time.monotonic() - started:.1f} s; "
                  f"exceptions used: {exceptions_used}", flush=True)
        except Difference as difference:
            print(f"seed {seed}: DIFFERENCE at step {difference.step_index} of {len(steps)}: {difference.what}", flush=True)
            if not options.no_shrink:
                steps, difference = shrink(bench, steps, difference)
            path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"side-by-side-{seed}.jsonl")
            with open(path, "w") as file:
                file.write(json.dumps({"seed": seed}) + "\n")
                file.writelines(json.dumps(step) + "\n" for step in steps)
            print(f"shortest script found: {len(steps)} steps, in {path}" + (
                f"; the last {SHOWN_STEPS}:" if len(steps) > SHOWN_STEPS else ":"))
            for step in steps[-SHOWN_STEPS:]:
                text = json.dumps(step)
                print("  " + (text if len(text) < 400 else text[:400] + "…"))
            print(f"difference: {difference.what}")
            print(f"again with: interop/run-side-by-side.sh --replay {path} {' '.join(options.command)}")
            print("FAIL side-by-side")
            return 1
        finally:
            bench.remove()
    if options.outcomes:
        for name in sorted({str(name) for name, _ in outcomes}):
            print(f"  {name}: " + ", ".join(f"{outcome} x{count}" for (n, outcome), count in
                                            sorted(outcomes.items(), key=repr) if str(n) == name))
    print("PASS side-by-side")
    return 0


if __name__ == "__main__":
    sys.exit(main())
