"""How fast verdicts are: by words alone, with a model, and in a storm. Each function gives its figures as a dict.

Everything is real: PostgreSQL that waits for its disk, Redis, gunicorn, worker processes; the model is a stand-in that
answers after a second. By itself: `PYTHONPATH=.:tests python -m bench.verdicts lexical|model|storm [--small]`
"""

import argparse
import itertools
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
import yaml

import services as servers
from bench import storm as rounds
from bench.installation import Installation, Model, entry, installed, resident, spread, start_workers
from openremedy.classifier.lexical import Index
from openremedy.classifier.shapes import Recipe, Subject

TENANT = "alice"
STARTER = Path(__file__).parent.parent / "config/recipes.yaml"
THINGS = (
    "postgres kafka redis nginx haproxy etcd consul vault rabbitmq elasticsearch mongodb cassandra zookeeper "
    "prometheus grafana jenkins gitlab harbor keycloak minio ceph glusterfs bind postfix dovecot"
).split()
TROUBLES = {
    "replication lag": "replicas fall behind their leader and read old data",
    "certificate expiring": "the certificate of the listener expires within days",
    "queue growing": "messages are published faster than consumers take them",
    "connections exhausted": "clients are refused because every connection slot is taken",
    "slow queries": "requests take seconds that took milliseconds before",
    "backup missing": "the nightly backup did not run or its archive is empty",
    "split brain": "two members believe that they lead the cluster",
    "restart loop": "the process crashes soon after each start",
    "authentication failing": "logins are rejected although the password is right",
    "snapshot stuck": "a snapshot runs for hours and blocks the next one",
    "quota reached": "writes are refused since the quota of the bucket is used",
    "latency spike": "the ninety-ninth percentile of answers is far above its objective",
}
# What people write around it: the words of the starter recipes, each as often as it stands there.
FILLER = re.findall(r"[a-z]{3,}", " ".join(one["when"] for one in yaml.safe_load(STARTER.read_text())))


def recipes(count: int) -> list[dict[str, Any]]:
    """So many recipes, as a file of them has it: each thing with each trouble."""
    chance = random.Random(1)  # noqa: S311 - the same words at every run
    pairs = itertools.islice(itertools.product(THINGS, TROUBLES), count)
    return [_recipe(chance, thing, trouble) for thing, trouble in pairs]


def _recipe(chance: random.Random, thing: str, trouble: str) -> dict[str, Any]:
    steps = "\n".join(f"{step}. {_words(chance, 12)}" for step in range(1, 16))
    return {
        "slug": f"{thing}-{trouble.replace(' ', '-')}",
        "title": f"{thing.capitalize()}: {trouble}",
        "when": f"On {thing} {TROUBLES[trouble]}. {_words(chance, 30).capitalize()}.",
        "applies_to": ["custom"],
        "risk": "low",
        "tags": [thing, trouble.split()[0]],
        "steps": steps,
    }


def alerts(count: int) -> list[dict[str, Any]]:
    """So many alerts, no two of the same words, of a thing and a trouble that a recipe may be for."""
    chance = random.Random(2)  # noqa: S311 - the same words at every run
    return [_alert(chance, number) for number in range(count)]


def _alert(chance: random.Random, number: int) -> dict[str, Any]:
    thing, (trouble, told) = chance.choice(THINGS), chance.choice(list(TROUBLES.items()))
    name = "".join(word.capitalize() for word in [thing, *trouble.split()])
    host = f"{thing}-{number:06}.example.net"
    summary = f"{thing.capitalize()} on {host}: {trouble}"
    description = f"{told.capitalize()}; {_words(chance, 10)}. Value {chance.random():.2f}."
    return entry(name, host, number, summary=summary, description=description)


def _words(chance: random.Random, count: int) -> str:
    return " ".join(chance.choices(FILLER, k=count))


# ---------------------------------------------------------------- the words alone


def lexical_throughput(incidents: int = 2000, catalogue: int = 300) -> dict[str, Any]:
    """Incidents a second that one worker process decides by words: they wait when it starts, and it is timed from its
    first to its last verdict.
    """
    with installed([TENANT], None) as installation:
        _replace_recipes(installation, recipes(catalogue))
        installation.notify(TENANT, alerts(incidents))
        installation.stack.start("worker")
        servers.until(lambda: time.sleep(0.02) or installation.verdicts(TENANT), "the first verdict", 60)
        before = installation.cpu()
        done = len(installation.verdicts(TENANT))
        installation.settled(TENANT, 600)
        after = installation.cpu()
        verdicts = installation.verdicts(TENANT)
    moments = [answered for _, answered, _ in verdicts]
    # Those of the first moment were decided before it.
    timed = sum(moment > moments[0] for moment in moments)
    return {
        "incidents": len(verdicts),
        "recipes": catalogue,
        "tiers": dict(Counter(tier for _, _, tier in verdicts)),
        "seconds": round(moments[-1] - moments[0], 2),
        "incidents_per_second": round(timed / (moments[-1] - moments[0]), 1),
        "cpu_us_per_incident": {
            name: round((after[name] - before[name]) / max(len(verdicts) - done, 1) * 1e6)
            for name in ("worker", "postgres")
        },
    }


def _replace_recipes(installation: Installation, wanted: list[dict[str, Any]]) -> None:
    """Nothing but these: a file of recipes is YAML, and JSON is YAML."""
    installation.rows("DELETE FROM recipes RETURNING id")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(wanted, file)
        file.flush()
        installation.stack.flask("recipe", "import", TENANT, file.name)


def lexical_alone(incidents: int = 300, catalogue: int = 300) -> dict[str, Any]:
    """Microseconds of processor for the words of one incident, in this process and without a database."""
    index = Index([Recipe(**_as_known(one)) for one in recipes(catalogue)])
    subjects = [_subject(one) for one in alerts(incidents)]
    for subject in subjects[:20]:
        index.rank(subject)
    began = time.process_time()
    for subject in subjects:
        index.rank(subject)
    return {"rank_us": round((time.process_time() - began) / incidents * 1e6)}


def _as_known(recipe: dict[str, Any]) -> dict[str, Any]:
    return recipe | {"applies_to": tuple(recipe["applies_to"]), "tags": tuple(recipe["tags"])}


def _subject(alert: dict[str, Any]) -> Subject:
    labels, annotations = alert["labels"], alert["annotations"]
    evidence = {"alertname": labels["alertname"], "labels": labels, "annotations": annotations}
    return Subject("custom", labels["instance"].split(":")[0], "medium", evidence, "alertmanager")


# ---------------------------------------------------------------- with a model


def model_tier(
    calls: int = 300, at_once: int = 64, rates: tuple[int, ...] = (10, 50, 200), seconds: float = 10, hosts: int = 20
) -> dict[str, Any]:
    """Of one worker process: the calls it keeps in flight, what each takes of memory, and how long incidents wait for
    theirs when so many come in a second, one cause for every `hosts` of them.
    """
    with Model() as model, installed([TENANT], model, OPENREMEDY_LLM_CONCURRENCY="16") as installation:
        start_workers(installation, 1)
        _one(installation)
        waits = {str(rate): _queue_wait(installation, model, rate, seconds, hosts) for rate in rates}
        usual = _calls(installation, model, calls)
        installation.stack.kill("worker-1")
        installation.stack.environment["OPENREMEDY_LLM_CONCURRENCY"] = str(at_once)
        start_workers(installation, 1)
        _one(installation)
        idle = resident(installation.stack.processes["worker-1"].pid)
        many = _calls(installation, model, calls)
    grown = many["most_memory"] - idle
    return {
        "in_flight": {"16": _without_memory(usual), str(at_once): _without_memory(many)},
        "memory": {
            "idle_mib": round(idle / 2**20, 1),
            "in_flight_mib": round(many["most_memory"] / 2**20, 1),
            "per_call_kib": round(grown / max(many["max"], 1) / 1024),
        },
        "queue_wait_ms": waits,
    }


def _without_memory(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "most_memory"}


_fresh = itertools.count(1)


def _fault(hostname: str = "") -> dict[str, Any]:
    """An alert of a cause that was not there before."""
    number = next(_fresh)
    name = "".join(chr(ord("a") + number // 26**place % 26) for place in range(4))
    hostname = hostname or f"host-{number:06}.example.net"
    return {"hostname": hostname, "incident_type": "custom", "evidence": {"alertname": f"Fault{name}", "job": "node"}}


def _one(installation: Installation) -> None:
    """One question, so that everything it takes is loaded."""
    installation.send_all(TENANT, [_fault()])
    installation.settled(TENANT, 60)


def _calls(installation: Installation, model: Model, calls: int) -> dict[str, Any]:
    """So many questions at once: the most in flight, and of memory."""
    pid = installation.stack.processes["worker-1"].pid
    began, most = time.time(), 0
    with ThreadPoolExecutor(1) as sender:
        sent = sender.submit(installation.send_all, TENANT, [_fault() for _ in range(calls)])
        while not sent.done() or _waits(installation):
            most = max(most, resident(pid))
            time.sleep(0.05)
    seen = [one for one in model.seen if one[0] >= began]
    found = rounds.in_flight(seen, seen[0][0], max(call[0] for call in seen))
    return {"calls": len(seen), "most_memory": most} | next(iter(found.values()))


def _waits(installation: Installation) -> bool:
    return bool(installation.rows("SELECT 1 FROM incidents WHERE triage IN ('pending', 'classifying') LIMIT 1"))


def _queue_wait(installation: Installation, model: Model, rate: int, seconds: float, hosts: int) -> dict[str, Any]:
    """Milliseconds from stored to the call's begin, of those asked about, and to the verdict of the others."""
    began = time.time()
    bodies: list[dict[str, Any]] = []
    for number in range(int(rate * seconds)):
        hostname = f"wait-{rate}-{number:06}.example.net"
        same = bodies[-1]["evidence"] if number % hosts else _fault()["evidence"]
        bodies.append({"hostname": hostname, "incident_type": "custom", "evidence": same})
    _paced(installation, bodies, rate)
    offered = len(bodies) / (time.time() - began)
    installation.settled(TENANT, 300)
    rows = installation.rows(
        """SELECT i.hostname, extract(epoch FROM i.first_seen)::float8, extract(epoch FROM v.created_at)::float8
        FROM incidents i JOIN verdicts v ON v.id = i.verdict_id WHERE i.hostname LIKE %s""",
        f"wait-{rate}-%",
    )
    asked = [(model.begun[host] - stored) * 1000 for host, stored, _ in rows if host in model.begun]
    taken = [(answered - stored) * 1000 for host, stored, answered in rows if host not in model.begun]
    return {"offered": round(offered, 1), "until_call": spread(asked), "until_verdict_of_followers": spread(taken)}


def _paced(installation: Installation, bodies: list[dict[str, Any]], rate: int) -> None:
    """Post each at its moment, whatever the answers take."""
    began, senders = time.perf_counter(), 16

    def some(first: int) -> None:
        with requests.Session() as session:
            for number in range(first, len(bodies), senders):
                time.sleep(max(began + number / rate - time.perf_counter(), 0))
                installation.send(session, TENANT, bodies[number])

    with ThreadPoolExecutor(senders) as pool:
        list(pool.map(some, range(senders)))


# ---------------------------------------------------------------- a storm


def storm(alerts: int = 10_000, causes: int = 50, hosts: int = 200, workers: int = 2) -> dict[str, Any]:
    """Alerts of a few causes on many hosts as bodies of Alertmanager, while another tenant sends one now and then."""
    tenants = (rounds.NOISY, rounds.OTHER)
    with Model(tenants) as model, installed(tenants, model) as installation:
        start_workers(installation, workers)
        others = rounds.Others(installation)
        with others.sending():
            time.sleep(6)  # the workers load what they need
        return rounds.storm(installation, model, others, alerts, causes, hosts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("lexical", "alone", "model", "storm"))
    parser.add_argument("--small", action="store_true", help="a look whether it works, in seconds")
    options = parser.parse_args()
    small: dict[str, Any] = {
        "lexical": {"incidents": 100},
        "model": {"calls": 20, "at_once": 20, "rates": (10,), "seconds": 3},
        "storm": {"alerts": 200, "causes": 5, "hosts": 40},
    }
    run = {"lexical": lexical_throughput, "alone": lexical_alone, "model": model_tier, "storm": storm}[options.what]
    json.dump(run(**(small.get(options.what, {}) if options.small else {})), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
