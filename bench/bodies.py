"""The alerts that are posted; each is one that was never posted before."""

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

_numbers = itertools.count(1)


def canonical(number: int) -> bytes:
    """A canonical alert of an ordinary size: a full disk."""
    evidence = {
        "mount": "/var/lib/data",
        "used_percent": 91.4,
        "free_bytes": 18_253_611_008,
        "filesystem": "ext4",
        "summary": "The volume for data is nearly full.",
        "region": "eu-1",
    }
    body = {
        "hostname": f"db-{number:07}.example.net",
        "incident_type": "disk_full",
        "severity": "high",
        "evidence": evidence,
    }
    return json.dumps(body).encode()


def alertmanager(numbers: Iterator[int], alerts: int = 50) -> bytes:
    """A notification of Alertmanager with `alerts` firing alerts of one rule."""
    entries = [_entry(next(numbers)) for _ in range(alerts)]
    common = {"alertname": "HostOutOfDiskSpace", "job": "node", "severity": "warning", "region": "eu-1"}
    body = {
        "version": "4",
        "groupKey": '{}:{alertname="HostOutOfDiskSpace"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "openremedy",
        "groupLabels": {"alertname": "HostOutOfDiskSpace"},
        "commonLabels": common,
        "commonAnnotations": {"runbook_url": "https://runbooks.example.net/disk"},
        "externalURL": "http://alertmanager.example.net:9093",
        "alerts": entries,
    }
    return _as_go(body)


def _as_go(body: dict[str, Any]) -> bytes:
    """JSON as Alertmanager writes it."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()


def _entry(number: int) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": {
            "alertname": "HostOutOfDiskSpace",
            "instance": f"web-{number:07}.example.net:9100",
            "job": "node",
            "device": "/dev/sda1",
            "fstype": "ext4",
            "mountpoint": "/var/log",
            "severity": "warning",
            "region": "eu-1",
        },
        "annotations": {
            "summary": f"Host web-{number:07} is out of disk space",
            "description": "Disk is almost full (< 10% left) VALUE = 7.31",
            "runbook_url": "https://runbooks.example.net/disk",
        },
        "startsAt": time.strftime("%Y-%m-%dT%H:%M:%S.123Z", time.gmtime()),
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example.net:9090/graph?g0.expr=node_filesystem_avail_bytes+%3C+10&g0.tab=1",
        "fingerprint": f"{number:016x}",
    }


def alerta(number: int) -> bytes:
    """The alert of `canonical` as Alerta's own format has it."""
    body = {
        "resource": f"db-{number:07}.example.net:/var/lib/data",
        "event": "disk_full",
        "environment": "Production",
        "severity": "major",
        "service": ["data"],
        "value": "91.4",
        "text": "The volume for data is nearly full.",
        "attributes": {"region": "eu-1", "filesystem": "ext4"},
    }
    return json.dumps(body).encode()


def unique() -> Iterator[int]:
    """Numbers that were not given out before."""
    return _numbers
