"""Which URLs may stand where a folder does, and how paths below them are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from base.paths import below_root, path_to_text, text_to_path
from base.urls import SCHEMES, checked_url, decoded, is_url
from configs.errors import SettingsError
from configs.settings import Settings, load_settings
from tests.canaries import as_id, secret

SECRET = secret("url")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://bucket", "s3://bucket"),
        ("S3://Bucket/Photos/", "s3://Bucket/Photos"),
        ("s3://bucket/a b%20#c", "s3://bucket/a b%20#c"),
        ("gs://bucket/x", "gs://bucket/x"),
        ("memory://photos", "memory://photos"),
        ("HTTPS://Example.ORG:8443/Photos/", "https://example.org:8443/Photos"),
        ("http://example.org/a b/caf%c3%a9", "http://example.org/a%20b/caf%C3%A9"),
        ("http://127.0.0.1", "http://127.0.0.1"),
    ],
)
def test_a_url_has_one_form(given: str, url: str) -> None:
    assert checked_url(given) == url
    assert checked_url(url) == url


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("file:///etc", "file:// is not read; it may be s3://"),
        ("local:///etc", "is not read"),
        ("ftp://host/x", "is not read"),
        ("simplecache::s3://bucket", "not a URL"),
        ("zip://a.jpg::s3://bucket/a.zip", "chained"),
        ("s3://bucket/x::file:///etc", "chained"),
        (f"https://me:{SECRET}@host/x", "user or password"),
        (f"https://{SECRET}@host/x", "user or password"),
        (f"s3://key:{SECRET}@bucket", "user or password"),
        (f"https://host/x?X-Amz-Signature={SECRET}", "signed URL"),
        (f"s3://bucket/x?versionId={SECRET}", "signed URL"),
        (f"https://host/x#{SECRET}", "with a \\? in it"),
        ("https:///x", "proper host"),
        ("https://", "proper host"),
        ("s3://", "host or bucket"),
        ("https://host\\@other/x", "user or password"),
        ("https://host\\x/y", "proper host"),
        ("https://host:port/x", "proper host"),
        ("https://host:99999/x", "proper host"),
        ("https://ho st/x", "proper host"),
        ("https://host/a/../b", r"\.\. in its path"),
        ("https://host/a/%2e%2e/b", r"\.\. in its path"),
        ("https://host/a%2Fb", "%2F"),
        ("s3://bucket/./b", r"\.\. in its path"),
        ("https://host/a\nb", "control characters"),
    ],
    ids=as_id,
)
def test_other_urls_are_refused_and_what_they_may_hide_is_not_told(given: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        checked_url(given)

    assert SECRET not in str(refused.value)


def test_a_path_is_no_url() -> None:
    assert not any(map(is_url, ["photos", "/photos/a:b", "a:/b", "C:/x", "-", "", "./s3:/x"]))
    assert all(is_url(f"{scheme}://x") for scheme in [*SCHEMES, "file", "FTP"])


def test_names_of_web_addresses_are_shown_decoded_and_keys_of_stores_as_they_are() -> None:
    assert decoded("https://h/a%20b/%E9.png") == "https://h/a b/\udce9.png"
    assert decoded("s3://b/a%20b") == "s3://b/a%20b"


@pytest.mark.parametrize(
    ("path", "base", "root", "below"),
    [
        ("a.png", "/data/in", "/data", "in/a.png"),
        ("../../x.png", "/data/in", "/data", "../x.png"),
        ("a.png", "s3://b/in", "s3://b", "in/a.png"),
        ("", "s3://b/in", "s3://b", "in"),
        ("", "s3://b", "s3://b", ""),
        ("x/a b.png", "https://h/my%20photos", "https://h/my%20photos", "x/a b.png"),
        ("x.png", "https://h/my%20photos", "https://h", "my photos/x.png"),
        ("https://h/my photos/x.png", "", "https://h/my%20photos", "x.png"),
    ],
)
def test_a_message_carries_the_path_below_the_data_root(path: str, base: str, root: str, below: str) -> None:
    assert below_root(path, base, root) == below
    assert text_to_path(path_to_text(below)) == below


@pytest.mark.parametrize("path", ["https://h/photos2/x.png", "https://other/photos/x.png", "http://h/photos/x.png"])
def test_what_is_not_below_a_root_that_is_a_url_has_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="is not below https://h/photos"):
        below_root(path, "", "https://h/photos")


@pytest.mark.parametrize("layer", ["flags", "environment"])
def test_a_data_root_may_be_a_folder_or_a_url(layer: str, tmp_path: Path) -> None:
    def root(value: str) -> Path | str | None:
        given: dict[str, Any] = {"flags": {"data_root": value}, "environment": {}}
        if layer == "environment":
            given = {"environment": {"SORTLINE_DATA_ROOT": value}}
        return load_settings(None, **given).data_root

    assert root("s3://bucket/photos/") == "s3://bucket/photos"
    assert root(str(tmp_path)) == tmp_path
    assert root("photos") == Path("photos").absolute()


def test_settings_with_a_url_travel_to_another_process() -> None:
    settings = Settings(data_root="s3://bucket")

    assert Settings.model_validate(settings.model_dump(mode="json")).data_root == "s3://bucket"


def test_a_refused_data_root_is_not_shown() -> None:
    with pytest.raises(SettingsError, match=r"data_root.*user or password") as refused:
        load_settings(None, {}, {"SORTLINE_DATA_ROOT": f"https://me:{SECRET}@host/"})

    assert SECRET not in str(refused.value)
