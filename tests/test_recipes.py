"""Recipes as YAML: what a file may say, what its author is told, and what the starter catalogue promises."""

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from openremedy.alerts import IncidentType, parse_alert
from openremedy.classifier import rules
from openremedy.classifier.shapes import Recipe, Subject
from openremedy.recipes import MAX_FILE_BYTES, RISKS, RecipeFileError, RecipeSpec, dump, parse

ROOT = Path(__file__).parent.parent
CATALOGUE = parse((ROOT / "config/recipes.yaml").read_bytes())
TYPES = [kind.value for kind in IncidentType]
GENERIC = {kind: kind.replace("_", "-") for kind in TYPES if kind != "custom"}
GOOD = """\
- slug: disk-full
  title: Disk full
  when: A file system is full.
  risk: low
  steps: |
    df -h
"""


def with_line(line: str, text: str = GOOD) -> str:
    """The good file with one field added, or replaced if it is there."""
    key = line.partition(":")[0]
    kept = re.sub(rf"^  {key}:.*\n(    .*\n)*", "", text, flags=re.MULTILINE)
    return f"{kept}  {line}\n"


def problems_of(text: str | bytes) -> list[str]:
    with pytest.raises(RecipeFileError) as caught:
        parse(text)
    return caught.value.problems


def only_problem(text: str | bytes) -> str:
    problems = problems_of(text)
    assert len(problems) == 1, problems
    return problems[0]


# ---- what a file may say


def test_it_reads_a_recipe_with_only_the_required_fields() -> None:
    assert parse(GOOD) == [
        RecipeSpec("disk-full", "Disk full", "A file system is full.", (), {}, "low", "df -h\n", (), True)
    ]


def test_it_reads_every_field() -> None:
    text = with_line("applies_to: [disk_full, custom]")
    text = with_line('match: {mount: /var, "/labels/team": [a, 1, true, null], used: {gte: 90.5}}', text)
    text = with_line("tags: [disk, lvm2]", text)
    (spec,) = parse(with_line("enabled: false", text))
    assert spec.applies_to == ("disk_full", "custom")
    assert spec.match == {"mount": "/var", "/labels/team": ["a", 1, True, None], "used": {"gte": 90.5}}
    assert spec.tags == ("disk", "lvm2")
    assert spec.enabled is False


@pytest.mark.parametrize("key", ["applies_to", "match", "tags"])
def test_an_optional_key_with_nothing_after_it_is_empty(key: str) -> None:
    assert parse(with_line(f"{key}:")) == parse(GOOD)


def test_it_reads_bytes_windows_line_ends_and_a_byte_order_mark() -> None:
    assert parse(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()) == parse(GOOD)


def test_it_reads_json_since_that_is_yaml_too() -> None:
    text = '[{"slug": "a", "title": "A", "when": "w", "risk": "low", "steps": "x\\ny", "match": {"port": 22}}]'
    assert parse(text)[0].match == {"port": 22}


def test_dates_and_clock_times_stay_text() -> None:
    (spec,) = parse(with_line("match: {day: 2026-01-01, at: 12:30}"))
    assert spec.match == {"day": "2026-01-01", "at": "12:30"}


def test_an_empty_list_is_an_empty_catalogue() -> None:
    assert parse("[]") == []


# ---- what its author is told


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("risk: lo", "line 6: recipe 'disk-full': risk must be one of low, medium, high, not 'lo'"),
        ("risk: 3", "line 6: recipe 'disk-full': risk must be text; put it in quotes"),
        ("title: 42", "line 6: recipe 'disk-full': title must be text; put it in quotes"),
        ("title: ''", "line 6: recipe 'disk-full': title must not be empty"),
        ('title: "two\\nlines"', "line 6: recipe 'disk-full': title must be one line without tabs"),
        (f"title: {'x' * 201}", "line 6: recipe 'disk-full': title has 201 characters; the limit is 200"),
        (f"when: {'x' * 4001}", "line 6: recipe 'disk-full': when has 4001 characters; the limit is 4000"),
        ("when:", "line 6: recipe 'disk-full': when must be text"),
        ("steps: '  '", "line 5: recipe 'disk-full': steps must not be empty"),
        ("steps: [df]", "line 5: recipe 'disk-full': steps must be text"),
        (f"steps: {'x' * 20_001}", "line 5: recipe 'disk-full': steps has 20001 characters; the limit is 20000"),
        ("tags: disk", "line 7: recipe 'disk-full': tags must be a list, for example [disk, linux]"),
        (
            "tags: [two words]",
            "line 7: recipe 'disk-full': tags must be single words of at most 40 characters, not 'two words'",
        ),
        (
            "tags: [502]",
            "line 7: recipe 'disk-full': tags must be single words of at most 40 characters, not 502 "
            "(put it in quotes)",
        ),
        ("tags: [a, a]", "line 7: recipe 'disk-full': tags lists 'a' twice"),
        (
            f"tags: [{','.join(f'a{i}' for i in range(21))}]",
            "line 7: recipe 'disk-full': tags has 21 words; the limit is 20",
        ),
        (
            "applies_to: [disk_ful]",
            "line 7: recipe 'disk-full': applies_to may hold service_down, disk_full, cpu_high, memory_high, "
            "port_unavailable, custom, not 'disk_ful'; did you mean 'disk_full'?",
        ),
        (
            "applies_to: disk_full",
            "line 7: recipe 'disk-full': applies_to must be a list, for example [disk_full, custom]",
        ),
        ("enabled: yes", "line 7: recipe 'disk-full': enabled must be true or false, not 'yes'"),
        ("enabled:", "line 7: recipe 'disk-full': enabled must be true or false, not None"),
        ("wen: x", "line 7: recipe 'disk-full': unknown key 'wen'; did you mean 'when'?"),
        ("<<: {a: b}", "line 7: recipe 'disk-full': unknown key '<<'"),
        ("80: x", "line 7: recipe 'disk-full': a key must be text; put it in quotes"),
        ("match: [a]", "line 7: recipe 'disk-full': match must be a mapping of conditions, for example {port: 22}"),
        ("match: {a: no}", "line 7: recipe 'disk-full': match: write true or false, or put 'no' in quotes"),
        ("match: {a: 1, a: 2}", "line 7: recipe 'disk-full': match: the key 'a' is already in line 7"),
        ("match: {a: 1e999}", "line 7: recipe 'disk-full': the number '1e999' is too large"),
        (f"match: {{a: {'9' * 41}}}", f"line 7: recipe 'disk-full': the number '{'9' * 41}' is too large"),
        ('match: {a: "\\0"}', "line 7: recipe 'disk-full': the control character U+0000 is not allowed"),
    ],
)
def test_it_says_line_recipe_and_what_is_wrong(line: str, problem: str) -> None:
    # The good file has six lines; what is replaced moves to its end.
    assert only_problem(with_line(line)) == problem


@pytest.mark.parametrize("slug", ["Disk", "a--b", "-a", "a_b", "ä", "a b", "'a\n'"])
def test_it_refuses_a_slug_that_is_no_slug(slug: str) -> None:
    assert "slug must be lower-case letters and digits" in "".join(problems_of(GOOD.replace("disk-full", slug, 1)))


def test_it_refuses_a_slug_of_more_than_100_characters() -> None:
    assert parse(GOOD.replace("disk-full", "a" * 100, 1))
    assert "the limit is 100" in only_problem(GOOD.replace("disk-full", "a" * 101, 1))


@pytest.mark.parametrize("key", ["slug", "title", "when", "risk", "steps"])
def test_it_names_each_required_key_that_is_missing(key: str) -> None:
    text = re.sub(rf"^(- |  ){key}:.*\n(    .*\n)*", r"\1enabled: true\n", GOOD, flags=re.MULTILINE)
    assert only_problem(text).endswith(f"{key} is missing")


def test_a_wrong_condition_is_named_at_its_own_line() -> None:
    text = GOOD + "  match:\n    mount: /var\n    used: {gtee: 3}\n    free: {lt: x}\n"
    problems = problems_of(text)
    assert [problem.partition(":")[0] for problem in problems] == ["line 9", "line 10"]
    assert "unknown operator 'gtee'" in problems[0]


def test_it_refuses_a_slug_used_twice_and_names_the_first_line() -> None:
    assert only_problem(GOOD + GOOD) == "line 7: recipe 'disk-full': the slug is already taken in line 1"


def test_it_sees_a_slug_used_twice_in_one_line() -> None:
    entry = '{"slug": "a", "title": "A", "when": "w", "risk": "low", "steps": "x"}'
    assert "already taken" in only_problem(f"[{entry}, {entry}]")


def test_it_refuses_a_key_written_twice() -> None:
    text = GOOD + "  risk: high\n"
    assert only_problem(text) == "line 7: recipe 'disk-full': the key 'risk' is already in line 4"


def test_it_collects_all_problems_of_all_recipes_in_the_order_of_the_lines() -> None:
    text = "- slug: a\n  title: 1\n  wen: x\n  risk: lo\n- just text\n- slug: a\n  tags: x\n  steps: ''\n"
    lines = [int(problem.split(":")[0].removeprefix("line ")) for problem in problems_of(text)]
    assert lines == sorted(lines)
    assert {2, 3, 4, 5, 6, 7, 8} <= set(lines)


def test_a_flood_of_problems_is_cut_and_counted() -> None:
    problems = problems_of("- x\n" * 1000)
    assert len(problems) == 201
    assert problems[-1] == "and 800 more; correct these first"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- slug: [\n", "line 2, column 1: not valid YAML"),
        ("- slug: 'a\n\n", "line 3, column 1: not valid YAML: while scanning a quoted scalar, found unexpected end of"),
        ("- a: b: c\n", "line 1, column 7: not valid YAML"),
        ("\t- a\n", "line 1, column 1: not valid YAML"),
        ("--- []\n--- []\n", "line 2, column 1: not valid YAML: expected a single document"),
        ("", "line 1: the file is empty"),
        ("# nothing\n", "line 1: the file is empty"),
        ("\nrecipes: []\n", "line 2: the file must be a list of recipes"),
        (b"- a\n- \xff\n", "line 2: the file is not UTF-8"),
    ],
)
def test_it_says_where_the_file_is_no_list_of_recipes(text: str | bytes, problem: str) -> None:
    assert only_problem(text).startswith(problem)


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x85", "\u2028", "\ud800", "\ufeff", "\uffff"])
def test_it_refuses_control_characters_with_their_line(character: str) -> None:
    text = GOOD.replace("df -h", f"df -h\n    {character}rm")
    assert only_problem(text) == f"line 7: the control character U+{ord(character):04X} is not allowed"


# ---- what a hostile file may not do


def test_it_refuses_aliases_before_they_can_expand() -> None:
    bomb = "- &a [x, x]\n" + "".join(f"- &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(20))
    assert "anchors (&name) and aliases (*name) are not allowed" in problems_of(bomb)[0]


@pytest.mark.parametrize("value", ["!!python/object/apply:os.system ['true']", "!!str 5", "!x y"])
def test_it_refuses_tags(value: str) -> None:
    problem = only_problem(with_line(f"title: {value}"))
    assert problem.startswith("line 6: the tag ")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_it_refuses_deep_nesting_in_no_time(opening: str) -> None:
    started = time.perf_counter()
    assert "nested deeper" in "".join(problems_of(opening * 200_000))
    assert time.perf_counter() - started < 2


def test_it_refuses_a_file_over_2_mib() -> None:
    assert parse(GOOD + "#" * (MAX_FILE_BYTES - len(GOOD)))
    assert "the limit is 2097152" in only_problem(GOOD + "#" * (MAX_FILE_BYTES - len(GOOD) + 1))


@given(st.one_of(st.text(), st.binary(), st.text(alphabet="-[]{}:?&*!|>'\"%@`#,. \n\tab0~<=")))
def test_no_file_makes_it_fail_in_another_way(text: str | bytes) -> None:
    problems: list[str] = []
    try:
        parse(text)
    except RecipeFileError as error:
        problems = error.problems or ["nothing named"]
    assert all(problem.startswith(("line ", "and ")) for problem in problems)


# ---- printing


def allowed_text(size: int, extra: str = "") -> st.SearchStrategy[str]:
    alphabet = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\u2028\u2029\ufeff\ufffe\uffff")
    odd = st.sampled_from(list(" :#-'\"|>&*!%@`{}[],?~" + extra))
    return st.text(alphabet | odd, min_size=1, max_size=size).filter(str.strip)


SLUGS = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,3}", fullmatch=True)
NUMBERS = st.integers(-(10**38), 10**38) | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.sampled_from(
    ["yes", "No", "on", "null", "~", "true", "1e5", "0x1F", "12:30", "2026-01-01", "<<", "=", "017"]
)
TEXTS = allowed_text(30, "\n\t") | WORDS
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
OPERATORS = st.fixed_dictionaries(
    {}, optional={"gte": NUMBERS, "lt": NUMBERS, "contains": TEXTS, "glob": TEXTS, "present": st.booleans()}
).filter(bool)
CONDITIONS = SCALARS | st.lists(SCALARS, min_size=1, max_size=4) | OPERATORS
KEYS = (allowed_text(12) | allowed_text(200) | WORDS | st.just("/labels/team")).filter(
    lambda key: not rules.check_match({key: 1})
)
SPECS = st.builds(
    RecipeSpec,
    slug=SLUGS,
    title=allowed_text(60) | WORDS,
    when=allowed_text(300, "\n\t") | WORDS,
    applies_to=st.lists(st.sampled_from(TYPES), unique=True).map(tuple),
    match=st.dictionaries(KEYS, CONDITIONS, max_size=3),
    risk=st.sampled_from(RISKS),
    steps=allowed_text(200, "\n\n\n\t  ") | WORDS,
    tags=st.lists(
        st.from_regex(r"[a-z0-9][a-z0-9.+/-]{0,10}", fullmatch=True) | st.just("502"), unique=True, max_size=3
    ).map(tuple),
    enabled=st.booleans(),
)


def spec(**changes: Any) -> RecipeSpec:
    fields: dict[str, Any] = {"slug": "a", "title": "A", "when": "w", "applies_to": (), "match": {}, "risk": "low"}
    return RecipeSpec(**{**fields, "steps": "x\n", **changes})


@given(st.lists(SPECS, max_size=4, unique_by=lambda spec: spec.slug))
@example([spec(steps="\tx")])
@example([spec(steps="\n\nx\n\n")])
@example([spec(steps="  x\n y  \n\t\n")])
@example([spec(steps="x\n ")])
@example([spec(steps="# no comment\n--- no document\n")])
def test_what_is_printed_reads_back_as_the_same_recipes(specs: list[RecipeSpec]) -> None:
    assert parse(dump(specs)) == specs


@given(st.lists(SPECS, min_size=1, max_size=1))
@example([spec(steps="x\n\n")])
def test_blank_lines_at_the_end_of_the_file_do_not_matter(specs: list[RecipeSpec]) -> None:
    assert parse(dump(specs).rstrip("\n") + "\n") == specs
    assert parse(dump(specs) + "\n\n") == specs


def test_printing_is_stable() -> None:
    assert dump(parse(dump(CATALOGUE))) == dump(CATALOGUE)


def test_steps_are_printed_as_a_person_would_write_them() -> None:
    text = dump([spec(steps="## Look\n\n\tdf -h  \ndu\n", match={"mount": "/var"}, tags=("disk",))])
    assert text == (
        "- slug: a\n  title: A\n  when: w\n  applies_to: []\n  match: {mount: /var}\n"
        "  risk: low\n  tags: [disk]\n  steps: |\n    ## Look\n\n    \tdf -h  \n    du\n"
    )


def test_other_yaml_tools_read_the_same_values() -> None:
    specs = [spec(slug="no", title="yes", when="12:30", steps="off", match={"a": "1e5", "b": "no", "c": 1e300})]
    (entry,) = yaml.safe_load(dump(specs))
    assert (entry["slug"], entry["title"], entry["when"], entry["steps"]) == ("no", "yes", "12:30", "off")
    assert entry["match"] == {"a": "1e5", "b": "no", "c": 1e300}


# ---- the starter catalogue


def candidates() -> list[Recipe]:
    return [
        Recipe(item.slug, item.title, item.when, item.applies_to, item.match, item.risk, item.steps, item.tags)
        for item in CATALOGUE
    ]


def test_the_catalogue_survives_export_and_import() -> None:
    assert parse(dump(CATALOGUE)) == CATALOGUE


def test_the_catalogue_covers_every_incident_type() -> None:
    assert len(CATALOGUE) >= 24
    for kind in TYPES:
        assert sum(kind in item.applies_to for item in CATALOGUE) >= 3, kind


@pytest.mark.parametrize(("kind", "slug"), GENERIC.items())
def test_each_type_has_one_generic_recipe_without_conditions(kind: str, slug: str) -> None:
    generic = [item for item in CATALOGUE if "Start here." in item.when and kind in item.applies_to]
    assert [item.slug for item in generic] == [slug]
    assert generic[0].applies_to == (kind,)
    assert generic[0].match == {}


@pytest.mark.parametrize("item", CATALOGUE, ids=lambda item: item.slug)
def test_a_starter_recipe_looks_first_then_repairs_then_verifies(item: RecipeSpec) -> None:
    headings = re.findall(r"^## (.+)$", item.steps, re.MULTILINE)
    assert headings == ["Look first (read-only)", "Remedy", "Verify"]
    assert item.steps.count("```bash") * 2 == item.steps.count("```")
    assert "```bash" in item.steps.partition("## Remedy")[0]
    assert item.enabled
    assert item.applies_to
    assert 3 <= len(item.tags) <= 8
    assert re.search(r"\bNot (for|when)\b", item.when), "says what it is not for"


@pytest.mark.parametrize("item", CATALOGUE, ids=lambda item: item.slug)
def test_the_first_look_of_a_starter_recipe_changes_nothing(item: RecipeSpec) -> None:
    look = item.steps.partition("## Remedy")[0]
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", look, re.DOTALL))
    words = "rm|mv|kill|truncate|start|restart|stop|reload|prune|delete|drop|purge|tee|mkfs|reboot|shutdown"
    changing = re.compile(rf"(?:^|[;|&] |\b(?:sudo|systemctl|docker|kubectl) )\s*(?:{words})\b|>\s*/[^d]|-delete")
    found = [line for line in commands.splitlines() if changing.search(line.partition("  #")[0])]
    assert not found


def test_every_command_of_the_catalogue_is_valid_shell() -> None:
    blocks = [
        block for item in CATALOGUE for block in re.findall(r"^ *```bash\n(.*?)```", item.steps, re.DOTALL | re.M)
    ]
    checked = subprocess.run(["bash", "-n"], input="\n".join(blocks), capture_output=True, text=True, check=False)
    assert checked.stderr == ""


@pytest.mark.parametrize("item", CATALOGUE, ids=lambda item: item.slug)
def test_a_starter_recipe_refers_only_to_recipes_that_exist(item: RecipeSpec) -> None:
    prose = re.sub(r"```.*?```", "", item.steps, flags=re.DOTALL)
    for title in re.findall(r"(?<!\*)\*([A-Z][^*\n]+)\*(?!\*)", prose):
        assert any(title.lower() in other.title.lower() for other in CATALOGUE), title


OBVIOUS = [
    ("disk_full", {"mount": "/var/log", "disk_usage_percent": 97}, "log-partition-full"),
    ("disk_full", {"mount": "/var/log/journal"}, "journald-growing"),
    ("disk_full", {"mount": "/var/lib/docker"}, "docker-disk-full"),
    ("disk_full", {"mount": "/var/lib/docker/overlay2/3f/merged"}, "docker-disk-full"),
    ("disk_full", {"mount": "/var/lib/postgresql/15/main"}, "postgresql-disk-full"),
    ("disk_full", {"mount": "/var/lib/mysql"}, "mysql-disk-full"),
    ("disk_full", {"mount": "/boot"}, "boot-partition-full"),
    ("disk_full", {"mount": "/var/tmp"}, "temp-directory-full"),
    ("disk_full", {"mount": "/srv", "disk_usage_percent": 40, "inodes_used_percent": 100}, "inodes-exhausted"),
    ("disk_full", {"mount": "/", "inodes_used_percent": 12}, None),
    ("disk_full", {"mount": "/"}, None),
    ("disk_full", {"mount": "/var"}, None),
    ("disk_full", {}, None),
    ("cpu_high", {"cpu_percent": 99, "top_process": "./xmrig -o pool"}, "cryptominer-suspected"),
    ("cpu_high", {"cpu_percent": 99, "top_process": "kswapd0"}, "swap-thrashing"),
    ("cpu_high", {"cpu_percent": 99, "top_process": "java"}, None),
    ("cpu_high", {"cpu_percent": 99, "steal_percent": 40}, "cpu-steal"),
    ("memory_high", {"memory_percent": 95, "top_process": "java"}, "jvm-memory"),
    ("memory_high", {"memory_percent": 95, "top_process": "kswapd0"}, "swap-thrashing"),
    ("memory_high", {"memory_percent": 95, "top_process": "python3"}, None),
    ("service_down", {"service_name": "nginx", "service_active": False}, "web-server-down"),
    ("service_down", {"service_name": "Apache2", "exit_code": 137}, "web-server-down"),
    ("service_down", {"service_name": "postgresql@15-main.service"}, "postgresql-down"),
    ("service_down", {"service_name": "mariadb"}, "mysql-down"),
    ("service_down", {"service_name": "redis-server"}, "redis-down"),
    ("service_down", {"service_name": "docker"}, "docker-daemon-down"),
    ("service_down", {"service_name": "billing"}, None),
    ("port_unavailable", {"port": 22, "port_open": False}, "ssh-port-closed"),
    ("port_unavailable", {"port": "22"}, "ssh-port-closed"),
    ("port_unavailable", {"port": 443, "expected_service": "nginx"}, "http-port-closed"),
    ("port_unavailable", {"port": 5432}, "database-port-closed"),
    ("port_unavailable", {"port": 25}, "mail-port-closed"),
    ("port_unavailable", {"port": 9000}, None),
]


@pytest.mark.parametrize(("kind", "evidence", "slug"), OBVIOUS)
def test_obvious_evidence_fits_one_recipe_at_most(kind: str, evidence: dict[str, Any], slug: str | None) -> None:
    answer = rules.match(Subject(kind, "web-01", "high", evidence), candidates())
    assert (answer and answer.recipe) == slug


def test_every_recipe_with_conditions_is_reached_by_obvious_evidence() -> None:
    assert {item.slug for item in CATALOGUE if item.match} == {slug for _, _, slug in OBVIOUS if slug}


def test_evidence_for_two_recipes_at_once_is_left_to_the_later_tiers() -> None:
    evidence = {"mount": "/var/log", "inodes_used_percent": 100}
    assert rules.match(Subject("disk_full", "web-01", "high", evidence), candidates()) is None


def test_no_value_that_one_recipe_waits_for_fits_another() -> None:
    for item in CATALOGUE:
        for key, condition in item.match.items():
            values = condition if isinstance(condition, list) else [condition]
            for value in values:
                sample = value if not isinstance(value, dict) else str(next(iter(value.values()))).replace("*", "-x")
                for kind in item.applies_to:
                    answer = rules.match(Subject(kind, "h", "high", {key: sample}), candidates())
                    assert answer is not None, (item.slug, kind, sample)
                    assert answer.recipe == item.slug


# ---- the documentation


def test_the_example_in_the_documentation_is_a_recipe_file() -> None:
    text = (ROOT / "docs/recipes.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert parse(example)[0].slug in {item.slug for item in CATALOGUE}


def test_the_documentation_has_a_valid_alert_for_every_incident_type() -> None:
    text = (ROOT / "docs/evidence.md").read_text()
    bodies = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    alerts = [parse_alert(body.encode()) for body in bodies]
    assert sorted(alert.incident_type for alert, _ in alerts) == sorted(TYPES)
    assert [warnings for _, warnings in alerts if warnings] == []


def test_it_refuses_the_word_for_no_recipe_as_a_slug():
    text = "- slug: none\n  title: A\n  when: B\n  risk: low\n  steps: C\n"
    with pytest.raises(RecipeFileError) as caught:
        parse(text)
    assert caught.value.problems == [
        "line 1: recipe 'none': slug must not be 'none': it is the answer that no recipe fits"
    ]
