"""The signature doctor: every mistake is made here by real code, and found; and it tells no secret."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openremedy import crypto
from openremedy.signature_doctor import AFTER, BEFORE, MAX_SECRETS, WORDS, Finding, Key, Refused, examine

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SECRET = "orwh_tRgUvAYk9zY2l7m1c0Zq3wXxQeJb5hDfN8sPaKdLuIo"
PREVIOUS = "orwh_p4vG0eYc6Wn1XqzH8rT2mJkBsLdAfUoIyN3xQ7Zt5Vw"
HEX_SECRET = hashlib.sha256(b"made by openssl rand -hex 32").hexdigest()
BASE64_SECRET = base64.b64encode(hashlib.sha256(b"made by openssl rand -base64 32").digest()).decode()
KEYS = [
    Key(PREVIOUS, NOON - 30 * DAY, NOON - DAY),
    Key(SECRET, NOON - 20 * DAY),
    Key(HEX_SECRET, NOON - 10 * DAY),
    Key(BASE64_SECRET, NOON - 9 * DAY),
]
EVENT = {
    "hostname": "wéb-01",
    "incident_type": "disk_full",
    "evidence": {"mount": "/var", "files": ["/var/log/a.log", "<b> & c"], "usage": 94.5, "empty": {}},
}
BODY = json.dumps(EVENT).encode()
COMPACT = json.dumps(EVENT, separators=(",", ":"), ensure_ascii=False).encode()


def mac(secret: str | bytes, body: bytes, algorithm: str = "sha256") -> Any:
    key = secret.encode() if isinstance(secret, str) else secret
    return hmac.new(key, body, algorithm)


def right(secret: str | bytes, body: bytes) -> str:
    return "sha256=" + mac(secret, body).hexdigest()


def found(header: str | None, body: bytes = BODY, reason: str = "unauthorized", cut: bool = False) -> Finding:
    return examine(Refused(body, cut, header, reason, NOON), KEYS)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


# ---------------------------------------------------------------- the header


HEADERS: dict[str, tuple[str, str | None]] = {
    "no header": ("header_missing", None),
    "an empty header": ("header_missing", ""),
    "blanks and quotes": ("header_missing", ' "" '),
    "bare hex": ("prefix_missing", mac(SECRET, BODY).hexdigest()),
    "bare hex in capitals": ("prefix_missing", mac(SECRET, BODY).hexdigest().upper()),
    "prefix in capitals": ("prefix_wrong", "SHA256=" + mac(SECRET, BODY).hexdigest()),
    "prefix with a hyphen": ("prefix_wrong", "sha-256=" + mac(SECRET, BODY).hexdigest()),
    "prefix with a colon": ("prefix_wrong", "sha256: " + mac(SECRET, BODY).hexdigest()),
    "prefix with a blank": ("prefix_wrong", "sha256= " + mac(SECRET, BODY).hexdigest()),
    "prefix with hmac": ("prefix_wrong", "hmac-sha256=" + mac(SECRET, BODY).hexdigest()),
    "prefix of sha1": ("prefix_wrong", "sha1=" + mac(SECRET, BODY).hexdigest()),
    "prefix of another service": ("extra_text", "v1=" + mac(SECRET, BODY).hexdigest()),
    "as sha256sum prints": ("extra_text", right(SECRET, BODY) + "  -"),
    "as openssl prints": ("extra_text", f"sha256=SHA2-256(stdin)= {mac(SECRET, BODY).hexdigest()}"),
    "in quotes": ("extra_text", f'"{right(SECRET, BODY)}"'),
    "twice": ("extra_text", f"{right(SECRET, BODY)}, {right(SECRET, BODY)}"),
    "base64": ("base64", "sha256=" + b64(mac(SECRET, BODY).digest())),
    "bare base64": ("prefix_missing+base64", b64(mac(SECRET, BODY).digest())),
    "url-safe base64": ("base64", "sha256=" + base64.urlsafe_b64encode(mac(SECRET, BODY).digest()).decode()),
    "unpadded base64": ("base64", "sha256=" + b64(mac(SECRET, BODY).digest()).rstrip("=")),
    "base64 of the hex": ("base64_of_hex", "sha256=" + b64(mac(SECRET, BODY).hexdigest().encode())),
    "cut off": ("truncated", right(SECRET, BODY)[:-1]),
    "its first half": ("truncated", right(SECRET, BODY)[: 7 + 32]),
    "its first half, bare": ("prefix_missing+truncated", mac(SECRET, BODY).hexdigest()[:40]),
    "a digit too many": ("wrong_length", right(SECRET, BODY) + "0"),
    "a few digits": ("wrong_length", right(SECRET, BODY)[: 7 + 8]),
    "sha1": ("other_algorithm", "sha1=" + mac(SECRET, BODY, "sha1").hexdigest()),
    "sha1 called sha256": ("other_algorithm", "sha256=" + mac(SECRET, BODY, "sha1").hexdigest()),
    "sha512": ("other_algorithm", "sha512=" + mac(SECRET, BODY, "sha512").hexdigest()),
    "sha512 called sha256": ("other_algorithm", "sha256=" + mac(SECRET, BODY, "sha512").hexdigest()),
    "bare md5": ("prefix_missing+other_algorithm", mac(SECRET, BODY, "md5").hexdigest()),
    "sha512 in base64": ("base64+other_algorithm", "sha512=" + b64(mac(SECRET, BODY, "sha512").digest())),
    "sha1 of somebody": ("other_algorithm", "sha1=" + mac("unknown", BODY, "sha1").hexdigest()),
    "nothing after the prefix": ("not_a_signature", "sha256="),
    "a template left unfilled": ("not_a_signature", "sha256=${SIGNATURE}"),
    "other letters": ("not_a_signature", "sha256=\\xe9\\u2603"),
    "the secret": ("secret_sent", SECRET),
    "the secret after the prefix": ("secret_sent", f"sha256={SECRET}"),
    "the secret as a bearer token": ("secret_sent", f"Bearer {SECRET}"),
    "the previous secret": ("secret_sent", PREVIOUS),
}


@pytest.mark.parametrize(("code", "header"), HEADERS.values(), ids=HEADERS.keys())
def test_it_finds_what_is_wrong_with_the_header(code: str, header: str | None) -> None:
    assert found(header).code == code


def test_a_wrong_header_and_a_strange_secret_are_both_said() -> None:
    finding = found(mac("unknown", BODY).hexdigest())
    assert finding.code == "prefix_missing"
    assert "none of your secrets" in finding.sentence
    assert "none of your secrets" not in found(mac(SECRET, BODY).hexdigest()).sentence


def test_a_short_secret_that_happens_to_be_in_a_signature_was_not_sent() -> None:
    signature = right("unknown", BODY)
    short = Key(signature[20:24], NOON - DAY)
    signed = examine(Refused(BODY, False, signature, "unauthorized", NOON), [short])
    assert signed.code == "none"
    for header in (short.value, f"sha256={short.value}"):
        assert examine(Refused(BODY, False, header, "unauthorized", NOON), [short]).code == "secret_sent"


# ---------------------------------------------------------------- algorithm and secret


def plain(*parts: bytes) -> str:
    return "sha256=" + hashlib.sha256(b"".join(parts)).hexdigest()


SIGNED: dict[str, tuple[str, str]] = {
    "secret and body": ("plain_hash", plain(SECRET.encode(), BODY)),
    "body and secret": ("plain_hash", plain(BODY, SECRET.encode())),
    "the body alone": ("plain_hash_of_body", plain(BODY)),
    "the body alone by echo": ("plain_hash_of_body+newline_added", plain(BODY, b"\n")),
    "body as the key": ("swapped", right(BODY, SECRET.encode())),
    "previous": ("previous_secret", right(PREVIOUS, BODY)),
    "previous, base64": ("base64+previous_secret", "sha256=" + b64(mac(PREVIOUS, BODY).digest())),
    "previous, bare": ("prefix_missing+previous_secret", mac(PREVIOUS, BODY).hexdigest()),
    "previous, line break": ("newline_added+previous_secret", right(PREVIOUS, BODY + b"\n")),
    "line break": ("secret_newline", right(SECRET + "\n", BODY)),
    "line break of Windows": ("secret_newline", right(SECRET + "\r\n", BODY)),
    "both from echo": ("secret_newline+newline_added", right(SECRET + "\n", BODY + b"\n")),
    "double quotes": ("secret_quoted", right(f'"{SECRET}"', BODY)),
    "single quotes": ("secret_quoted", right(f"'{SECRET}'", BODY)),
    "a blank": ("secret_quoted", right(f"{SECRET} ", BODY)),
    "no prefix": ("secret_without_prefix", right(SECRET.removeprefix("orwh_"), BODY)),
    "from hex": ("secret_hex_decoded", right(bytes.fromhex(HEX_SECRET), BODY)),
    "from base64": ("secret_base64_decoded", right(base64.b64decode(BASE64_SECRET), BODY)),
    "ours from base64": ("secret_base64_decoded", right(base64.urlsafe_b64decode(SECRET[5:] + "="), BODY)),
    "empty": ("secret_empty", right("", BODY)),
    "empty, by echo": ("secret_empty+newline_added", right("", BODY + b"\n")),
}


@pytest.mark.parametrize(("code", "header"), SIGNED.values(), ids=SIGNED.keys())
def test_it_finds_what_is_wrong_with_the_secret_or_its_use(code: str, header: str) -> None:
    assert found(header).code == code


def test_a_previous_secret_is_named_by_when_it_ended() -> None:
    assert "2026-01-30 12:00 UTC" in found(right(PREVIOUS, BODY)).sentence


def test_a_secret_that_ended_afterwards_was_good_then() -> None:
    keys = [Key(SECRET, NOON - DAY, NOON + DAY)]
    assert examine(Refused(BODY, False, right(SECRET, BODY), "unauthorized", NOON), keys).code == "valid_now"


def test_a_value_that_is_both_previous_and_current_is_the_current_one() -> None:
    keys = [Key(SECRET, NOON - DAY, NOON - DAY / 2), Key(SECRET, NOON - 3 * DAY)]
    assert examine(Refused(BODY, False, right(SECRET, BODY), "unauthorized", NOON), keys).code == "valid_now"


def test_of_very_many_secrets_the_live_and_then_the_newest_are_tried() -> None:
    old = [Key(f"{PREVIOUS}{number}", NOON - (99 - number) * DAY, NOON - DAY) for number in range(MAX_SECRETS)]
    keys = [*old, Key(SECRET, NOON - 100 * DAY)]

    def code(secret: str) -> str:
        return examine(Refused(BODY, False, right(secret, BODY), "unauthorized", NOON), keys).code

    assert code(SECRET) == "valid_now"
    assert code(old[-1].value) == "previous_secret"
    assert code(old[0].value) == "none"


# ---------------------------------------------------------------- the body

PRETTY = json.dumps(EVENT, indent=2, ensure_ascii=False).encode()
DOS = PRETTY.replace(b"\n", b"\r\n")
GO = json.dumps(EVENT, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
GO_BODY = GO.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()
PHP_BODY = json.dumps(EVENT, separators=(",", ":")).replace("/", "\\/").encode()

# What was signed, what was sent.
BODIES: dict[str, tuple[str, bytes, bytes]] = {
    "empty": ("empty_body_signed", b"", BODY),
    "echo": ("newline_added", BODY + b"\n", BODY),
    "echo on Windows": ("newline_added", BODY + b"\r\n", BODY),
    "sent with a line break": ("newline_dropped", BODY, BODY + b"\n"),
    "sent with a line break of Windows": ("newline_dropped", BODY, BODY + b"\r\n"),
    "stripped": ("blanks_stripped", BODY, b"  " + BODY + b" \n"),
    "stripped at the end": ("blanks_stripped", b" " + BODY, b" " + BODY + b" \n\n"),
    "CRLF to LF": ("line_breaks", PRETTY, DOS),
    "LF to CRLF": ("line_breaks", DOS, PRETTY),
    "curl -d @file": ("line_breaks_dropped", PRETTY + b"\n", PRETTY.replace(b"\n", b"")),
    "byte order mark sent": ("bom", BODY, b"\xef\xbb\xbf" + BODY),
    "byte order mark signed": ("bom", b"\xef\xbb\xbf" + BODY, BODY),
    "JSON.stringify": ("reserialised", COMPACT, BODY),
    "json.dumps": ("reserialised", BODY, COMPACT),
    "sorted": ("reserialised", json.dumps(EVENT, sort_keys=True).encode(), COMPACT),
    "indented by 2": ("reserialised", PRETTY, BODY),
    "indented by 4": ("reserialised", json.dumps(EVENT, indent=4, sort_keys=True).encode(), BODY),
    "indented by tabs": ("reserialised", json.dumps(EVENT, indent="\t").encode(), COMPACT),
    "escaped": ("reserialised", json.dumps(EVENT, separators=(",", ":")).encode(), COMPACT),
    "not escaped": ("reserialised", json.dumps(EVENT, ensure_ascii=False).encode(), BODY),
    "jq": ("reserialised", PRETTY + b"\n", COMPACT),
    "jq -c -S": ("reserialised", GO.encode() + b"\n", BODY),
    "Go": ("reserialised", GO_BODY, BODY),
    "PHP": ("reserialised", PHP_BODY, BODY),
    "behind a byte order mark": ("reserialised", COMPACT, b"\xef\xbb\xbf" + BODY),
}


@pytest.mark.parametrize(("code", "signed", "sent"), BODIES.values(), ids=BODIES.keys())
def test_it_finds_what_happened_to_the_body(code: str, signed: bytes, sent: bytes) -> None:
    assert found(right(SECRET, signed), sent).code == code
    assert found(b64(mac(PREVIOUS, signed).digest()), sent).code == f"prefix_missing+base64+{code}+previous_secret"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b"1" * 5000])
def test_a_body_that_is_no_json_is_examined_too(body: bytes) -> None:
    assert found(right(SECRET, body + b"\n"), body).code == "newline_added"
    assert found(right("unknown", body), body).code == "none"


# ---------------------------------------------------------------- where it ends


def test_whose_the_signature_is_beyond_this_tenant_cannot_be_told() -> None:
    another_tenants = crypto.generate(crypto.WEBHOOK_SECRET)
    random = hashlib.sha256(b"random").hexdigest()
    answers = [found(right(another_tenants, BODY)), found(f"sha256={random}"), found(right(SECRET, b"another body"))]
    assert {answer.code for answer in answers} == {"none"}
    assert len(set(answers)) == 1
    assert answers[0].sentence == "None of your secrets signed this."


def test_without_any_secret_it_says_the_same() -> None:
    assert examine(Refused(BODY, False, right(SECRET, BODY), "unauthorized", NOON), []).code == "none"


def test_a_right_signature_is_called_right() -> None:
    assert found(right(SECRET, BODY)).code == "valid_now"
    assert found("sha256=" + mac(SECRET, BODY).hexdigest().upper()).code == "valid_now"
    assert found(right(SECRET, b""), b"").code == "valid_now"


def test_a_secret_that_was_added_afterwards_is_named() -> None:
    keys = [Key(SECRET, NOON + timedelta(minutes=1))]
    assert examine(Refused(BODY, False, right(SECRET, BODY), "unauthorized", NOON), keys).code == "secret_added_later"


@pytest.mark.parametrize("reason", AFTER)
def test_another_reason_than_the_signature_is_explained(reason: str) -> None:
    finding = found(right(SECRET, BODY), reason=reason)
    assert finding.code == "not_the_signature"
    assert AFTER[reason] in finding.sentence


@pytest.mark.parametrize("reason", BEFORE)
def test_what_was_refused_before_the_signature_was_looked_at_is_explained(reason: str) -> None:
    finding = found(None, b"", reason=reason, cut=True)
    assert finding.code == "not_looked_at"
    assert BEFORE[reason] in finding.sentence


def test_a_reason_that_it_does_not_know_is_not_the_signature_either() -> None:
    assert found(None, reason="new_one").code == "not_the_signature"


CUT = {
    "no header": ("header_missing", None),
    "the secret": ("secret_sent", SECRET),
    "sha1": ("other_algorithm", "sha1=" + mac(SECRET, BODY + b"x" * 70_000, "sha1").hexdigest()),
    "base64": ("base64", "sha256=" + b64(mac(SECRET, BODY + b"x" * 70_000).digest())),
    "no prefix": ("prefix_missing", mac(SECRET, BODY + b"x" * 70_000).hexdigest()),
    "the empty body": ("empty_body_signed", right(SECRET, b"")),
    "right or not": ("body_cut", right(SECRET, BODY + b"x" * 70_000)),
    "of what was kept": ("body_cut", right(SECRET, BODY)),
    "of nobody": ("body_cut", right("unknown", BODY)),
}


@pytest.mark.parametrize(("code", "header"), CUT.values(), ids=CUT.keys())
def test_of_a_body_that_was_cut_only_the_header_tells(code: str, header: str | None) -> None:
    finding = found(header, cut=True)
    assert finding.code == code
    assert "None of your" not in finding.sentence


def test_a_header_mistake_with_a_cut_body_says_that_the_rest_cannot_be_told() -> None:
    finding = found(mac(SECRET, BODY).hexdigest(), cut=True)
    assert "cannot be told" in finding.sentence
    assert "none of your secrets" not in finding.sentence


# ---------------------------------------------------------------- what it says


def test_every_mistake_of_its_table_is_made_by_a_test() -> None:
    made = {code for table in (HEADERS, SIGNED, BODIES, CUT) for code, *_ in table.values()}
    named = {part for code in made for part in code.split("+")}
    assert named | {"none", "valid_now", "secret_added_later", "not_the_signature", "not_looked_at"} == set(WORDS)


def test_every_finding_says_what_went_wrong_and_what_to_do() -> None:
    for _, header in HEADERS.values():
        finding = found(header)
        assert finding.sentence.endswith(".")
        assert finding.advice.endswith(".")
        assert "{" not in finding.sentence


def test_a_secret_shows_itself_in_no_repr() -> None:
    refused = Refused(b"the body", False, SECRET, "unauthorized", NOON)
    assert SECRET not in repr(KEYS) + repr(refused)
    assert "the body" not in repr(refused)


secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
bodies = st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode())
changes = st.sampled_from([lambda text: text, lambda text: text + b"\n", lambda text: b"", lambda text: text.strip()])
algorithms = st.sampled_from(["sha256", "sha1", "sha512"])
writings = st.sampled_from(
    [
        lambda digest: "sha256=" + digest.hex(),
        lambda digest: digest.hex(),
        lambda digest: b64(digest),
        lambda digest: "sha256=" + digest.hex()[:40],
        lambda digest: f'"{digest.hex()}"',
    ]
)


@given(bodies, secrets, secrets, changes, algorithms, writings, st.booleans(), st.sampled_from([-DAY, DAY, None]))
@settings(max_examples=300, deadline=None)
def test_no_finding_holds_a_secret_or_a_digest(
    body: bytes, secret: str, other: str, change: Any, algorithm: str, write: Any, cut: bool, ends: timedelta | None
) -> None:
    keys = [Key(secret, NOON - 9 * DAY, NOON + ends if ends else None), Key(other, NOON - DAY)]
    digest = mac(secret, change(body), algorithm).digest()
    for header in (write(digest), secret, right("unknown", body)):
        said = str(examine(Refused(body, cut, header, "unauthorized", NOON), keys))
        for hidden in (digest, mac(secret, body).digest(), mac(other, body).digest(), hashlib.sha256(body).digest()):
            assert hidden.hex()[:12] not in said.lower()
            assert b64(hidden)[:12] not in said
        assert secret not in said
        assert other not in said


@given(st.text(max_size=120) | st.binary(max_size=90).map(b64), bodies, st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_header_and_no_body_is_too_strange(header: str, body: bytes, cut: bool) -> None:
    finding = found(header, body, cut=cut)
    assert set(finding.code.split("+")) <= set(WORDS)
