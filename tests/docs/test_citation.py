"""README's BibTeX says what CITATION.cff says."""

import re

import yaml
from support.pages import PROJECT, blocks


def test_bibtex_is_the_citation_file():
    [block] = blocks(PROJECT / "README.md", "bibtex")
    paper, software = (dict(re.findall(r"(\w+) += \{(.+)\}", entry)) for entry in block.text.split("@software"))
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    preferred = citation["preferred-citation"]
    names = [f"{author['family-names']}, {author['given-names']}" for author in preferred["authors"]]
    assert paper["author"].split(" and ") == names
    assert (paper["title"], paper["booktitle"]) == (preferred["title"], preferred["collection-title"])
    assert (int(paper["year"]), f"arXiv:{paper['eprint']}") == (preferred["year"], preferred["identifiers"][0]["value"])
    assert (software["title"], software["version"]) == (citation["title"], citation["version"])
    assert software["author"] == f"{{{citation['authors'][0]['name']}}}"
