"""Has anything that is locked a known vulnerability? Fails on one, and says for how many packages it could be told.

    .venv/bin/python scripts/audit.py [ARGUMENTS OF PIP-AUDIT]

It asks PyPI, and OSV where PyPI tells nothing; with PIP_AUDIT_OSV_URL only the service there. That none can be reached
is no failure, for it says nothing about the packages, but it is said: an audit of nothing finds nothing.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# One with an old hole: a service that does not know of it, such as a mirror without advisories, knows of none.
CANARY = ("pycrypto", "2.6.1")
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
AWAY = re.compile(r"requests\.exceptions\.|pip_audit\._service\.interface\.|Could not connect|not redirecting")
SHOWN = 10
Pin = tuple[str, str]


@dataclass
class Answer:
    """What a service has told."""

    service: str
    audited: set[Pin] = field(default_factory=set)
    findings: list[str] = field(default_factory=list)
    silence: str = ""  # why it has told nothing


def main(arguments: list[str]) -> int:
    """0: nothing is known, or nobody could be asked; 1: a finding; 2: pip-audit itself failed."""
    packages = {pin for lock in ROOT.glob("requirements*.txt") for pin in PIN.findall(lock.read_text())}
    answers: list[Answer] = []
    for service in ["osv"] if os.environ.get("PIP_AUDIT_OSV_URL") else ["pypi", "osv"]:
        answers.append(_asked(service, packages, arguments))
        if answers[-1].audited:
            break
    for line in _report(answers, packages):
        print(line)
    return 1 if answers[-1].findings else 0


def _asked(service: str, packages: set[Pin], arguments: list[str]) -> Answer:
    """What it knows of all of them; in turns, because pip-audit takes one version of a package at a time."""
    answer, left = Answer(service), packages
    while left and not answer.silence:
        turn = dict(sorted(left))
        left = left - set(turn.items())
        told = _ask(service, turn, arguments)
        answer.audited |= told.audited
        answer.findings += told.findings
        answer.silence = told.silence
    return answer


def _ask(service: str, pins: dict[str, str], arguments: list[str]) -> Answer:
    command = [sys.executable, "-m", "pip_audit", f"--vulnerability-service={service}", "--format=json", "--no-deps"]
    with NamedTemporaryFile("w", suffix=".txt") as file:
        # The pins alone: with their markers those for other systems would be left out.
        file.write("".join(f"{name}=={version}\n" for name, version in [*pins.items(), CANARY]))
        file.flush()
        command += ["--disable-pip", "--progress-spinner=off", f"--requirement={file.name}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return _read(service, json.loads(done.stdout)["dependencies"])
    except ValueError:  # no JSON: it broke off
        if not AWAY.search(done.stderr):
            sys.stderr.write(done.stderr)
            raise SystemExit(2) from None
        return Answer(service, silence=done.stderr.strip().splitlines()[-1][:300])


def _read(service: str, told: list[dict[str, Any]]) -> Answer:
    known = {(one["name"], one["version"]): one["vulns"] for one in told if "version" in one}
    if not known.pop(CANARY, []):
        why = next((one["skip_reason"] for one in told if one["name"] == CANARY[0] and "skip_reason" in one), "no hole")
        return Answer(service, silence=f"does not know of the hole in {'=='.join(CANARY)}: {why}")
    findings = [
        f"{name} {version}: {vulnerability['id']}, fixed in {', '.join(vulnerability['fix_versions']) or 'no release'}"
        for (name, version), vulnerabilities in sorted(known.items())
        for vulnerability in vulnerabilities
    ]
    return Answer(service, set(known), findings)


def _report(answers: list[Answer], packages: set[Pin]) -> list[str]:
    last = answers[-1]
    missing = sorted(packages - last.audited)
    lines = [f"VULNERABLE: {finding}" for finding in last.findings]
    lines += [f"{one.service} told nothing: {one.silence}" for one in answers if one.silence]
    if last.audited:
        names = ", ".join(f"{name} {version}" for name, version in missing[:SHOWN])
        lines += [f"{last.service} does not know {len(missing)} packages: {names}"] if missing else []
    else:
        lines.append("WARNING: no advisory service could be asked. Nothing is known about any package.")
    return [*lines, f"audited {len(packages) - len(missing)} of {len(packages)} packages"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
