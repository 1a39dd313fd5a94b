"""Text as it stands in an OVF: escaped for XML, and for readers that edit the text before they parse it.

========================  ==================  ==============================================================
character                 written             why
========================  ==================  ==============================================================
``& < > "``               named reference     XML
tab, LF, CR               ``&#9;`` and so on  XML turns them into blanks in attributes; oVirt deletes CR and LF
                                              everywhere before it parses, references survive
``:`` after a ``:``       ``&#58;``           oVirt splits the listing of a directory of OVAs at each ``::``
``=`` after ``xmlns``     ``&#61;``           oVirt deletes ``xmlns=`` and all that follows it, up to the next
                                              blank or hyphen: markup too, when the words stand in a text
controls, surrogates,     refused             XML 1.0 has no way to write them
U+FFFE, U+FFFF
========================  ==================  ==============================================================

The oVirt rows: ovirt-engine's OvfHelper.format and GetFromOvaQuery.parseOvfs.
"""

from __future__ import annotations

import re

from ovafs.errors import InvalidDefinition

_SPECIAL = re.compile('[&<>"\t\n\r]|(?<=:):|(?<=xmlns)=|[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')

_REFERENCES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "\t": "&#9;",
    "\n": "&#10;",
    "\r": "&#13;",
    ":": "&#58;",
    "=": "&#61;",
}


def escape(text: str) -> str:
    """``text`` for an element or for an attribute in double quotes.

    Raises InvalidDefinition when it holds a character that XML cannot carry.
    """
    return _SPECIAL.sub(_reference, text)


def _reference(match: re.Match[str]) -> str:
    reference = _REFERENCES.get(match[0])
    if reference is None:
        raise InvalidDefinition(
            f"the text {match.string!a} holds the character U+{ord(match[0]):04X}, which XML cannot carry",
            "change the name or description that holds it",
        )
    return reference
