"""The signature of the canonical endpoint, without the web."""

import hashlib
import hmac

import pytest

from openremedy.signing import matching, sign

SECRET, OTHER = b"orwh_secret", b"orwh_other"
BODY = b'{"hostname": "web-01"}'
DIGEST = hmac.new(SECRET, BODY, hashlib.sha256).hexdigest()


def test_it_signs_as_any_client_does() -> None:
    assert sign(SECRET, BODY) == "sha256=" + DIGEST


def test_it_knows_a_published_test_vector() -> None:
    # RFC 4231, test case 2.
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert sign(b"Jefe", b"what do ya want for nothing?") == "sha256=" + expected


@pytest.mark.parametrize("digest", [DIGEST, DIGEST.upper(), DIGEST[:32].upper() + DIGEST[32:]])
def test_it_takes_hex_in_either_case(digest: str) -> None:
    assert matching([SECRET], BODY, "sha256=" + digest) == 0


def test_it_names_the_secret_that_signed() -> None:
    assert matching([OTHER, SECRET], BODY, sign(SECRET, BODY)) == 1
    assert matching([SECRET, OTHER], BODY, sign(SECRET, BODY)) == 0


def test_it_matches_nothing_without_secrets() -> None:
    assert matching([], BODY, sign(SECRET, BODY)) is None


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "sha256=",
        "sha256",
        DIGEST,
        "SHA256=" + DIGEST,
        "Sha256=" + DIGEST,
        "sha1=" + DIGEST,
        "md5=" + DIGEST,
        "v1," + DIGEST,
        "sha256:" + DIGEST,
        "sha256= " + DIGEST,
        " sha256=" + DIGEST,
        "sha256=" + DIGEST + " ",
        "sha256=" + DIGEST + "\n",
        "sha256=" + DIGEST[:63],
        "sha256=" + DIGEST + "0",
        "sha256=" + DIGEST[:32],
        "sha256=" + DIGEST * 2,
        "sha256=" + DIGEST + ",sha256=" + DIGEST,
        "sha256=" + " ".join(DIGEST[place : place + 2] for place in range(0, 64, 2)),
        "sha256=" + DIGEST[:62] + "zz",
        "sha256=0x" + DIGEST[:62],
        "sha256=" + DIGEST.translate({ord("0") + number: 0xFF10 + number for number in range(10)}),
        "sha256=\xc3\xa9" + DIGEST[4:],
        "sha256=\udce9" + DIGEST[2:],
        "sha256=" + "\x00" * 64,
    ],
)
def test_it_refuses_every_other_spelling(header: str | None) -> None:
    assert matching([SECRET], BODY, header) is None


@pytest.mark.parametrize("body", [BODY + b"\n", BODY[:-1], BODY.replace(b" ", b""), b"\xef\xbb\xbf" + BODY, b""])
def test_it_covers_every_byte_of_the_body(body: bytes) -> None:
    assert matching([SECRET], body, sign(SECRET, BODY)) is None


def test_it_refuses_the_signature_of_another_secret() -> None:
    assert matching([SECRET], BODY, sign(OTHER, BODY)) is None
