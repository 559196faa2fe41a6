import base64
import re

from support.tiny_spec import tiny_spec

from encapkeras import load_spec
from encapkeras.analysis import Measurement, RoutingAnalysis
from encapkeras.summary import as_html


def picture_in(html):
    found = re.fullmatch(r'<img alt="(.*?)" style="max-width:100%" src="data:image/svg\+xml;base64,(.*)">', html)
    return found[1], base64.b64decode(found[2]).decode()


def test_a_spec_is_its_picture():
    name, picture = picture_in(load_spec({**tiny_spec(), "name": "a_b_c"})._repr_html_())
    assert name == "a_b_c" and picture.startswith("<svg") and "hidden" in picture


def test_a_spec_whose_shapes_do_not_fit_is_its_errors():
    spec = tiny_spec()
    spec["model"]["nodes"]["pool"]["pool_size"] = 64
    html = load_spec(spec)._repr_html_()
    assert html.startswith("<pre>") and "model.nodes.pool" in html


def test_a_sweep_is_the_picture_of_the_spec_without_it():
    spec = {**tiny_spec(), "sweep": {"grid": {"train.epochs": [1, 2]}}}
    assert "hidden" in picture_in(as_html(load_spec(spec)))[1]


def test_names_in_the_table_of_an_analysis_are_no_markup():
    means = [
        Measurement("my_<b>_$x$", "em", iteration, statistic, role, None, value, 4)
        for iteration, value in ((1, 0.25), (2, None))
        for statistic in ("agreement", "activation")
        for role in ("target", "other")
    ]
    votes = Measurement("my_<b>_$x$", "em", 1, "vote_length", "all", 0.0, 0.5, 4)
    html = RoutingAnalysis("epoch 5", "test", 1600, (*means, votes))._repr_html_()
    assert "epoch 5, 1,600 test images" in html and "vote_length" not in html and "<b>" not in html
    assert "<td>my_&lt;b&gt;_<span>$</span>x<span>$</span></td><td>em</td><td>1</td><td>target</td>" in html
    assert html.count("<tr>") == 1 + 4 and html.count("<td>0.2500</td>") == 4
