"""What zoo_weights/*.json says of the published checkpoints, one `Source` each."""

from dataclasses import dataclass, field
from typing import Any

import timm

from .. import _catalogue
from .._backbone import ALIASES

IMPORT = "python -m backbones.weights import"


@dataclass(frozen=True)
class Source:
    """A published checkpoint, or the place of one for a model that has none (`tag` "")."""

    model: str
    tag: str
    facts: dict[str, Any] = field(default_factory=dict)  # its record: url, host, file, sha256 ...
    dense: bool = False  # of a detector or segmentor, of which the backbone is loaded

    @property
    def name(self) -> str:
        return f"{self.model}.{self.tag}" if self.tag else self.model

    @property
    def url(self) -> str | None:
        """The direct link; None where a person has to fetch the file."""
        return None if self.facts.get("download_page") else self.facts.get("url")

    @property
    def page(self) -> str | None:
        return self.facts.get("download_page")

    @property
    def about(self) -> str:
        facts = self.facts
        return " ".join(str(facts[key]) for key in ("task", "method", "dataset") if facts.get(key))


def sources(model: str) -> list[Source]:
    """The checkpoints of a model of the zoo, timm's default first. Raises ValueError for an unknown model."""
    model = ALIASES.get(model, model)
    if model not in _catalogue._families():
        _catalogue.info(model)  # says which names are near
    record = _catalogue._records().get(model, ({}, {}))[1]
    found = [Source(model, tag, facts) for tag, facts in record.get("weights", {}).items()]
    found += [Source(model, tag, facts, dense=True) for tag, facts in record.get("dense", {}).items()]
    return found if record.get("weights") else [Source(model, timm.get_pretrained_cfg(model).tag or ""), *found]


def source(name: str) -> Source:
    """The checkpoint `model.tag`, or a model's default one. Raises ValueError naming the tags that there are."""
    model, _, tag = name.partition(".")
    found = sources(model)
    if not tag:
        return found[0]
    for entry in found:
        if entry.tag == tag:
            return entry
    raise ValueError(f'{model} has no weights "{tag}"; there are {", ".join(e.tag for e in found if e.tag) or "none"}')


def by_hand(entry: Source) -> str:
    """What to do for weights that nothing can download."""
    own = 'to load a file of your own, pass pretrained_cfg_overlay=dict(file="PATH")'
    if not entry.page:
        return f"no weights of {entry.name} were published; {own}"
    file = entry.facts.get("file")
    note = f" ({entry.facts['note']})" if entry.facts.get("note") else ""
    named = f"{file}" if file else "the file (its name was not published)"
    return (
        f"the weights of {entry.name} have no direct link: open {entry.page}{note} in a browser, save {named} and run\n"
        f"    {IMPORT} {file or 'FILE'} --model {entry.name}\n"
        f"after which pretrained=True finds them; {own}"
    )
