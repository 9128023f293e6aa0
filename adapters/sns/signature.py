"""Whose topic a body is from, which key signed it, and whether it did. Pure.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509 import Certificate, DNSName, ExtensionNotFound, SubjectAlternativeName, load_pem_x509_certificate
from cryptography.x509.oid import NameOID

from openremedy.adapter import Published, object_in

TOPIC = "x-amz-sns-topic-arn"
NOTIFICATION, CONFIRMATION, UNSUBSCRIBED = "Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"
_ASKING = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
SIGNED: Mapping[str, tuple[str, ...]] = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    CONFIRMATION: _ASKING,
    UNSUBSCRIBED: _ASKING,
}
MAY_BE_MISSING = "Subject"
# What AWS calls its signature versions. SHA-1 is theirs to choose: a topic signs so unless it is told otherwise.
HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "1": hashes.SHA1(),  # nosec B303 # noqa: S303 - as said above
    "2": hashes.SHA256(),
}
SUFFIXES = {"aws": "amazonaws.com", "aws-us-gov": "amazonaws.com", "aws-cn": "amazonaws.com.cn"}
# The certificate of both American regions for their government has this name.
GOV_NAME = "sns-us-gov-west-1.amazonaws.com"
_ARN = re.compile(
    r"arn:(?P<partition>aws|aws-cn|aws-us-gov):sns:(?P<region>[a-z]{2}(?:-[a-z]{2,12}){1,3}-\d{1,2}):"
    r"(?P<account>\d{6,20}):(?P<name>[A-Za-z0-9_-]{1,256})",
    re.ASCII,
)
_TOKEN = re.compile(r"[A-Za-z0-9_=-]{1,1024}", re.ASCII)


@dataclass(frozen=True)
class Topic:
    """A topic by its name, and what follows from that."""

    arn: str
    partition: str
    region: str
    account: str
    name: str

    @property
    def suffix(self) -> str:
        """Of the names of its partition."""
        return SUFFIXES[self.partition]

    @property
    def host(self) -> str:
        """The one host that is ever asked for anything about it."""
        return f"sns.{self.region}.{self.suffix}"

    @property
    def signers(self) -> frozenset[str]:
        """The names that AWS gives the certificate of a region; it is one of these."""
        names = {f"{name}.{self.suffix}" for name in ("sns", f"sns.{self.region}", f"sns-signing.{self.region}")}
        gov = {GOV_NAME} if self.partition == "aws-us-gov" else set()
        return frozenset(names | {f"sns-{self.region}.{self.suffix}"} | gov)


def topic_of(arn: str) -> Topic | None:
    """The topic of this name; None for what is none."""
    found = _ARN.fullmatch(arn)
    return Topic(arn, **found.groupdict()) if found else None


@lru_cache(256)
def topics_in(text: str) -> frozenset[str]:
    """The names of topics in what an admin typed, with commas or blanks between them."""
    return frozenset(filter(None, re.split(r"[\s,]+", text)))


def is_named(arn: str, options: Mapping[str, Any]) -> bool:
    """Whether an admin has named this topic."""
    return arn in topics_in(str(options.get("topics") or "")) and topic_of(arn) is not None


# ---------------------------------------------------------------- where the key is


def key_url(body: bytes, headers: Mapping[str, str], options: Mapping[str, Any]) -> str:
    """Where the certificate lies that signed it, by name at the one host of the topic's region.

    Nothing is parsed before the header has named a topic that an admin has named.
    """
    arn = headers.get(TOPIC, "")
    topic = topic_of(arn) if is_named(arn, options) else None
    if topic is None:
        return ""
    message = object_in(body)
    url = message.get("SigningCertURL")
    if message.get("TopicArn") != arn or not isinstance(url, str):
        return ""
    name = rf"https://{re.escape(topic.host)}/SimpleNotificationService-[0-9a-f]{{1,64}}\.pem"
    return url if re.fullmatch(name, url, re.ASCII) else ""


def confirmation_url(topic: Topic, token: str) -> str:
    """What confirms a subscription, made anew from its parts; empty for a token that cannot be one.

    The SubscribeURL of the message is never asked.
    """
    if not _TOKEN.fullmatch(token):
        return ""
    query = urlencode({"Action": "ConfirmSubscription", "TopicArn": topic.arn, "Token": token})
    return f"https://{topic.host}/?{query}"


# ---------------------------------------------------------------- whether it signed


def read_key(document: bytes) -> Certificate:
    """The certificate in what AWS has answered. Raises ValueError."""
    return load_pem_x509_certificate(document)


def verify(certificate: Certificate, body: bytes, _headers: Mapping[str, str], now: float) -> bool:
    """Whether this certificate is SNS's own for the region of the topic, is valid now, and has signed this body."""
    message = object_in(body)
    topic = topic_of(str(message.get("TopicArn")))
    signed = string_to_sign(message)
    algorithm = HASHES.get(str(message.get("SignatureVersion")))
    key = certificate.public_key()
    if topic is None or signed is None or algorithm is None or not isinstance(key, rsa.RSAPublicKey):
        return False
    if not (_names(certificate) & topic.signers and _valid(certificate, now)):
        return False
    try:
        signature = base64.b64decode(str(message.get("Signature")), validate=True)
        key.verify(signature, signed, padding.PKCS1v15(), algorithm)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def string_to_sign(message: Mapping[str, Any]) -> bytes | None:
    """What AWS signs: names and values of some fields, each on a line; None where one is missing."""
    kind = message.get("Type")
    names = SIGNED.get(kind, ()) if isinstance(kind, str) else ()
    present = [name for name in names if message.get(name) is not None or name != MAY_BE_MISSING]
    if not present or not all(isinstance(message.get(name), str) for name in present):
        return None
    return "".join(f"{name}\n{message[name]}\n" for name in present).encode("utf-8", "surrogatepass")


def _names(certificate: Certificate) -> set[str]:
    common = {str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
    try:
        more = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return common
    return common | set(more.get_values_for_type(DNSName))


def _valid(certificate: Certificate, now: float) -> bool:
    return certificate.not_valid_before_utc <= datetime.fromtimestamp(now, UTC) <= certificate.not_valid_after_utc


published = Published(url=key_url, read=read_key, verify=verify)
