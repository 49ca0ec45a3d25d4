"""The JSON of a project that older tools ask for, over the bases of an index, on the replica."""

from __future__ import annotations

import hashlib
import json

import pytest

from nodes import Client, wheel

pytestmark = pytest.mark.ours


def test_a_project_with_its_releases(index):
    replica = index.pair.replica
    contents = {}
    for version in ("1.0", "1.1", "2.0a1"):
        filename, contents[version] = wheel("some-pkg", version)
        more = {"summary": f"summary of {version}", "requires_dist": "other>1", "requires_python": ">=3.8"}
        assert index.upload(replica, "Some.Pkg", version, filename, contents[version], more).status == 200
    top = f"{index.user}/top"
    with index.client(replica) as client:
        client.expect(200, "PUT", f"/{top}", {"type": "stage", "bases": index.name})
        shown = client.expect(200, "GET", f"/{top}/pypi/Some.Pkg/json").json()
        one = client.expect(200, "GET", f"/{top}/pypi/some-pkg/1.0/json").json()
        assert client.expect(200, "GET", f"/{top}/some-pkg/json").json()["info"] == shown["info"]
        for absent in ("pypi/nothing/json", "pypi/some-pkg/9/json", "nothing/json"):
            client.expect(404, "GET", f"/{top}/{absent}")
    info = shown["info"]
    assert (info["name"], info["version"], info["summary"]) == ("Some.Pkg", "1.1", "summary of 1.1")
    assert (info["requires_dist"], info["requires_python"]) == (["other>1"], ">=3.8")
    assert list(shown["releases"]) == ["1.0", "1.1", "2.0a1"]
    assert shown["urls"] == shown["releases"]["1.1"]
    assert one["info"]["summary"] == "summary of 1.0" and "releases" not in one
    (file,) = one["urls"]
    content = contents["1.0"]
    assert file["digests"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert (file["size"], file["packagetype"], file["python_version"]) == (len(content), "bdist_wheel", "py3")
    assert file["upload_time_iso_8601"] == file["upload_time"] + "Z"
    with Client(replica.url) as client:
        assert client.expect(200, "GET", file["url"], headers={"Accept": "*/*"}).body == content


def test_a_tool_for_public_indexes_reads_it(index, tool):
    """qypi asks for `INDEX/P/json` and `INDEX/P/V/json` and knows no other interface."""
    for version in ("1.0", "1.1"):
        assert index.upload(index.pair.replica, "pkg", version, *wheel("pkg", version)).status == 200
    url = f"{index.pair.replica.url}/{index.name}/pypi"
    releases = json.loads(tool("qypi", "--index-url", url, "releases", "pkg").stdout)
    assert [release["version"] for release in releases["pkg"]] == ["1.0", "1.1"]
    (shown,) = json.loads(tool("qypi", "--index-url", url, "files", "pkg==1.0").stdout)
    assert [file["filename"] for file in shown["files"]] == ["pkg-1.0-py3-none-any.whl"]


def test_a_version_called_json_is_that_version(index):
    replica = index.pair.replica
    with index.client(replica) as client:
        form = b":action=submit&name=odd&version=json&summary=a+version"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert client.ask("POST", f"/{index.name}/", form, headers).status == 200
        assert client.expect(200, "GET", f"/{index.name}/odd/json").json()["type"] == "versiondata"


def test_a_closed_index_tells_its_readers_only(index):
    replica = index.pair.replica
    assert index.upload(replica, "pkg", "1.0", *wheel("pkg", "1.0")).status == 200
    with index.client(replica) as client:
        client.expect(200, "PATCH", f"/{index.name}", [f"acl_pkg_read={index.user}"])
        client.expect(200, "GET", f"/{index.name}/pypi/pkg/json")
        client.auth = None
        client.expect(401, "GET", f"/{index.name}/pypi/pkg/json")
        client.expect(401, "GET", f"/{index.name}/pypi/pkg/1.0/json")
