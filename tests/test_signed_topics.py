"""Amazon SNS at the door: whose signature counts, what is fetched for it, and how a subscription is confirmed.

What its messages become is tested in its own folder.
"""

import dataclasses
import json
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from flask import Flask
from sqlalchemy import select
from werkzeug.test import TestResponse

from adapters.sns import adapter
from adapters.sns.signature import topic_of
from aws import HOST, NAME, NOTIFICATION, TOKEN, TOPIC, Aws, certificate, headers
from cast import Source, Tenant
from config import Settings
from openremedy import directory, fetching, follow_ups, replay
from openremedy import sources as domain
from openremedy.audit import COMMAND_LINE
from openremedy.checklist import checklist
from openremedy.errors import Invalid
from openremedy.extensions import db
from openremedy.follow_up_worker import FollowUps
from openremedy.maintenance import sweep
from openremedy.models import Delivery, FollowUpRecord
from openremedy.models import Source as SourceRow
from openremedy.registry import adapters
from openremedy.services import services
from services import RedisServer, until
from stack import Stack

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
OTHER = TOPIC.replace("oncall", "other")
ALARM = {
    "AlarmName": "shop-web-cpu",
    "AWSAccountId": "210987654321",
    "NewStateValue": "ALARM",
    "OldStateValue": "OK",
    "NewStateReason": "Threshold Crossed.",
    "StateChangeTime": "2026-03-02T08:15:30.412+0000",
    "Trigger": {
        "MetricName": "CPUUtilization",
        "Namespace": "AWS/EC2",
        "Dimensions": [{"name": "InstanceId", "value": "i-0a1b2c3d4e5f60718"}],
        "ComparisonOperator": "GreaterThanThreshold",
    },
}


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    made = Aws(tmp_path_factory.mktemp("aws"))
    yield made
    made.close()


@pytest.fixture
def aws(region: Aws) -> Iterator[Aws]:
    """As if nobody had been there before."""
    documents = dict(region.documents)
    yield region
    region.documents, region.status, region.headers, region.before = documents, 200, {}, lambda: None
    region.asked.clear()


@pytest.fixture
def app(make_app: Callable[..., Flask], settings: Settings, aws: Aws) -> Flask:
    return make_app(settings, aws.fetcher)


@pytest.fixture
def source(alice: Tenant) -> Source:
    return alice.source("sns", topics=TOPIC)


def post(source: Source, body: Any, **changes: str) -> TestResponse:
    return source.send(json.dumps(body).encode(), **headers(body, **changes))


def deliveries(app: Flask) -> int:
    with app.app_context():
        return len(db.session.scalars(select(Delivery.id).where(Delivery.accepted)).all())


# ---------------------------------------------------------------- whose signature counts


@pytest.mark.parametrize("version", ["1", "2"])
def test_what_sns_signs_for_a_named_topic_is_taken(source: Source, alice: Tenant, aws: Aws, version: str) -> None:
    answer = post(source, aws.notification(ALARM, version=version))
    assert answer.status_code == 202, answer.get_data()
    (stored,) = answer.get_json()["alerts"]
    incident = alice.incident(stored["incident_id"])
    assert (incident["hostname"], incident["incident_type"]) == ("i-0a1b2c3d4e5f60718", "cpu_high")
    assert aws.asked == [(HOST, f"/{NAME}")]


@on_sqlite
def test_subject_is_signed_only_where_there_is_one(source: Source, aws: Aws) -> None:
    assert post(source, aws.notification("text", Subject=None)).status_code == 202
    assert post(source, aws.notification("Größe: 5 µm\n\u2028", Subject="")).status_code == 202
    without = aws.notification("text") | {"Subject": None}
    assert post(source, without).status_code == 401


Spoil = Callable[[Aws, dict[str, Any]], dict[str, Any]]
SPOILT: dict[str, Spoil] = {
    "message": lambda _, body: body | {"Message": body["Message"] + " "},
    "subject": lambda _, body: body | {"Subject": "Nothing is wrong"},
    "message-id": lambda _, body: body | {"MessageId": "5b1c0e9a-7d44-5f0e-9c1e-000000000002"},
    "time": lambda _, body: body | {"Timestamp": "2026-03-02T08:15:31.205Z"},
    "signature": lambda _, body: body | {"Signature": "A" + body["Signature"][1:]},
    "no-base64": lambda _, body: body | {"Signature": "!" + body["Signature"]},
    "no-signature": lambda _, body: body | {"Signature": None},
    "list": lambda _, body: body | {"Signature": [body["Signature"]]},
    "version-of-the-other": lambda _, body: body | {"SignatureVersion": "1"},
    "no-such-version": lambda _, body: body | {"SignatureVersion": "3"},
    "another-type": lambda _, body: body | {"Type": "SubscriptionConfirmation", "Token": "a", "SubscribeURL": "b"},
    "no-such-type": lambda _, body: body | {"Type": "Something"},
    "type-of-another-kind": lambda _, body: body | {"Type": {"a": 1}},
    "another-key": lambda aws, body: aws.signed(body, NOTIFICATION, "2", rsa.generate_private_key(65537, 2048)),
}


@on_sqlite
@pytest.mark.parametrize("how", SPOILT)
def test_whatever_is_altered_is_a_401(source: Source, aws: Aws, how: str) -> None:
    good = aws.notification(ALARM)
    assert post(source, SPOILT[how](aws, good)).status_code == 401
    assert post(source, good).status_code == 202


@on_sqlite
def test_a_topic_that_nobody_has_named_makes_us_fetch_nothing(source: Source, aws: Aws) -> None:
    """Signed by SNS itself all the same: for an account of a stranger."""
    body = aws.notification(ALARM, topic=OTHER)
    named = headers(body)["X-Amz-Sns-Topic-Arn"]
    assert named == OTHER
    for changes in (
        {},
        {"X-Amz-Sns-Topic-Arn": TOPIC},
        {"X-Amz-Sns-Topic-Arn": ""},
        {"X-Amz-Sns-Topic-Arn": TOPIC + "/"},
    ):
        assert post(source, body, **changes).status_code == 401
    # One that is named, but not in the header, by which we decide before we parse.
    assert post(source, aws.notification(ALARM), **{"X-Amz-Sns-Topic-Arn": OTHER}).status_code == 401
    assert aws.asked == []


@on_sqlite
def test_of_another_tenant_the_topic_is_not_named(source: Source, charlie: Tenant, aws: Aws) -> None:
    theirs = charlie.source("sns", topics=OTHER)
    assert post(theirs, aws.notification(ALARM)).status_code == 401
    assert aws.asked == []


@on_sqlite
def test_all_who_are_refused_get_the_same_answer(source: Source, alice: Tenant, aws: Aws) -> None:
    def said(answer: TestResponse) -> Any:
        found = answer.get_json()
        del found["request_id"]
        return answer.status_code, found, answer.headers["WWW-Authenticate"]

    body = aws.notification(ALARM)
    strangers = dataclasses.replace(source, slug="nobody")
    wrong = [
        post(source, body | {"Message": "x"}),
        post(source, aws.notification(ALARM, topic=OTHER)),
        post(strangers, body),
        source.send(b"{", **{"Content-Type": "text/plain"}),
    ]
    assert len({repr(said(answer)) for answer in wrong}) == 1
    # Without a realm SNS does not send the password of its endpoint.
    assert said(wrong[0])[2] == 'Basic realm="OpenRemedy"'


FOREIGN = [
    f"http://{HOST}/{NAME}",
    f"https://{HOST}:444/{NAME}",
    f"https://{HOST}:443/{NAME}",
    f"https://user@{HOST}/{NAME}",
    f"https://{HOST}@evil.example/{NAME}",
    f"https://{HOST}.evil.example/{NAME}",
    f"https://sns.eu-west-1.amazonaws.com/{NAME}",
    f"https://sns.amazonaws.com/{NAME}",
    f"https://evil.amazonaws.com/{NAME}",
    f"https://sns.eu-central-1.amazonaws.com.cn/{NAME}",
    f"https://snsxeu-central-1.amazonaws.com/{NAME}",
    f"https://bucket.s3.amazonaws.com/{NAME}",
    f"https://169.254.169.254/{NAME}",
    f"https://{HOST}/{NAME}?x=1",
    f"https://{HOST}/{NAME}#x",
    f"https://{HOST}/../{NAME}",
    f"https://{HOST}/a/{NAME}",
    f"https://{HOST}/SimpleNotificationService-0011.pem\n",
    f"https://{HOST}/SimpleNotificationService-..%2fx.pem",
    f"https://{HOST}\\@evil.example/{NAME}",
    f"https://{HOST.upper()}/{NAME}",
    "file:///etc/passwd",
    "",
    5,
    None,
]


@on_sqlite
def test_a_certificate_is_only_ever_asked_of_the_host_of_the_topics_region(source: Source, aws: Aws) -> None:
    for url in FOREIGN:
        assert post(source, aws.notification(ALARM) | {"SigningCertURL": url}).status_code == 401, url
    assert aws.asked == []


@on_sqlite
def test_an_expired_certificate_or_one_of_somebody_else_counts_for_nothing(source: Source, aws: Aws) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    wrong = [
        certificate("sns.amazonaws.com", aws.key, aws.issuer, ended=True),
        certificate("www.evil.example", aws.key, aws.issuer),
        certificate("sns-signing.eu-west-1.amazonaws.com", aws.key, aws.issuer),
        certificate("sns.amazonaws.com.evil.example", aws.key, aws.issuer),
        certificate("sns.amazonaws.com", curve, aws.issuer),
    ]
    for number, document in enumerate(wrong):
        path = f"/SimpleNotificationService-{number:032x}.pem"
        aws.documents[path] = document
        url = f"https://{HOST}{path}"
        assert post(source, aws.notification(ALARM, SigningCertURL=url)).status_code == 401, number
    assert len(aws.asked) == len(wrong)


@on_sqlite
def test_the_names_that_aws_gives_its_certificates_are_known(source: Source, aws: Aws) -> None:
    good = [("sns.amazonaws.com", None), ("sns-signing.eu-central-1.amazonaws.com", None), ("Amazon SNS", HOST)]
    for number, (name, alternative) in enumerate(good):
        path = f"/SimpleNotificationService-{number:032x}.pem"
        aws.documents[path] = certificate(name, aws.key, aws.issuer, alternative=alternative)
        assert post(source, aws.notification(ALARM, SigningCertURL=f"https://{HOST}{path}")).status_code == 202, name
    assert "sns-cn-north-1.amazonaws.com.cn" in signers("arn:aws-cn:sns:cn-north-1:123456789012:a")
    assert "sns-us-gov-west-1.amazonaws.com" in signers("arn:aws-us-gov:sns:us-gov-east-1:123456789012:a")
    assert "sns-us-gov-west-1.amazonaws.com" not in signers(TOPIC)


def signers(arn: str) -> frozenset[str]:
    topic = topic_of(arn)
    assert topic
    return topic.signers


@on_sqlite
def test_what_is_raw_is_not_taken(source: Source, aws: Aws) -> None:
    """Raw message delivery posts the message alone, which nobody has signed."""
    raw = json.dumps(ALARM).encode()
    told = {"X-Amz-Sns-Topic-Arn": TOPIC, "X-Amz-Sns-Rawdelivery": "true", "Content-Type": "text/plain; charset=UTF-8"}
    assert source.send(raw, **told).status_code == 401
    with_token = source.send(raw, **told, Authorization=f"Bearer {source.token}")
    assert with_token.status_code == 422
    assert "raw message delivery off" in with_token.get_json()["error"]["message"]
    assert aws.asked == []


@on_sqlite
def test_a_right_token_needs_no_signature(source: Source, aws: Aws) -> None:
    body = aws.notification(ALARM, topic=OTHER) | {"Signature": ""}
    assert source.send(body, Authorization=f"Bearer {source.token}").status_code == 202
    assert aws.asked == []


def test_one_message_delivered_twice_counts_once(source: Source, alice: Tenant, aws: Aws) -> None:
    for message in (ALARM, "A text"):
        body = aws.notification(message)
        first, again = (post(source, body).get_json()["alerts"][0] for _ in range(2))
        assert (first["outcome"], again["outcome"]) == ("created", "duplicate")
        assert alice.incident(first["incident_id"])["occurrences"] == 1


@on_sqlite
@pytest.mark.parametrize(
    "wrong",
    [
        *("alarms", "arn:aws:sns:eu-west-1:123456789012:*", "arn:aws:sns:*:123456789012:a", f"{TOPIC}, x"),
        *("arn:aws:sqs:eu-west-1:123456789012:a", "arn:aws-iso:sns:us-iso-east-1:123456789012:a", f"{TOPIC}:sub"),
        *("arn:aws:sns:evil.example/#-1:123456789012:a", "arn:aws:sns:eu-west-1:123456789012:a/../b"),
    ],
)
def test_a_topic_is_named_by_its_whole_arn(alice: Tenant, wrong: str) -> None:
    with pytest.raises(Invalid):
        alice.source("sns", topics=wrong)


@on_sqlite
def test_several_topics_may_be_named(alice: Tenant, aws: Aws) -> None:
    both = alice.source("sns", topics=f" {TOPIC},\n{OTHER} ")
    assert [post(both, aws.notification("x", topic=one)).status_code for one in (TOPIC, OTHER)] == [202, 202]


# ---------------------------------------------------------------- certificates that are fetched


@on_sqlite
def test_many_at_once_fetch_a_certificate_once(source: Source, aws: Aws) -> None:
    arrived, go = threading.Event(), threading.Event()

    def hold() -> None:
        arrived.set()
        go.wait(10)

    aws.before = hold
    bodies = [aws.notification(ALARM, MessageId=f"5b1c0e9a-0000-0000-0000-{number:012}") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(post, source, body) for body in bodies]
        assert arrived.wait(10)
        go.set()
        assert {answer.result().status_code for answer in answers} == {202}
    assert len(aws.asked) == 1


def reply(aws: Aws, status: int = 200, **headers: str) -> None:
    aws.status, aws.headers = status, headers


FAULTS: dict[str, Callable[[Aws], None]] = {
    "missing": lambda aws: reply(aws, 404),
    "broken": lambda aws: reply(aws, 500),
    "redirected": lambda aws: reply(aws, 302, Location=f"https://{HOST}/{NAME}"),
    "no-certificate": lambda aws: aws.documents.update({f"/{NAME}": b"<html>Hello</html>"}),
    # The certificate itself, and more behind it than is read.
    "too-large": lambda aws: aws.documents.update(
        {f"/{NAME}": aws.documents[f"/{NAME}"] + b"\n" * fetching.MAX_DOCUMENT}
    ),
}


@on_sqlite
@pytest.mark.parametrize("fault", FAULTS)
def test_a_certificate_that_does_not_come_is_a_503_and_the_message_comes_again(
    source: Source, alice: Tenant, aws: Aws, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(directory, "KEY_PAUSE", 0.0)
    good = dict(aws.documents)
    FAULTS[fault](aws)
    body = aws.notification(ALARM)
    answer = post(source, body)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "unavailable")
    assert len(aws.asked) == 1, "a redirect is not followed"
    assert deliveries(alice.app) == 0
    reply(aws)
    aws.documents = good
    assert post(source, body).status_code == 202


@on_sqlite
def test_after_a_failure_the_same_certificate_is_left_alone_for_a_while(source: Source, aws: Aws) -> None:
    reply(aws, 500)
    body = aws.notification(ALARM)
    assert [post(source, body).status_code for _ in range(3)] == [503, 503, 503]
    assert len(aws.asked) == 1


@on_sqlite
def test_a_certificate_that_hangs_holds_nobody_and_only_two_are_fetched_at_once(
    source: Source, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "KEY_WAIT", 0.2)
    go = threading.Event()
    aws.before = lambda: go.wait(10) and None
    urls = [f"https://{HOST}/SimpleNotificationService-{number:032x}.pem" for number in range(4)]
    assert {post(source, aws.notification(ALARM, SigningCertURL=url)).status_code for url in urls} == {503}
    until(lambda: len(aws.asked) == 2, "both have arrived")
    go.set()


@on_sqlite
def test_a_host_that_cannot_prove_its_name_is_not_believed(make_app: Any, settings: Settings, aws: Aws) -> None:
    """The certificate of its TLS is for another region; by name and by authority it is checked as AWS's own is."""
    with pytest.raises(fetching.NoDocument, match="ConnectError"):
        aws.fetcher.get(f"https://sns.us-east-1.amazonaws.com/{NAME}")
    with pytest.raises(fetching.NoDocument, match="https"):
        aws.fetcher.get(f"http://{HOST}/{NAME}")
    assert aws.asked == []


# ---------------------------------------------------------------- confirming a subscription


def work(app: Flask, aws: Aws) -> bool:
    """What the job of a worker does."""
    with app.app_context():
        return FollowUps(db.engine, aws.fetcher, adapters())()


def records(app: Flask) -> list[FollowUpRecord]:
    with app.app_context():
        return list(db.session.scalars(select(FollowUpRecord).order_by(FollowUpRecord.id)))


def lines(source: Source) -> list[tuple[bool, str]]:
    """The lines of the checklist about it."""
    with source.app.app_context():
        found = db.session.get_one(SourceRow, source.id)
        items = checklist(db.session(), found, adapters()[source.adapter])
        return [(one.done, one.words) for one in items if one.name == "confirmed"]


def make_due(app: Flask) -> None:
    with app.app_context():
        for one in db.session.scalars(select(FollowUpRecord).where(FollowUpRecord.due_at.is_not(None))):
            assert one.due_at
            one.due_at -= timedelta(hours=2)
        db.session.commit()


def test_a_subscription_is_confirmed_by_a_worker_and_the_page_says_so(source: Source, aws: Aws) -> None:
    answer = post(source, aws.question())
    assert answer.status_code == 202
    (stored,) = answer.get_json()["alerts"]
    assert (stored["outcome"], "a worker confirms it" in stored["reason"]) == ("ignored", True)
    assert aws.confirmed == [], "no request waits for AWS"
    assert lines(source) == [(False, f"The subscription to {TOPIC}: a worker does it next.")]
    assert work(source.app, aws) is False
    ((host, path),) = aws.confirmed
    assert (host, path.startswith("/?Action=ConfirmSubscription&TopicArn=")) == (HOST, True)
    assert path.endswith(f"Token={TOKEN}")
    assert lines(source) == [(True, f"The subscription to {TOPIC} was confirmed")]
    work(source.app, aws)
    assert len(aws.confirmed) == 1


TRICKS = [
    "http://169.254.169.254/latest/meta-data/",
    "https://169.254.169.254/?Action=ConfirmSubscription",
    "https://sns.evil.amazonaws.com.evil.example/?Action=ConfirmSubscription",
    f"https://{HOST}@evil.example/?Action=ConfirmSubscription",
    f"https://{HOST}:8443/?Action=ConfirmSubscription",
    f"https://{HOST}/?Action=DeleteTopic&TopicArn={TOPIC}",
    "file:///etc/passwd",
]


@on_sqlite
@pytest.mark.parametrize("url", TRICKS)
def test_the_subscribe_url_that_is_sent_is_never_asked(source: Source, aws: Aws, url: str) -> None:
    """Though signed, and though its sender has the token."""
    for body in (aws.question(SubscribeURL=url), aws.question() | {"SubscribeURL": url}):
        source.send(json.dumps(body).encode(), **headers(body), Authorization=f"Bearer {source.token}")
        work(source.app, aws)
    assert {host for host, _ in aws.confirmed} == {HOST}
    assert {path.partition("&")[0] for _, path in aws.confirmed} == {"/?Action=ConfirmSubscription"}


@on_sqlite
def test_a_topic_that_nobody_has_named_is_not_confirmed_whoever_asks(source: Source, aws: Aws) -> None:
    body = aws.question(topic=OTHER)
    assert post(source, body).status_code == 401
    answer = source.send(body, Authorization=f"Bearer {source.token}")
    assert "not among the topics of this source" in answer.get_json()["alerts"][0]["reason"]
    assert records(source.app) == []


@on_sqlite
def test_a_topic_that_is_named_no_more_when_the_worker_comes_is_not_confirmed(source: Source, aws: Aws) -> None:
    post(source, aws.question())
    with source.app.app_context():
        row = db.session.get_one(SourceRow, source.id)
        domain.edit_source(db.session(), services().vault, row, adapter.options, options={"topics": OTHER})
    work(source.app, aws)
    assert aws.confirmed == []
    ((done, words),) = lines(source)
    assert (done, "is not to be answered" in words) == (False, True)


@on_sqlite
def test_a_worker_tries_again_until_aws_answers(source: Source, aws: Aws) -> None:
    post(source, aws.question())
    for status in (500, 302, 429):
        reply(aws, status, Location="https://evil.example/")
        work(source.app, aws)
        assert lines(source) == [
            (False, f"The subscription to {TOPIC}: The tool answered {status}. It is tried again.")
        ]
        assert not work(source.app, aws), "not before its time"
        make_due(source.app)
    reply(aws)
    work(source.app, aws)
    assert lines(source)[0][0]
    assert [host for host, _ in aws.confirmed] == [HOST] * 4, "no redirect is followed"


@on_sqlite
def test_a_last_word_of_aws_is_told_and_the_next_question_begins_anew(source: Source, aws: Aws) -> None:
    post(source, aws.question())
    reply(aws, 400)
    work(source.app, aws)
    make_due(source.app)
    work(source.app, aws)
    assert len(aws.confirmed) == 1
    assert lines(source) == [(False, f"The subscription to {TOPIC}: The tool answered 400. That was")]
    reply(aws)
    post(source, aws.question())
    work(source.app, aws)
    assert len(records(source.app)) == 1
    assert lines(source)[0][0]


@on_sqlite
def test_it_is_given_up_after_two_days(source: Source, aws: Aws) -> None:
    post(source, aws.question())
    with source.app.app_context():
        one = db.session.scalars(select(FollowUpRecord)).one()
        one.created_at -= follow_ups.PATIENCE
        db.session.commit()
    reply(aws, 500)
    work(source.app, aws)
    make_due(source.app)
    work(source.app, aws)
    assert len(aws.confirmed) == 1
    assert records(source.app)[0].due_at is None


def test_who_dies_with_it_in_hand_leaves_it_to_the_next(source: Source, aws: Aws) -> None:
    post(source, aws.question())
    with source.app.app_context():
        taken = follow_ups.claim(db.engine)
        assert taken
        assert follow_ups.claim(db.engine) is None, "it is one worker's"
        assert not follow_ups.waiting(db.engine)
    make_due(source.app)
    work(source.app, aws)
    with source.app.app_context():
        follow_ups.failed(db.engine, taken, "too late", final=True)
    assert lines(source)[0][0], "the first, if it lives after all, changes nothing any more"


def test_what_asks_is_stored_with_what_it_asks_or_not_at_all(
    source: Source, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(follow_ups, "note", lambda *_: broken)
        assert post(source, aws.question()).status_code == 500
    assert (deliveries(source.app), records(source.app)) == (0, [])


@on_sqlite
def test_the_sweep_wakes_a_worker_for_what_waits(source: Source, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[bool] = []
    with source.app.app_context():
        monkeypatch.setattr(services().follow_up_waker, "wake", lambda: woken.append(True))
        monkeypatch.setattr(services().follow_up_waker, "soon", lambda: None)
        sweep(services(), db.engine)
        assert woken == []
        post(source, aws.question())
        sweep(services(), db.engine)
        assert woken == [True]


@on_sqlite
def test_a_refused_question_that_is_replayed_is_answered(source: Source, alice: Tenant, aws: Aws) -> None:
    """An admin has named the topic only after SNS has asked, and vouches for what it said."""
    body = aws.question(topic=OTHER)
    assert post(source, body).status_code == 401
    with alice.app.app_context():
        services().tally.flush()
        row = db.session.get_one(SourceRow, source.id)
        domain.edit_source(db.session(), services().vault, row, adapter.options, options={"topics": OTHER})
        (refused,) = db.session.scalars(select(Delivery.id).where(~Delivery.accepted)).all()
        replay.replay(db.session(), alice.id, refused, COMMAND_LINE)
    work(alice.app, aws)
    assert len(aws.confirmed) == 1


def test_that_somebody_has_ended_the_subscription_is_shown_and_not_undone(source: Source, aws: Aws) -> None:
    post(source, aws.question())
    work(source.app, aws)
    assert post(source, aws.question("UnsubscribeConfirmation")).status_code == 202
    work(source.app, aws)
    assert len(aws.confirmed) == 1
    ((done, words),) = lines(source)
    assert (done, "Somebody has ended it" in words) == (False, True)


# ---------------------------------------------------------------- real processes


class Region(Stack):
    """The worker of this installation finds the stand-in where AWS would be."""

    aws: Aws

    def _command(self, name: str) -> list[str]:
        if not name.startswith("worker"):
            return super()._command(name)
        return [sys.executable, "tests/aws.py", str(self.aws.port), str(self.aws.authority_file)]

    def ask(self, token: str) -> None:
        """SNS asks, with the token: the certificate is the business of other tests."""
        url = f"{self.url}/api/v1/webhooks/sns/{self.slug}"
        answer = requests.post(url, json=self.aws.question(), headers={"Authorization": f"Bearer {token}"}, timeout=30)
        assert answer.status_code == 202, answer.text


@pytest.fixture
def installed(tmp_path: Path, database_url: str, redis_url: str, aws: Aws) -> Iterator[tuple[Region, str]]:
    """With a web process, and the token of a source."""
    from conftest import ENCRYPTION_KEY

    running = Region(tmp_path, database_url, redis_url, ENCRYPTION_KEY)
    running.aws = aws
    token = running.create_tenant("sns")[0]["token"]
    running.flask("source", "edit", running.slug, "sns", "--option", f"topics={TOPIC}")
    running.start("web")
    yield running, token
    running.stop()


@on_postgresql
def test_a_real_worker_confirms_what_came_while_redis_was_away(
    installed: tuple[Region, str], redis_server: RedisServer, aws: Aws
) -> None:
    running, token = installed
    redis_server.stop()
    try:
        running.ask(token)
    finally:
        redis_server.start()
    running.start("worker", "scheduler")
    until(lambda: aws.confirmed, "the worker has confirmed", 60)
    assert TOKEN not in running.log("worker")


@on_postgresql
def test_a_worker_that_is_killed_while_it_confirms_leaves_it_to_the_next(
    installed: tuple[Region, str], aws: Aws
) -> None:
    running, token = installed
    go = threading.Event()
    aws.before = lambda: go.wait(30) and None
    running.start("worker")
    running.ask(token)
    until(lambda: aws.confirmed, "it is at it")
    running.kill("worker")
    aws.before = lambda: None
    go.set()
    running.start("worker")
    until(lambda: running.flask("sweep") is not None and len(aws.confirmed) == 2, "another has confirmed", 60)


# ---------------------------------------------------------------- what an alarm says


def told(state: str, before: str, minute: int, **changes: Any) -> dict[str, Any]:
    at = f"2026-03-02T08:{minute:02}:30.412+0000"
    return ALARM | {"NewStateValue": state, "OldStateValue": before, "StateChangeTime": at} | changes


def test_silence_ends_no_incident_and_is_one_of_its_own(source: Source, alice: Tenant, aws: Aws) -> None:
    def open_ones() -> dict[str, str]:
        return {one["incident_type"]: one["hostname"] for one in alice.incidents(status="open")}

    steps = [
        ("ALARM", "OK", {"cpu_high"}),
        ("INSUFFICIENT_DATA", "ALARM", {"cpu_high", "custom"}),
        ("ALARM", "INSUFFICIENT_DATA", {"cpu_high"}),
        ("OK", "ALARM", set()),
        ("INSUFFICIENT_DATA", "OK", {"custom"}),
        ("OK", "INSUFFICIENT_DATA", set()),
    ]
    for minute, (state, before, expected) in enumerate(steps, 10):
        body = aws.notification(told(state, before, minute), MessageId=f"m-{minute}")
        assert post(source, body).status_code == 202
        assert set(open_ones()) == expected, (state, before)
