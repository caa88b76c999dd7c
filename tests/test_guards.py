"""What must hold of the whole: layers, documented defaults, docs that name what is."""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import sktrm
from sktrm import TRMClassifier, TRMSolver

ROOT = Path(__file__).parents[1]
# Imports point down: a module may import from its own layer and those below.
LAYERS = [
    {"nn"},
    {
        "_asynchronous",
        "_device",
        "augmentation",
        "_inference",
        "_optimizers",
        "_progress",
        "_slots",
        "_compiling",
        "_stepping",
        "_guarding",
        "_training",
        "_tries",
    },
    {"_encoding", "_tables", "datasets", "metrics", "_base", "_checks", "_recipes"},
    {
        "_answers",
        "_choosing",
        "_classifier",
        "_pretrained",
        "_solver",
        "_table_answers",
        "_table_probes",
        "_table_task",
        "_task",
        "_tasks",
        "arc",
        "inspection",
    },
    {"__init__"},
]
NUMPY_ONLY = {"_encoding", "_tables", "datasets", "metrics"}
NO_ESTIMATORS = LAYERS[0] | LAYERS[1]


def modules():
    """Each module's first name below sktrm, and the names it imports."""
    for path in sorted((ROOT / "sktrm").rglob("*.py")):
        room = path.relative_to(ROOT / "sktrm").parts[0].removesuffix(".py")
        imports = []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imports += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                imports.append(node.module)
                if node.module == "sktrm":
                    imports += [f"sktrm.{alias.name}" for alias in node.names]
        yield path, room, imports


def layer(room):
    return next(i for i, rooms in enumerate(LAYERS) if room in rooms)


@pytest.mark.parametrize(
    ("path", "room", "imports"), list(modules()), ids=lambda v: str(v)[-20:]
)
def test_imports_point_down(path, room, imports):
    for name in imports:
        package, _, rest = name.partition(".")
        if package == "sktrm" and rest:
            assert layer(rest.split(".")[0]) <= layer(room), f"{path}: {name}"
        if room == "nn":
            assert package not in {"sklearn", "skorch", "numpy"}, f"{path}: {name}"
        if room in NUMPY_ONLY:
            assert package not in {"torch", "skorch"}, f"{path}: {name}"
        if room in NO_ESTIMATORS:
            assert not name.startswith("sklearn.base"), f"{path}: {name}"


def public_objects():
    """Every public class, function and method of the package."""
    names = ["sktrm"] + [
        info.name
        for info in pkgutil.walk_packages(sktrm.__path__, "sktrm.")
        if not any(part.startswith("_") for part in info.name.split("."))
    ]
    for name in names:
        module = importlib.import_module(name)
        for attribute in getattr(module, "__all__", ()):
            thing = getattr(module, attribute)
            if not callable(thing) or not getattr(thing, "__module__", "").startswith(
                "sktrm"
            ):
                continue
            yield f"{name}.{attribute}", thing
            if inspect.isclass(thing) and not name.startswith("sktrm.nn"):
                for method, value in vars(thing).items():
                    if inspect.isfunction(value) and not method.startswith("_"):
                        yield f"{name}.{attribute}.{method}", value


OBJECTS = dict(public_objects())


@pytest.mark.parametrize("name", OBJECTS)
def test_public_things_are_documented(name):
    thing = OBJECTS[name]
    assert thing.__doc__, f"{name} has no docstring"
    summary = thing.__doc__.strip().splitlines()[0]
    assert summary.endswith("."), f"{name}: the first line is no sentence"


def documented_defaults(doc):
    """Parameters of a numpydoc section and the defaults it states."""
    section = re.split(r"\n\s*(?:Returns|Attributes|Raises|Yields)\n\s*-+", doc)[0]
    pattern = r"^\s*([\w, ]+) : .*?default=(\S+|\(.*\))$"
    for names, default in re.findall(pattern, section, flags=re.MULTILINE):
        for name in names.split(", "):
            yield name, default.rstrip(",")


@pytest.mark.parametrize("name", OBJECTS)
def test_documented_defaults_are_those_of_the_signature(name):
    thing = OBJECTS[name]
    parameters = inspect.signature(thing).parameters
    for parameter, default in documented_defaults(thing.__doc__):
        expected = parameters[parameter].default
        shown = f'"{expected}"' if isinstance(expected, str) else str(expected)
        assert default == shown, (
            f"{name}: {parameter}={expected!r}, documented {default}"
        )


@pytest.mark.parametrize("estimator", [TRMSolver, TRMClassifier])
def test_every_parameter_is_documented_and_checked(estimator):
    documented = set(
        re.findall(r"^    (\w+) : ", estimator.__doc__, flags=re.MULTILINE)
    )
    parameters = set(estimator().get_params())
    assert parameters <= documented
    assert parameters == set(estimator._parameter_constraints)


def shortened(init):
    """Wrap an estimator's ``__init__`` such that training is cut short."""

    def short(self, **parameters):
        # Sizes that a page names stay: those of stored weights must fit these.
        small = {"hidden_size": 16, "n_heads": 1}
        short = {"max_epochs": 1, "n_supervision_steps": 1}
        init(self, **{**small, **parameters, **short})

    short.__signature__ = inspect.signature(init)
    return short


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/user_guide.md", "docs/tables.md", "docs/pipeline.md"],
)
def test_python_in_the_documents_runs(page, tmp_path, monkeypatch):
    """The code blocks of a page, in order, with training cut short."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for estimator in (TRMSolver, TRMClassifier):
        monkeypatch.setattr(estimator, "__init__", shortened(estimator.__init__))
    source = "\n".join(blocks)
    exec(compile(source, page, "exec"), {})


# Not those of environments and caches.
PAGES = [
    page
    for page in sorted(ROOT.rglob("*.md"))
    if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page}: {target}"
