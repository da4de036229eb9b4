"""`make tour`: the README's tour, played against a system of its own.

The commands are those of the README's ```console blocks: a line that starts with `$ ` begins one, `> ` goes on with it, the
rest is what it printed. All of them run in one bash, as they would in a reader's terminal.

    python -m infra.tour            play it and show it
    python -m infra.tour --update   write what was printed back into README.md
    python -m infra.tour --script   only print the commands, to be pasted into a terminal
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
START_SECONDS = 120.0
STOP_SECONDS = 30.0
COMMAND_SECONDS = 60.0
PATIENCE_SECONDS = 15.0
"""How long an answer may take to become the README's: notifications and audit records follow a moment later."""
POLL_SECONDS = 0.2
SETTLE_SECONDS = 2.0

_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
_MASKS = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<hash>"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"), "<token>"),
    (re.compile(r'("(?:seq|records|checkpoints)": ?)\d+'), r"\1<number>"),
    (re.compile(r"\b\d+ records\b"), "<number> records"),
    (re.compile(r" +[\d,]+ rows\b"), " <number> rows"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A command and what it prints, both as they stand in the README."""

    command: str
    output: str

    @property
    def only_reads(self) -> bool:
        """Whether playing it once more changes nothing."""
        words = self.command.split()
        return words[0] in ("call", ".venv/bin/brokage") and not {"-d", "-X"} & set(words)


def steps(text: str) -> list[Step]:
    """All steps of a document, in order."""
    return [step for block in _BLOCK.finditer(text) for step in _steps_of(block[1])]


def updated(text: str, played: Sequence[Step]) -> str:
    """The document with the outputs of `played`, which are all of its steps."""
    remaining = iter(played)

    def block(match: re.Match[str]) -> str:
        return "```console\n" + "".join(_shown(next(remaining)) for _ in _steps_of(match[1])) + "```"

    return _BLOCK.sub(block, text)


def masked(output: str) -> str:
    """An output without what differs from run to run: ids, times, hashes, tokens, counts of records."""
    for pattern, name in _MASKS:
        output = pattern.sub(name, output)
    return output


def differ(before: Step, now: Step) -> bool:
    return masked(before.output) != masked(now.output)


def _steps_of(block: str) -> list[Step]:
    found: list[Step] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(Step(line[2:], ""))
        elif line.startswith("> ") and not found[-1].output:
            found[-1] = replace(found[-1], command=f"{found[-1].command}\n{line[2:]}")
        else:
            found[-1] = replace(found[-1], output=f"{found[-1].output}{line}\n")
    return found


def _shown(step: Step) -> str:
    return "$ " + step.command.replace("\n", "\n> ") + "\n" + step.output


def play(text: str, shell: Shell, *, fresh: bool = False) -> Iterator[Step]:
    """Play the steps of a document one after the other; each with what it really printed.

    Args:
        fresh: do not expect the document's outputs: wait a moment instead, until what follows later has followed.
    """
    for step in steps(text):
        if fresh and step.only_reads:
            time.sleep(SETTLE_SECONDS)
        output = shell.run(step.command)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (
            step.only_reads and not fresh and differ(step, replace(step, output=output)) and time.monotonic() < deadline
        ):
            time.sleep(POLL_SECONDS)
            output = shell.run(step.command)
        yield replace(step, output=output)


class Shell:
    """One bash that runs command after command and keeps its variables and functions."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._end = f"-- end of {os.urandom(8).hex()} --"
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ | environment,
            start_new_session=True,
        )
        if shutil.which("curl") is None:
            self.run(f'curl() {{ {shlex.quote(sys.executable)} -m infra.tour --curl "$@"; }}')

    def run(self, command: str) -> str:
        """Everything that `command` prints; it always ends with a line's end, unless it is empty.

        Raises:
            RuntimeError: it takes longer than a minute, or ends the shell.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        # Where the commands are installed elsewhere than in the README's .venv, that place is meant.
        command = re.sub(r"^\.venv/bin/", f"{Path(sys.executable).parent}/", command)
        self._process.stdin.write(f"{command}\nprintf '\\n%s\\n' {shlex.quote(self._end)}\n")
        self._process.stdin.flush()
        timer = threading.Timer(COMMAND_SECONDS, self.close)
        timer.start()
        lines: list[str] = []
        for line in self._process.stdout:
            if line == f"{self._end}\n":
                timer.cancel()
                output = "".join(lines).removesuffix("\n")
                return f"{output}\n" if output and not output.endswith("\n") else output
            lines.append(line)
        timer.cancel()
        raise RuntimeError(f"the shell ended at: {command}")

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def open_shell(environment: dict[str, str]) -> Iterator[Shell]:
    """A shell for a block."""
    shell = Shell(environment)
    try:
        yield shell
    finally:
        shell.close()


@contextmanager
def system(report: Callable[[str], None] = lambda line: None) -> Iterator[dict[str, str]]:
    """`brokage up --demo` in a directory of its own on a free port, gone afterwards; the environment of the tour.

    Raises:
        RuntimeError: it did not start; with the last it said.
    """
    with tempfile.TemporaryDirectory(prefix="brokage-tour-") as directory:
        # As root, PostgreSQL runs as another user, who has to pass through here.
        Path(directory).chmod(0o711)
        data_dir = Path(directory) / "data"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BROKAGE_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "infra", "up", "--demo", "--port", "0", "--data-dir", str(data_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        try:
            yield {"API": _wait_ready(process, report), "BROKAGE_DATA_DIR": str(data_dir)}
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _wait_ready(process: subprocess.Popen[str], report: Callable[[str], None]) -> str:
    assert process.stdout is not None
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    last = "nothing was said"
    try:
        for line in process.stdout:
            last = line.rstrip()
            report(last)
            if last.startswith("ready "):
                return last.split()[1]
    finally:
        timer.cancel()
    raise RuntimeError(f"the system did not start: {last}")


# -- curl, where there is none ---------------------------------------------------------------------------------------------


def curl(arguments: Sequence[str]) -> None:
    """The few options of curl that the tour uses, so that it can be played on a machine without it."""
    given: dict[str, list[str]] = {"-w": [], "-H": [], "-d": [], "-X": [], "": []}
    words = iter(word for word in arguments if word != "-s")
    for word in words:
        given[word if word in given else ""].append(next(words) if word in given else word)
    url = urllib.parse.urlsplit(given[""][0])
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if given["-d"] else {}
    # Header names are compared without case; the tour writes each in one way only.
    headers |= {name: value.strip() for name, _, value in (header.partition(":") for header in given["-H"])}
    connection = http.client.HTTPConnection(url.netloc, timeout=COMMAND_SECONDS)
    path = url.path + (f"?{url.query}" if url.query else "")
    method = given["-X"][0] if given["-X"] else ("POST" if given["-d"] else "GET")
    connection.request(method, path, "&".join(given["-d"]) or None, headers)
    sys.stdout.write(connection.getresponse().read().decode() + "".join(given["-w"]).replace("\\n", "\n"))
    connection.close()


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--curl"]:
        curl(arguments[1:])
        return
    parser = argparse.ArgumentParser(prog="python -m infra.tour", description="Play the README's tour.")
    parser.add_argument("--update", action="store_true", help="write the outputs into README.md")
    parser.add_argument("--script", action="store_true", help="only print the commands")
    given = parser.parse_args(arguments)
    text = README.read_text(encoding="utf-8")
    if given.script:
        print("\n".join(step.command for step in steps(text)))
        return
    if shutil.which("bash") is None:
        sys.exit("the tour needs bash; its commands and their outputs stand in README.md")
    if shutil.which("curl") is None:
        print("curl is not installed; Python plays its part here, a terminal would need it")
    played = _play_all(text, fresh=given.update)
    if given.update:
        README.write_text(updated(text, played), encoding="utf-8")
        print(f"{len(played)} commands, written to README.md")
    elif different := [now for before, now in zip(steps(text), played, strict=True) if differ(before, now)]:
        sys.exit(f"{len(different)} of {len(played)} answers are not the README's; the first: {different[0].command}")
    else:
        print(f"{len(played)} commands, all as the README shows them")


def _play_all(text: str, *, fresh: bool) -> list[Step]:
    played: list[Step] = []
    with system(print) as environment, open_shell(environment) as shell:
        print()
        for step in play(text, shell, fresh=fresh):
            played.append(step)
            print(_shown(step), flush=True)
    return played


if __name__ == "__main__":
    main(sys.argv[1:])
