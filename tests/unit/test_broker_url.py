"""A broker's URL means one thing, whoever connects; what doesn't is refused in one sentence without its password."""

from __future__ import annotations

import os
import traceback
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from redis.connection import parse_url

from base.broker_url import BrokerUrl, masked_url, parse_broker_url, unix_url
from configs import Settings, SettingsError, load_settings
from jobs import passwords
from tests.canaries import MARK, as_id

SECRET = unquote("a%40b")
# Every one is a form of redis-py's.
FORMS = {
    "redis://": BrokerUrl(),
    "redis://queue": BrokerUrl(host="queue"),
    "redis://queue:7000/3": BrokerUrl(host="queue", port=7000, db=3),
    "redis://queue/3/": BrokerUrl(host="queue", db=3),
    "redis://queue/": BrokerUrl(host="queue"),
    "redis://queue/1?db=2": BrokerUrl(host="queue", db=2),
    "redis://queue?db=2&db=3": BrokerUrl(host="queue", db=2),
    "redis://[::1]:7000/1": BrokerUrl(host="::1", port=7000, db=1),
    "redis://me:a%40b@queue": BrokerUrl(host="queue", username="me", password=SECRET),
    "redis://:a@b@queue": BrokerUrl(host="queue", password=SECRET),
    "redis://queue?username=me&password=a%40b": BrokerUrl(host="queue", username="me", password=SECRET),
    "redis://me:a%40b@queue?password=y": BrokerUrl(host="queue", username="me", password=SECRET),
    "redis://queue?health_check_interval=30&client_name=a": BrokerUrl(
        host="queue", options={"health_check_interval": 30, "client_name": "a"}
    ),
    "redis://queue?socket_timeout=2.5&socket_keepalive=no&max_connections=20": BrokerUrl(
        host="queue",
        options={"socket_timeout": 2.5, "socket_keepalive": False, "max_connections": 20},
    ),
    "redis://queue?retry_on_timeout=yes": BrokerUrl(host="queue", options={"retry_on_timeout": True}),
    "rediss://queue:7000?ssl_certfile=/a%20b.pem&ssl_keyfile=/k.pem": BrokerUrl(
        is_tls=True, host="queue", port=7000, tls_files={"ssl_certfile": "/a b.pem", "ssl_keyfile": "/k.pem"}
    ),
    "unix:///run/r.sock": BrokerUrl(path="/run/r.sock"),
    "unix:///run/r.sock?db=4&password=a%40b": BrokerUrl(path="/run/r.sock", db=4, password=SECRET),
    "unix://me:a%40b@/C%23/q%3F/50%25/a%20b/%C3%A4.sock": BrokerUrl(
        path="/C#/q?/50%/a b/ä.sock", username="me", password=SECRET
    ),
}


@pytest.mark.parametrize("url", FORMS)
def test_a_form_of_redis_py_means_what_it_means_there(url: str) -> None:
    parsed, theirs = parse_broker_url(url), parse_url(url)

    assert parsed == FORMS[url]
    ours = {name: getattr(parsed, name) for name in ("host", "port", "path", "db", "username", "password")}
    ours |= parsed.options | parsed.tls_files
    for name, value in theirs.items():
        assert name == "connection_class" or ours[name] == value, name


BEHIND = BrokerUrl(host="", port=0, sentinels=(("a", 26379), ("b", 7000)), master_name="m")


@pytest.mark.parametrize(
    ("url", "means"),
    [
        ("sentinel://a,b:7000?master_name=m", BEHIND),
        ("redis+sentinel://a:26379,b:7000/0?master_name=m", BEHIND),
        ("sentinel://a:26379;sentinel://b:7000?master_name=m", BEHIND),  # kombu's
        ("sentinel://a:26379;b:7000/0?master_name=m", BEHIND),  # Celery's
        (
            "sentinel://me:a%40b@a/3;sentinel://me:a%40b@b:7000/3?master_name=m&socket_timeout=2",
            replace(BEHIND, username="me", password=SECRET, db=3, options={"socket_timeout": 2.0}),
        ),
        (
            "sentinel://:a@b@a,b:7000/3?master_name=m&sentinel_username=it&sentinel_password=a%40b",
            replace(BEHIND, password=SECRET, db=3, sentinel_username="it", sentinel_password=SECRET),
        ),
        (
            "rediss+sentinel://a,b:7000?master_name=m&ssl_ca_certs=/ca.pem",
            replace(BEHIND, is_tls=True, tls_files={"ssl_ca_certs": "/ca.pem"}),
        ),
        ("sentinel://[::1],[::2]:7000?master_name=m", replace(BEHIND, sentinels=(("::1", 26379), ("::2", 7000)))),
        ("redis+socket:///run/r.sock?virtual_host=2", BrokerUrl(path="/run/r.sock", db=2)),  # Celery's
    ],
)
def test_a_form_that_redis_py_has_not(url: str, means: BrokerUrl) -> None:
    assert parse_broker_url(url) == means


@pytest.mark.parametrize(
    "url",
    [
        f"redis://me:{MARK}@queue?password={MARK}",
        f"sentinel://me:{MARK}@a,b?master_name=m&sentinel_password={MARK}",
        f"sentinel://me:{MARK}@a;sentinel://me:{MARK}@b?master_name=m",
    ],
)
def test_every_password_of_a_url_is_hidden(url: str) -> None:
    assert MARK not in masked_url(url)
    assert masked_url(url).count("***") == url.count(MARK)
    assert passwords(Settings(broker=url)) == {MARK}


def test_certificates_may_be_checked_and_not_left_unchecked() -> None:
    checked = "rediss://queue?ssl_cert_reqs=required&ssl_check_hostname=true"

    assert parse_broker_url(checked) == BrokerUrl(is_tls=True, host="queue")
    for unchecked in ("ssl_cert_reqs=none", "ssl_cert_reqs=CERT_OPTIONAL", "ssl_check_hostname=false"):
        with pytest.raises(ValueError, match="is verified always"):
            parse_broker_url(f"rediss://queue?{unchecked}")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"amqp://me:{MARK}@queue", "a broker is a redis://"),
        (f"redis:{MARK}", "a broker is a redis://"),
        (f"redis-cluster://:{MARK}@queue", "Redis Cluster is not supported; give the URL of one primary"),
        (f"sentinel://:{MARK}@a:26379,b:26379/0", "put .master_name=NAME at its end"),
        (f"redis+sentinel://:{MARK}@a:26379/0/m", "the database of a broker is a number"),
        (f"sentinel://:{MARK}@a,,b?master_name=m", "one of its Sentinels has no host"),
        (f"sentinel://:{MARK}@?master_name=m", "one of its Sentinels has no host"),
        (f"sentinel://:{MARK}@a;redis://b?master_name=m", "each of its Sentinels is HOST:PORT"),
        (f"sentinel://:{MARK}@a;sentinel://:b@b?master_name=m", "one user, one password and one database"),
        (f"sentinel://:{MARK}@a/1;sentinel://b/2?master_name=m", "one user, one password and one database"),
        (f"sentinel://:{MARK}/x@a,b?master_name=m", "a password's / # . @ are"),
        (f"sentinel://:{MARK}@a:port,b?master_name=m", "no single host"),
        (f"sentinel://:{MARK}@a,b?mastername=m", "known here; known: .*master_name, sentinel_username"),
        (f"redis://:{MARK}@a?master_name=m", "not known here"),
        (f"redis://:{MARK}/x@queue", "a password's / # . @ are"),
        (f"redis://:{MARK}#x@queue", "a password's / # . @ are"),
        (f"redis://:{MARK}?x@queue", "a password's / # . @ are"),
        (f"redis://:7/{MARK}@queue", "the database of a broker is a number"),
        (f"redis://:{MARK}@queue/abc", "the database of a broker is a number"),
        (f"redis://:{MARK}@queue/1/2", "the database of a broker is a number"),  # 12 in redis-py
        (f"redis://:{MARK}@queue/-1", "the database of a broker is a number"),
        (f"redis://queue?password={MARK}&db=x", "the database of a broker is a number"),
        (f"redis://:{MARK}@queue:port/0", "no single host"),
        (f"redis://:{MARK}@queue:99999/0", "no single host"),
        (f"redis://:{MARK}@[::1/0", "no single host"),
        (f"redis://:{MARK}@a,b/0", "no single host"),
        (f"redis://:{MARK}@a;redis://b/0", "no single host"),  # Celery's
        (f"redis://queue?passw%6Frd={MARK}", "with % in its name"),
        (f"redis://queue?pasword={MARK}", "an option that is not known here; known: socket_timeout, "),
        (f"redis://:{MARK}@queue?decode_responses=no", "not known here"),
        (f"redis://:{MARK}@queue?virtual_host=2", "not known here"),  # Celery's
        (f"redis://:{MARK}@queue?ssl_ca_certs=/ca.pem", "not known here"),  # without TLS
        (f"redis://:{MARK}@queue?socket_timeout=0", "socket_timeout is a number of seconds"),
        (f"redis://:{MARK}@queue?socket_timeout=nan", "socket_timeout is a number of seconds"),
        (f"redis://queue?health_check_interval={MARK}", "health_check_interval is a whole number"),
        (f"redis://queue?socket_keepalive={MARK}", "socket_keepalive is true or false"),
        (f"redis://:{MARK}@queue?client_name=a%20b", "client_name is a word"),
        (f"unix://:{MARK}@run/r.sock", "three slashes"),
        (f"unix://?password={MARK}", "three slashes"),
        (f"unix://:{MARK}@/{'x' * 107}", "at most 107 bytes"),
        (f"unix://:{MARK}@/{'ä' * 54}", "at most 107 bytes"),
    ],
    ids=as_id,
)
def test_what_not_all_can_take_is_refused_without_the_password(url: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        load_settings(environment={"SORTLINE_BROKER": url})

    assert MARK not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [b"r.sock", b"C#", b"q?", b"50%41", b"a b", b"a;b", "ä日".encode(), b"\xff", b"'\"+&"])
def test_any_path_of_a_socket_goes_through_a_url(name: bytes) -> None:
    path = Path(os.fsdecode(b"/run/" + name))

    assert parse_broker_url(unix_url(path)).path == str(path)


def test_the_longest_path_of_a_socket_is_taken() -> None:
    assert len(parse_broker_url(f"unix:///{'x' * 106}").path) == 107
