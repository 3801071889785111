"""XML element by element, without entities, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from data_tools.convert.records import annotation_file
from data_tools.convert.text_files import open_plain
from dfine_lib.data.images import DataError


class OtherXml(DataError):
    """An XML file of another kind; `tag` is its outermost element."""

    def __init__(self, file: Path, tag: str, wanted: str):
        self.tag = tag
        super().__init__(
            f"{file}: no <{wanted}> but <{tag[:40]}>: {_KINDS.get(tag, 'no annotation file that is known')}."
        )


_KINDS = {"annotation": "is it Pascal VOC? (--from voc)", "annotations": "is it CVAT's XML? (--from cvat)"}
DEEPEST, MOST_ELEMENTS = 64, 2_000_000  # levels; elements that are held at a time


def elements(
    file: Path, root: Path, tags: tuple[str, ...], follow_links: bool = False, outermost: str = ""
) -> Iterator[Element]:
    """Every element with one of the tags, complete; emptied when the next one is asked for.

    Raises:
        OtherXml: the outermost element is not `outermost`, where one is asked for.
        DataError: the file leaves `root`, is no XML, declares entities (a bomb, or a look into other files), or is
            nested deeper than any annotation file.
    """
    annotation_file(file, root, follow_links)
    open_elements: list[Element] = []
    held = 0
    try:
        for event, element in _events(file):
            if event == "start":
                if not open_elements and outermost not in ("", element.tag):
                    raise OtherXml(file, element.tag, outermost)
                open_elements.append(element)
                held += 1
                if len(open_elements) > DEEPEST:
                    raise DataError(f"{file}: nested too deeply for an annotation file. Export it again.")
                if held > MOST_ELEMENTS:
                    raise DataError(f"{file}: more than {MOST_ELEMENTS:,} elements in one <{open_elements[-2].tag}>.")
                continue
            open_elements.pop()
            if element.tag in tags:
                yield element
                element.clear()
                if open_elements:
                    open_elements[-1].remove(element)
                held = len(open_elements)
    except DefusedXmlException as error:
        raise DataError(
            f"{file}: declares entities or refers to other files ({type(error).__name__}), which no annotation file "
            "needs: not read."
        ) from error
    except ParseError as error:
        what = f"no valid XML: {error}" if file.stat().st_size else "the file is empty"
        raise DataError(f"{file}: {what}. Export it again.") from error
    except (OSError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: cannot be read: {error}.") from error


def _events(file: Path) -> Iterator[tuple[str, Element]]:
    with open_plain(file) as stream:
        yield from iterparse(stream, events=("start", "end"), forbid_external=True)


def child_text(element: Element, path: str) -> str | None:
    """Text of the first such child, None where there is none or it is empty."""
    found: Any = element.findtext(path)
    return found if found is not None and found.strip() else None
