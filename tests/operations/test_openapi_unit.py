"""The OpenAPI document follows from the routes, whoever contributes them."""

from __future__ import annotations

import json

import pytest

from precipiq_contracts.contribution import Contribution
from precipiq_contracts.errors import DeploymentError, Gone
from precipiq_core.http.endpoint import Endpoint
from precipiq_operations.openapi import openapi_document
from tests.http_site import PAGES, NoteOut, Site


def test_openapi_follows_from_the_endpoints() -> None:
    document = openapi_document(Site().routes, title="t", version="1")
    post = document["paths"]["/api/v1/notes"]["post"]
    get = document["paths"]["/api/v1/notes"]["get"]

    assert document["openapi"] == "3.1.0"
    assert (post["summary"], post["tags"], post["operationId"]) == ("Write a note", ["notes"], "notes_write")
    assert "scope `write`" in post["description"]
    assert "It stays." in post["description"]
    assert set(post["responses"]) == {"201", "401", "403", "408", "409", "413", "415", "422", "429", "500", "503"}
    assert post["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/NoteIn")
    assert [item["name"] for item in get["parameters"]] == ["limit", "agent", "metadata.KEY"]
    assert document["paths"]["/api/v1/notes/{id}"]["get"]["parameters"][0]["description"] == "a note's id"
    assert document["paths"]["/page"]["get"]["security"] == []
    json.dumps(document)


class OwnGone(Gone):
    code = "own_gone"


def test_openapi_tells_of_downloads_and_of_a_plugins_own_errors() -> None:
    endpoint = Endpoint(
        "GET", "/x", Site().read, "read", NoteOut, media_type="a/zip", is_download=True, errors=("own_gone",)
    )
    document = openapi_document([Contribution("notes", endpoint)], title="t", version="1")
    get = document["paths"]["/api/v1/x"]["get"]

    content = {"a/zip": {"schema": {"type": "string", "format": "binary"}}}
    assert [get["responses"][status].get("content") for status in ("200", "206", "304")] == [content, content, None]
    assert {"416", "410", "429"} <= set(get["responses"])
    assert "`own_gone`" in get["responses"]["410"]["description"]
    assert "Content-Range" in get["responses"]["206"]["headers"]
    assert [item["name"] for item in get["parameters"]] == ["Range", "If-Range", "If-None-Match"]


def test_openapi_refuses_a_code_that_no_error_has() -> None:
    endpoint = Endpoint("GET", "/x", Site().read, "read", NoteOut, errors=("own_gnoe",))

    with pytest.raises(DeploymentError, match="'own_gnoe', which no error has"):
        openapi_document([Contribution("notes", endpoint)], title="t", version="1")


def test_openapi_tells_of_pages_with_path_parameters() -> None:
    document = openapi_document(PAGES, title="t", version="1")
    get = document["paths"]["/.well-known/{org_id}/keys"]["get"]

    assert [(item["name"], item["description"]) for item in get["parameters"]] == [("org_id", "an organisation's id")]
    assert set(get["responses"]) == {"200", "404", "429"}
    assert set(document["paths"]["/page"]["get"]["responses"]) == {"200"}
