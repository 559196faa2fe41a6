"""A spec as a notebook shows it."""

from __future__ import annotations

import base64
import html

from encapkeras.errors import SpecError
from encapkeras.model.examine import examine_spec
from encapkeras.spec.spec import Spec
from encapkeras.summary.cost import batch_size_of, node_costs
from encapkeras.summary.diagram import diagram_of
from encapkeras.summary.drawing.svg import as_svg
from encapkeras.text import in_html

MOST_NODES = 1000  # in a picture


def as_html(spec: Spec) -> str | None:
    """Return the picture of a network as an element of HTML; the errors of a spec whose shapes do not fit.

    An image of its own, so that its style is not that of the page. None for a network that is too large to draw.

    Examples:
        >>> import encapkeras
        >>> as_html(encapkeras.load_spec("quickstart"))[:50]
        '<img alt="quickstart" style="max-width:100%" src="'
    """
    if len(spec.nodes) > MOST_NODES:
        return None
    try:
        network = examine_spec(spec)
    except SpecError as error:
        return f"<pre>{in_html(str(error))}</pre>"
    batch_size = batch_size_of(spec)
    picture = as_svg(diagram_of(network, node_costs(network, batch_size), batch_size))
    data = base64.b64encode(picture.encode()).decode()
    return f'<img alt="{html.escape(spec.name)}" style="max-width:100%" src="data:image/svg+xml;base64,{data}">'
