"""Incidents and recipes the classifier's tests share."""

from typing import Any

from openremedy.classifier.shapes import Recipe, Subject

DISK: dict[str, Any] = {"disk_usage_percent": 93, "mount": "/", "largest_files": ["/var/app/a.bin 4G"]}
USUAL_EVIDENCE: dict[str, dict[str, Any]] = {
    "disk_full": DISK,
    "cpu_high": {"cpu_percent": 97.5, "load_1m": 12.3, "cores": 4, "top_process": "python3"},
    "memory_high": {"memory_percent": 95, "total_mb": 8000, "used_mb": 7600, "top_process": "python3"},
    "service_down": {"service_name": "myapp", "service_active": False, "error": "exit-code", "exit_code": 1},
    "port_unavailable": {"port": 8443, "port_open": False, "expected_service": "myapp"},
}


def subject(evidence: dict[str, Any] | None = None, **changes: Any) -> Subject:
    fields: dict[str, Any] = {"incident_type": "disk_full", "hostname": "web-01", "severity": "high"}
    return Subject(**{**fields, **changes}, evidence=DISK if evidence is None else evidence)


def recipe(slug: str = "disk-full", **changes: Any) -> Recipe:
    fields: dict[str, Any] = {"title": slug.replace("-", " ").capitalize(), "when": "", "applies_to": ()}
    return Recipe(slug=slug, **{**fields, **changes})


CATALOGUE = (
    recipe("disk-full", title="Disk full, any file system", applies_to=("disk_full",), tags=("disk", "space"),
           when="A file system is full and nothing says what fills it. Not for exhausted inodes.",
           steps="Run `df -h`, then delete what nobody needs."),
    recipe("docker-disk-full", title="Docker fills the disk", applies_to=("disk_full", "custom"), tags=("docker",),
           when="Space is used under /var/lib/docker: images, overlay2, build cache."),
    recipe("inodes-exhausted", title="Inodes exhausted", applies_to=("disk_full",), when="df -i shows 100 % IUse."),
    recipe("cpu-high", title="CPU high, cause unknown", applies_to=("cpu_high",), when="High load on all cores."),
    recipe("io-wait-high", title="CPU waits for disk", applies_to=("cpu_high",), when="iowait is high."),
    recipe("memory-high", title="Memory nearly used up", applies_to=("memory_high",), when="RAM is nearly full."),
    recipe("jvm-memory", title="Java heap", applies_to=("memory_high",), when="A JVM reports OutOfMemoryError."),
    recipe("service-down", title="Service down", applies_to=("service_down",), when="A unit is not active."),
    recipe("postgresql-down", title="PostgreSQL down", applies_to=("service_down",), when="postgres does not run."),
    recipe("port-unavailable", title="Port unavailable", applies_to=("port_unavailable",), when="Refused."),
    recipe("ssh-port-closed", title="SSH closed", applies_to=("port_unavailable",), when="Port 22, sshd."),
    recipe("certificate-expiring", title="Certificate expires soon", applies_to=("custom",), when="TLS, x509."),
    recipe("restart-anything", title="Turn it off and on", when="Helps against rust and moonlight."),
)  # fmt: skip
