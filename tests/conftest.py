"""Shapes and types in signatures are checked at run time in every test."""

from jaxtyping import install_import_hook

install_import_hook("onward", "beartype.beartype")


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=5, help="how often a training is killed")
