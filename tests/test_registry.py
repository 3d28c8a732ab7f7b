"""One broken plugin hides no other, and every error says whose it is and what to do."""

import pickle
import warnings
from functools import partial

import pytest
from made import Options, module, plugin_class, provider
from made import plugins as made_plugins

from trimtab import hookimpl
from trimtab.core.errors import PluginError
from trimtab.plugins.admission import KINDS
from trimtab.plugins.registry import BrokenPluginWarning, Distribution, Entry, Plugins

ACME = Distribution("acme", "1.0")


@pytest.fixture
def plugins():
    return made_plugins()


def add(plugins, made, plugin="acme", distribution=ACME):
    plugins.add(plugin, distribution, lambda: made)


def add_broken(plugins, made, plugin="acme", distribution=ACME):
    load = made if callable(made) else lambda: made
    with pytest.warns(BrokenPluginWarning) as caught:
        plugins.add(plugin, distribution, load)
    return str(caught[0].message)


def fail():
    raise ImportError("no module named 'missing'")


def test_built_ins_come_through_the_hooks():
    plugins = Plugins(installed=False)
    assert plugins.broken == []
    objectives = ["dpo", "grpo", "kto", "ppo", "reinforce_pp", "reward_model", "rloo", "sft"]
    assert set(objectives) <= set(plugins.names("objective"))
    rewards = ["classifier", "function", "judge", "length"]
    rewards += ["missing_eos", "reward_model", "verifier"]
    assert plugins.names("reward") == rewards
    assert plugins.names("reference") == ["adapter_off", "model", "moving", "none", "precomputed"]
    sources = {"dataset", "rollouts", "rollout_pairs", "stream"}
    assert sources <= set(plugins.names("source"))
    assert plugins.make("objective", "dpo", {"beta": 0.3}).config.beta == 0.3


def test_with_no_built_in_objective_others_are_found():
    plugins = Plugins((), installed=False)
    add(plugins, provider(plugin_class("acme.simple")))
    assert plugins.names("objective") == ["acme.simple"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_hook(kind):
    plugins = Plugins((), installed=False)
    cls = plugin_class("acme.simple")
    add(plugins, provider(cls, kind=kind))
    assert plugins.find(kind, "acme.simple") is cls
    assert plugins.entries() == [Entry("acme.simple", kind, "acme", "1.0", "ok")]


def test_options_reach_the_instance_as_a_run_file_has_them(plugins):
    class Takes:
        name = "acme.takes"
        options = Options

        def __init__(self, config):
            self.config = config

    add(plugins, provider(Takes))
    made = plugins.make("objective", "acme.takes", {"strength": 1, "steps": [1, 2]})
    assert (made.config.strength, made.config.steps) == (1.0, (1, 2))


def test_unknown_name(plugins):
    with pytest.raises(PluginError) as caught:
        plugins.find("objective", "plian")
    assert str(caught.value) == (
        "no objective 'plian'. Did you mean 'plain'? Installed: other, plain."
    )
    with pytest.raises(PluginError, match="^no engine 'x'. Installed: none.$"):
        Plugins((), installed=False).find("engine", "x")


def test_name_of_another_kind(plugins):
    with pytest.raises(PluginError, match="no objective 'rows': that name is of kind source"):
        plugins.find("objective", "rows")


def test_broken_plugin_is_warned_of_and_the_others_work(plugins):
    said = add_broken(plugins, fail)
    assert said == (
        "the plugin 'acme' of acme 1.0 is broken: ImportError: no module named 'missing'"
    )
    add(plugins, provider(plugin_class("other.simple")), "other", Distribution("other", "2"))
    assert plugins.find("objective", "other.simple").name == "other.simple"
    assert plugins.find("objective", "plain").name == "plain"
    broken = [entry for entry in plugins.entries() if entry.state == "broken"]
    error = "ImportError: no module named 'missing'"
    assert broken == [Entry("acme", None, "acme", "1.0", "broken", error)]


def test_broken_plugin_is_an_error_where_it_is_selected(plugins):
    add_broken(plugins, fail)
    with pytest.raises(PluginError) as caught:
        plugins.find("objective", "acme.simple")
    assert str(caught.value) == (
        "no objective 'acme.simple': the plugin 'acme' of acme 1.0 is broken: "
        "ImportError: no module named 'missing'."
    )
    with pytest.raises(PluginError) as caught:
        plugins.find("objective", "plian")
    assert str(caught.value).endswith(
        "Installed: other, plain. Not loaded: the plugin 'acme' of acme 1.0 is broken: "
        "ImportError: no module named 'missing'."
    )


def test_a_plugin_that_exits_is_broken(plugins):
    assert "is broken: SystemExit: 3" in add_broken(plugins, partial(exit, 3))


@hookimpl
def provide_objectivs():
    return []


@hookimpl
def provide_objectives():
    raise RuntimeError("boom")


@hookimpl
def returns_a_class():
    return plugin_class("acme.simple")


@hookimpl
def returns_a_name():
    return ["acme.simple"]


@hookimpl
def step_ended(run, stepp):
    pass


def undecorated():
    return []


BROKEN = {
    "API": (
        module(trimtab_api=2),
        "it was written for plugin API 2, and this trimtab has API 1; "
        "install versions of the two that agree",
    ),
    "misspelt hook": (
        module(provide_objectivs=provide_objectivs),
        "it implements 'provide_objectivs', which is no hook. "
        "Did you mean 'provide_objectives'? Hooks: ",
    ),
    "wrong argument": (module(step_ended=step_ended), "Argument(s) {'stepp'} are declared"),
    "undecorated hook": (
        module(provide_rewards=undecorated),
        "its provide_rewards is not decorated; write @hookimpl above it",
    ),
    "no hook": (module(), "it implements no hook, such as provide_objectives"),
    "raises": (module(provide_objectives=provide_objectives), "RuntimeError: boom"),
    "a class": (
        module(provide_objectives=returns_a_class),
        "its provide_objectives returned <class 'made.Made'>; return a list of classes",
    ),
    "a name": (
        module(provide_objectives=returns_a_name),
        "its provide_objectives returned 'acme.simple', which is no class",
    ),
    "bare name": (
        provider(plugin_class("plain")),
        "the name 'plain' is bare, and bare names are ours; use a dotted one such as 'acme.plain'",
    ),
    "bad name": (
        provider(plugin_class("Acme.X")),
        "the name 'Acme.X' of Made does not fit; a name is lower-case letters, digits and _, "
        "once dotted: 'acme.simple'",
    ),
    "no name": (provider(plugin_class(None)), "Made has no name, such as 'acme.simple'"),
    "no options": (
        provider(plugin_class("acme.simple", None)),
        "Made has no options class; derive one from trimtab.Config",
    ),
}


@pytest.mark.parametrize("made, message", BROKEN.values(), ids=BROKEN)
def test_every_kind_of_fault_is_contained(plugins, made, message):
    said = add_broken(plugins, made)
    assert said.startswith("the plugin 'acme' of acme 1.0 is broken: ")
    assert message in said
    add(plugins, provider(plugin_class("other.simple")), "other")
    assert plugins.names("objective") == ["other", "other.simple", "plain"]
    assert not plugins.manager.is_registered(made)


def test_two_plugins_with_one_name(plugins):
    add(plugins, provider(plugin_class("acme.simple")), "a", Distribution("a", "1.0"))
    add(plugins, provider(plugin_class("acme.simple")), "b", Distribution("b", "2.0"))
    error = "two plugins provide the objective 'acme.simple': a 1.0 and b 2.0. Uninstall one."
    with pytest.raises(PluginError) as caught:
        plugins.find("objective", "acme.simple")
    assert str(caught.value) == error
    assert "acme.simple" not in plugins.names("objective")
    contested = [entry for entry in plugins.entries() if entry.name == "acme.simple"]
    assert [(entry.distribution, entry.state, entry.error) for entry in contested] == [
        ("a", "broken", error),
        ("b", "broken", error),
    ]


def test_two_entry_points_of_one_module(plugins):
    made = provider(plugin_class("acme.simple"))
    add(plugins, made, "a")
    assert "registered already, as 'acme:a'; keep one entry point" in add_broken(
        plugins, made, "b"
    )
    assert plugins.find("objective", "acme.simple").name == "acme.simple"


def test_hooks_observe(plugins):
    seen = []

    @hookimpl
    def step_ended(step, metrics):
        seen.append((step, metrics["loss"]))

    add(plugins, module(step_ended=step_ended))
    plugins.hook.step_ended(run=None, step=3, metrics={"loss": 0.5})
    assert seen == [(3, 0.5)]


FILE = """
from trimtab import Config, hookimpl

class Options(Config):
    "Options."

class Mine:
    name = {name!r}
    options = Options

@hookimpl
def provide_objectives():
    return [Mine]
"""


def test_a_file_is_a_plugin(plugins, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(name="my.simple"))
    plugins.add_file(path)
    plugins.add_file(path)  # again does nothing
    cls = plugins.find("objective", "my.simple")
    assert pickle.loads(pickle.dumps(cls.options())) == cls.options()
    assert plugins.provided("objective", "my.simple").distribution.name == str(path)


@pytest.mark.parametrize(
    "text, message",
    [
        (FILE.format(name="simple"), "use a dotted one such as 'mine.simple'"),
        ("import missing_module", "ModuleNotFoundError: No module named 'missing_module'"),
        ("def", "SyntaxError"),
        (None, "there is no such file"),
    ],
)
def test_a_broken_file(plugins, tmp_path, text, message):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PluginError) as caught:
        plugins.add_file(path)
    assert str(caught.value).startswith(f"the plugin file {path} is broken: ")
    assert message in str(caught.value)
    assert plugins.broken == []


def distribution(folder, name, entry_point, text):
    """An installed distribution with one entry point."""
    (folder / f"{name}_plugin.py").write_text(text)
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[trimtab]\n{entry_point} = {name}_plugin\n")


def test_installed_distributions(tmp_path, monkeypatch):
    distribution(tmp_path, "fine", "good", FILE.format(name="good.simple"))
    distribution(tmp_path, "wrong", "bad", "import missing_module")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(BrokenPluginWarning, match="^the plugin 'bad' of wrong 1.5 is broken: Mod"):
        plugins = Plugins(())
    entries = {entry.name: entry for entry in plugins.entries()}
    assert entries["good.simple"] == Entry("good.simple", "objective", "fine", "1.5", "ok")
    assert entries["bad"].distribution == "wrong"
    with pytest.raises(PluginError, match="no objective 'bad.simple': the plugin 'bad' of wrong"):
        plugins.find("objective", "bad.simple")


def test_nothing_is_warned_of_when_nothing_is_broken():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made_plugins()
